"""Protocols that recipes share: the data, length, encoder, views and optimizer under which methods are compared.

A config file takes one and adds its method: what differs between two rows of a table is then what the file says.
"""

import ml_collections

from sslax.models.mlp import MLP
from sslax.models.resnet import ResNet
from sslax.ops.views import MultiCrop, RandomViews, TwoViews
from sslax.run.optim import Optimizer
from sslax.spec import spec

IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CIFAR10 = dict(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
Config = ml_collections.ConfigDict


# Handwritten digits on two CPU cores: 1,297 images of 8x8 pixels without their labels.


def digits(config: Config, *, epochs: float = 130.0, learning_rate: float = 1.5e-3) -> None:
  """Data, length, optimizer and evaluation of the `digits` presets: 1,300 steps of 128 images with AdamW."""
  config.data.train, config.data.test, config.data.image_size = 'digits:@train', 'digits:@test', 12
  config.batch_size, config.num_epochs = 128, epochs
  config.optim = spec(Optimizer, name='adamw', learning_rate=learning_rate, scaling='none', warmup='5%', weight_decay=1e-4)
  config.checkpoint.every_steps = 200
  config.online.every_steps = 200
  config.eval.knn_k = 20


def digits_encoder(**changes) -> Config:
  """A small ResNet for 12 pixels: D = 64."""
  return spec(ResNet, **{**dict(depth=18, stem='cifar', stages=(1, 1, 1), base=16), **changes})


def digits_views(**changes) -> Config:
  """Views that leave a digit what it is.

  A digit is a shape: nothing of it may change that would make it another digit. So no flips (2 and 5, 6 and 9), and no colours,
  as there are none. What differs between two writers of the same digit is slant, size, place, stroke width and pen pressure:
  shear, a rotation far below the angle that turns a 6 towards a 9, crops that keep at least half of the digit with a free aspect
  ratio, blur (stroke), brightness and contrast (pressure). Stronger crops and angles and erasing gave SimCLR less in short runs.
  """
  fields = dict(
    size=12,
    area=(0.5, 1.0),
    ratio=(0.7, 1.4),
    interpolation='bilinear',
    flip=0.0,
    jitter=(0.4, 0.4, 0.0, 0.0),
    gray_prob=0.0,
    blur_prob=0.5,
    blur_kernel=3,
    blur_sigma=(0.1, 1.5),
    rotate=20.0,
    shear=20.0,
  )
  return spec(RandomViews, **{**fields, **changes})


# CIFAR-10 on two CPU cores.


def cifar10_cpu(config: Config, *, epochs: float = 6.0, learning_rate: float = 2e-3) -> None:
  """Data, length, optimizer of the `cifar10_cpu` presets: minutes on two cores."""
  config.data.train, config.data.test, config.data.image_size = 'tfds:cifar10@train', 'tfds:cifar10@test', 32
  config.batch_size, config.num_epochs = 256, epochs
  config.optim = spec(Optimizer, name='adamw', learning_rate=learning_rate, scaling='none', warmup='5%', weight_decay=1e-4)
  config.checkpoint.every_steps = 200
  config.online.every_steps = 400


def cifar10_cpu_encoder(**changes) -> Config:
  """A small ResNet, D = 128. The ImageNet stem halves the resolution twice: a sixth of the CIFAR stem's time on a CPU, and more
  images seen is worth more here.
  """
  return spec(ResNet, **{**dict(depth=18, stem='imagenet', stages=(1, 1, 1), base=32), **changes})


def cifar10_cpu_views(**changes) -> Config:
  """SimCLR's views with half the colour strength, gentler crops, no blur."""
  fields = dict(size=32, area=(0.2, 1.0), interpolation='bilinear', jitter=(0.4, 0.4, 0.4, 0.1), blur_prob=0.0)
  return spec(RandomViews, **{**fields, **changes})


# lightly's CIFAR-10 table: lightly @ e8d317f, docs/source/getting_started/benchmarks/cifar10_benchmark.py and benchmarks.rst.


def lightly_cifar10(config: Config, *, learning_rate: float = 0.06, scale_rate: bool = True) -> None:
  """Batch 512, 200 epochs, SGD 0.06 x batch / 128, cosine once an epoch to 0, no warm-up, weight decay 5e-4 on every parameter;
  evaluated by kNN with k 200 and temperature 0.1 (they report the best epoch).
  """
  config.data.train, config.data.test, config.data.image_size = 'tfds:cifar10@train', 'tfds:cifar10@test', 32
  config.batch_size, config.num_epochs = 512, 200.0
  config.optim = spec(
    Optimizer,
    name='sgd',
    learning_rate=learning_rate,
    scaling='linear' if scale_rate else 'none',
    reference_batch=128,
    per_epoch=True,
    warmup='0 steps',
    weight_decay=5e-4,
    exclude='',
  )
  config.checkpoint.every_steps = 970
  config.online.every_steps = 970


def lightly_encoder(**changes) -> Config:
  """ResNet-18 with a 3x3 stem and no ReLU after it, a quirk of their backbone that belongs to the published numbers."""
  fields = dict(depth=18, stem='cifar', relu_after_stem=False, zero_init_residual=False, dtype='bfloat16')
  return spec(ResNet, **{**fields, **changes})


def lightly_views(**changes) -> Config:
  """Two views as of SimCLR, without blur; ImageNet's mean and std also on CIFAR."""
  fields = dict(size=32, area=(0.08, 1.0), interpolation='bilinear', jitter=(0.4, 0.4, 0.4, 0.1), blur_prob=0.0, **IMAGENET)
  return spec(RandomViews, **{**fields, **changes})


def lightly_asymmetric(**changes) -> Config:
  """Their views for BYOL, Barlow Twins and DINO: less saturation, solarize on the second with probability 0.2."""
  fields = {'count': 1, 'jitter': (0.4, 0.4, 0.2, 0.1), **changes}
  return spec(TwoViews, first=lightly_views(**fields), second=lightly_views(**fields, solarize_prob=0.2))


# solo-learn's CIFAR-10 table: vturrisi/solo-learn @ 9187ea3, scripts/pretrain/cifar/*.yaml and their augmentations.


def solo_cifar10(config: Config, *, name: str, learning_rate: float, weight_decay: float) -> None:
  """Batch 256, 1,000 epochs, rate x batch / 256 with 10 epochs of warm-up from 3e-5 and a cosine to 0. LARS is theirs: trust
  coefficient 0.02, clipped at the rate, momentum outside. They report an online linear classifier after the last epoch.
  """
  config.data.train, config.data.test, config.data.image_size = 'tfds:cifar10@train', 'tfds:cifar10@test', 32
  config.batch_size, config.num_epochs = 256, 1000.0
  lars = dict(trust_coefficient=0.02, clip_lr=True) if name == 'larc' else dict(exclude='')
  config.optim = spec(
    Optimizer,
    name=name,
    learning_rate=learning_rate,
    scaling='linear',
    warmup='10 epochs',
    warmup_init=3e-5,
    weight_decay=weight_decay,
    **lars,
  )
  config.checkpoint.every_steps = 1950
  config.online.every_steps = 1950


def solo_encoder(**changes) -> Config:
  """torchvision's ResNet-18 with a 3x3 stem. Theirs pads the stem by 2 (a first map of 34x34); here by 1."""
  return spec(ResNet, **{**dict(depth=18, stem='cifar', zero_init_residual=False, dtype='bfloat16'), **changes})


def solo_symmetric(**changes) -> Config:
  """`symmetric.yaml`: two views for SimCLR, SupCon, SwAV. `symmetric_weak.yaml` has jitter=(0.4, 0.4, 0.4, 0.1)."""
  fields = dict(size=32, area=(0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), blur_prob=0.5, blur_kernel=13, **CIFAR10)
  return spec(RandomViews, **{**fields, **changes})


def solo_asymmetric(**changes) -> Config:
  """`asymmetric.yaml`: for BYOL, Barlow Twins, DINO, MoCo v3, NNCLR."""
  fields = {'count': 1, 'jitter': (0.4, 0.4, 0.2, 0.1), 'blur_prob': 0.0, **changes}
  return spec(TwoViews, first=solo_symmetric(**fields), second=solo_symmetric(**fields, solarize_prob=0.2))


# ImageNet.


def imagenet(config: Config, *, batch_size: int, epochs: float) -> None:
  """Data and length: crops of 224 pixels cut by the host, evaluation at 256 -> 224."""
  config.data.train, config.data.test = 'tfds:imagenet2012@train', 'tfds:imagenet2012@validation'
  config.data.image_size, config.data.eval_resize, config.data.crop_on = 224, 256, 'host'
  config.batch_size, config.num_epochs = batch_size, epochs


def byol_views(area: tuple[float, float] = (0.08, 1.0)) -> Config:
  """BYOL's two distributions (Grill et al. 2020, table 6), also of Barlow Twins, VICReg and MoCo v3."""
  fields = dict(count=1, area=area, jitter=(0.4, 0.4, 0.2, 0.1), **IMAGENET)
  return spec(
    TwoViews,
    first=spec(RandomViews, blur_prob=1.0, **fields),
    second=spec(RandomViews, blur_prob=0.1, solarize_prob=0.2, **fields),
  )


def dino_views(large: tuple[float, float], small: tuple[float, float], *, count: int = 8, size: int = 96) -> Config:
  """DINO's two crops of 224 pixels and `count` small ones, of which the recipes choose the areas; also iBOT's and DINOv2's."""
  fields = dict(jitter=(0.4, 0.4, 0.2, 0.1), **IMAGENET)
  first = spec(RandomViews, count=1, area=large, blur_prob=1.0, **fields)
  second = spec(RandomViews, count=1, area=large, blur_prob=0.1, solarize_prob=0.2, **fields)
  local = spec(RandomViews, count=count, size=size, area=small, blur_prob=0.5, blur_kernel=23, **fields)
  return spec(MultiCrop, large=spec(TwoViews, first=first, second=second), small=local)


def moco_v2_views(**changes) -> Config:
  """MoCo v2's and SimSiam's two views."""
  return spec(RandomViews, **{**dict(area=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), **IMAGENET), **changes})


def mlp(*features: int, **changes) -> Config:
  """An MLP head; see `sslax.models.mlp` for the papers'."""
  return spec(MLP, features=features, **changes)
