"""Recipes: the data, length, encoder, views and optimizer under which methods are compared.

A config file takes one and adds its method: what differs between two rows of a table is then what the file says.
"""

from sslax.recipes.base import CIFAR10, IMAGENET, base_config, get_config, mlp, presets
from sslax.recipes.cifar10 import (
  cifar10_cpu,
  cifar10_cpu_encoder,
  cifar10_cpu_views,
  lightly_asymmetric,
  lightly_cifar10,
  lightly_encoder,
  lightly_views,
  solo_asymmetric,
  solo_cifar10,
  solo_encoder,
  solo_symmetric,
)
from sslax.recipes.digits import digits, digits_encoder, digits_views
from sslax.recipes.imagenet import byol_views, dino_views, imagenet, moco_v2_views, photos

__all__ = [
  'CIFAR10',
  'IMAGENET',
  'base_config',
  'byol_views',
  'cifar10_cpu',
  'cifar10_cpu_encoder',
  'cifar10_cpu_views',
  'digits',
  'digits_encoder',
  'digits_views',
  'dino_views',
  'get_config',
  'imagenet',
  'lightly_asymmetric',
  'lightly_cifar10',
  'lightly_encoder',
  'lightly_views',
  'mlp',
  'moco_v2_views',
  'photos',
  'presets',
  'solo_asymmetric',
  'solo_cifar10',
  'solo_encoder',
  'solo_symmetric',
]
