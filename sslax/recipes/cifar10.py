"""CIFAR-10: minutes on two CPU cores, lightly's table, solo-learn's table."""

from typing import Any, TypeAlias

import ml_collections

from sslax.models.resnet import ResNet
from sslax.ops.views import RandomViews, TwoViews
from sslax.recipes.base import CIFAR10, IMAGENET
from sslax.run.optim import AdamW, Cosine, Larc, Sgd
from sslax.spec import spec

Config: TypeAlias = ml_collections.ConfigDict


# CIFAR-10 on two CPU cores.


def cifar10_cpu(config: Config, *, epochs: float = 6.0, learning_rate: float = 2e-3) -> None:
  """Data, length, optimizer of the `cifar10_cpu` presets: minutes on two cores."""
  config.data.train, config.data.test = 'tfds:cifar10@train', 'tfds:cifar10@test'
  config.batch_size, config.num_epochs = 256, epochs
  config.optim = spec(AdamW, learning_rate=learning_rate, scaling='none', warmup='5%', weight_decay=1e-4)
  config.checkpoint.every_steps = 200
  config.online.every_steps = 400


def cifar10_cpu_encoder(**changes: Any) -> Config:
  """A small ResNet, D = 128. The ImageNet stem halves the resolution twice: a sixth of the CIFAR stem's time on a CPU, and more
  images seen is worth more here.
  """
  return spec(ResNet, **{**dict(depth=18, stem='imagenet', stages=(1, 1, 1), base=32), **changes})


def cifar10_cpu_views(**changes: Any) -> Config:
  """SimCLR's views with half the colour strength, gentler crops, no blur."""
  fields = dict(size=32, area=(0.2, 1.0), interpolation='bilinear', jitter=(0.4, 0.4, 0.4, 0.1), blur_prob=0.0)
  return spec(RandomViews, **{**fields, **changes})


# lightly's CIFAR-10 table: lightly @ e8d317f, docs/source/getting_started/benchmarks/cifar10_benchmark.py and benchmarks.rst.


def lightly_cifar10(config: Config, *, learning_rate: float = 0.06, scale_rate: bool = True) -> None:
  """Batch 512, 200 epochs, SGD 0.06 x batch / 128, cosine once an epoch to 0, no warm-up, weight decay 5e-4 on every parameter;
  evaluated by kNN with k 200 and temperature 0.1 (they report the best epoch).
  """
  config.data.train, config.data.test = 'tfds:cifar10@train', 'tfds:cifar10@test'
  config.batch_size, config.num_epochs = 512, 200.0
  config.optim = spec(
    Sgd,
    learning_rate=learning_rate,
    scaling='linear' if scale_rate else 'none',
    reference_batch=128,
    warmup='0 steps',
    weight_decay=5e-4,
    exclude='',
    schedule=spec(Cosine, per_epoch=True),
  )
  config.checkpoint.every_steps = 970
  config.online.every_steps = 970


def lightly_encoder(**changes: Any) -> Config:
  """ResNet-18 with a 3x3 stem and no ReLU after it, a quirk of their backbone that belongs to the published numbers."""
  fields = dict(depth=18, stem='cifar', relu_after_stem=False, zero_init_residual=False, dtype='bfloat16')
  return spec(ResNet, **{**fields, **changes})


def lightly_views(**changes: Any) -> Config:
  """Two views as of SimCLR, without blur; ImageNet's mean and std also on CIFAR."""
  fields = dict(size=32, area=(0.08, 1.0), interpolation='bilinear', jitter=(0.4, 0.4, 0.4, 0.1), blur_prob=0.0, **IMAGENET)
  return spec(RandomViews, **{**fields, **changes})


def lightly_asymmetric(**changes: Any) -> Config:
  """Their views for BYOL, Barlow Twins and DINO: less saturation, solarize on the second with probability 0.2."""
  fields = {'count': 1, 'jitter': (0.4, 0.4, 0.2, 0.1), **changes}
  return spec(TwoViews, first=lightly_views(**fields), second=lightly_views(**fields, solarize_prob=0.2))


# solo-learn's CIFAR-10 table: vturrisi/solo-learn @ 9187ea3, scripts/pretrain/cifar/*.yaml and their augmentations.


def solo_cifar10(config: Config, *, optimizer: type, learning_rate: float, weight_decay: float) -> None:
  """Batch 256, 1,000 epochs, rate x batch / 256 with 10 epochs of warm-up from 3e-5 and a cosine to 0. LARS is theirs: trust
  coefficient 0.02, clipped at the rate, momentum outside. They report an online linear classifier after the last epoch.
  """
  config.data.train, config.data.test = 'tfds:cifar10@train', 'tfds:cifar10@test'
  config.batch_size, config.num_epochs = 256, 1000.0
  lars = dict(trust_coefficient=0.02, clip_lr=True) if optimizer is Larc else dict(exclude='')
  config.optim = spec(
    optimizer,
    learning_rate=learning_rate,
    scaling='linear',
    warmup='10 epochs',
    warmup_init=3e-5,
    weight_decay=weight_decay,
    **lars,
  )
  config.checkpoint.every_steps = 1950
  config.online.every_steps = 1950


def solo_encoder(**changes: Any) -> Config:
  """torchvision's ResNet-18 with a 3x3 stem. Theirs pads the stem by 2 (a first map of 34x34); here by 1."""
  return spec(ResNet, **{**dict(depth=18, stem='cifar', zero_init_residual=False, dtype='bfloat16'), **changes})


def solo_symmetric(**changes: Any) -> Config:
  """`symmetric.yaml`: two views for SimCLR, SupCon, SwAV. `symmetric_weak.yaml` has jitter=(0.4, 0.4, 0.4, 0.1)."""
  fields = dict(size=32, area=(0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), blur_prob=0.5, blur_kernel=13, **CIFAR10)
  return spec(RandomViews, **{**fields, **changes})


def solo_asymmetric(**changes: Any) -> Config:
  """`asymmetric.yaml`: for BYOL, Barlow Twins, DINO, MoCo v3, NNCLR."""
  fields = {'count': 1, 'jitter': (0.4, 0.4, 0.2, 0.1), 'blur_prob': 0.0, **changes}
  return spec(TwoViews, first=solo_symmetric(**fields), second=solo_symmetric(**fields, solarize_prob=0.2))
