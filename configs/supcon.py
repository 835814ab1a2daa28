"""Supervised contrastive learning (Khosla et al. 2020, https://arxiv.org/abs/2004.11362). It learns from labels.

Presets: digits, cifar10_cpu, cifar10, imagenet.
"""

from sslax import recipes
from sslax.methods.supcon import SupCon
from sslax.models.resnet import ResNet
from sslax.ops.views import RandomViews
from sslax.run.optim import Cosine, Lars, Sgd
from sslax.spec import spec


def digits(config):
  """Handwritten digits on two CPU cores, minutes.

  python -m sslax.train --config=configs/supcon.py:digits --workdir=runs/supcon_digits

  Status: measured on 2026-11-22 in `sslax.compare` with 60 epochs, not 130, one seed: nearest centroid with 5 labels a class
  0.946 (raw pixels 0.845, random encoder 0.389); it learns from the labels.
  """
  recipes.digits(config)
  config.method = spec(
    SupCon,
    encoder=recipes.digits_encoder(),
    head=recipes.mlp(64, 64, norm='none'),
    augment=recipes.digits_views(),
    temperature=0.1,
  )


def cifar10_cpu(config):
  """A small ResNet on CIFAR-10 in minutes on two CPU cores.

  python -m sslax.train --config=configs/supcon.py:cifar10_cpu --workdir=runs/supcon_cpu \\
      --config.data.train='parquet:/data/cifar10/train-*' --config.data.test='parquet:/data/cifar10/test-*'

  Status: not yet measured.
  """
  recipes.cifar10_cpu(config)
  config.method = spec(
    SupCon,
    encoder=recipes.cifar10_cpu_encoder(),
    head=recipes.mlp(128, 128, norm='none'),
    augment=recipes.cifar10_cpu_views(),
    temperature=0.1,
  )


def cifar10(config):
  """The official CIFAR-10 recipe, ResNet-50, 1,000 epochs: linear probe 96.0.

  python -m sslax.train --config=configs/supcon.py:cifar10 --workdir=runs/supcon_cifar10

  HobbitLong/SupContrast: batch 1024, SGD 0.5, weight decay 1e-4, temperature 0.1, 10 epochs of warm-up from 0.01, cosine to a
  thousandth.
  Their loss has a factor 0.1 / 0.07, which is in the rate here and taken out of the weight decay.
  Status: shape-checked, not yet run.
  """
  recipes.lightly_cifar10(config)
  config.batch_size, config.num_epochs = 1024, 1000.0
  augment = spec(
    RandomViews,
    size=32,
    area=(0.2, 1.0),
    interpolation='bilinear',
    jitter=(0.4, 0.4, 0.4, 0.1),
    blur_prob=0.0,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
  )
  config.method = spec(
    SupCon,
    encoder=spec(ResNet, depth=50, stem='cifar', zero_init_residual=False, dtype='bfloat16'),
    head=recipes.mlp(2048, 128, norm='none'),
    augment=augment,
    temperature=0.1,
  )
  config.optim = spec(
    Sgd,
    learning_rate=0.5 / 0.7,
    scaling='none',
    warmup='10 epochs',
    warmup_init=0.01,
    weight_decay=1e-4 * 0.7,
    exclude='',
    schedule=spec(Cosine, end_fraction=0.001),
  )


def imagenet(config):
  """ResNet-50, 350 epochs: linear probe 78.7 (with AutoAugment; SimCLR's views here).

  python -m sslax.train --config=configs/supcon.py:imagenet --workdir=runs/supcon_imagenet

  The paper: batch 6144, LARS, temperature 0.1. Its learning rate is not in our sources: SimCLR's 0.3 x batch / 256 is taken.
  Status: shape-checked, not yet run.
  """
  recipes.imagenet(config, batch_size=6144, epochs=350.0)
  config.method = spec(
    SupCon,
    encoder=spec(ResNet, depth=50, dtype='bfloat16'),
    head=recipes.mlp(2048, 128, norm='none'),
    augment=spec(RandomViews),
    temperature=0.1,
    image=recipes.photos(),
  )
  config.optim = spec(Lars, learning_rate=0.3, warmup='10 epochs', weight_decay=1e-6)


PRESETS = recipes.presets(digits, cifar10_cpu, cifar10, imagenet)
get_config = recipes.get_config(PRESETS)
