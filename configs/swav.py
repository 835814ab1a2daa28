"""SwAV (Caron et al. 2020, https://arxiv.org/abs/2006.09882).

Presets: digits, cifar10_cpu, cifar10, cifar10_solo, imagenet.
"""

from sslax import recipes
from sslax.methods.swav import SwAV
from sslax.models.prototypes import Prototypes
from sslax.models.resnet import ResNet
from sslax.ops.schedules import Ramp
from sslax.ops.views import MultiCrop, RandomViews
from sslax.run.optim import Adam, Cosine, Larc
from sslax.spec import spec


def digits(config):
  """Handwritten digits on two CPU cores, minutes.

  python -m sslax.train --config=configs/swav.py:digits --workdir=runs/swav_digits

  Status: measured on 2026-11-22, one seed, 3.5 minutes: nearest centroid with 5 labels a class 0.907 +- 0.018 (raw pixels 0.845,
  random encoder 0.389); with 60 epochs 0.829.
  """
  recipes.digits(config)
  config.method = spec(
    SwAV,
    encoder=recipes.digits_encoder(),
    head=recipes.mlp(64, 64),
    prototypes=spec(Prototypes, count=32),
    epsilon=0.03,
    augment=spec(MultiCrop, large=recipes.digits_views()),
    train_prototypes=spec(Ramp, start=0.0, end=1.0, shape='step', duration='1 epochs'),
  )


def cifar10_cpu(config):
  """A small ResNet on CIFAR-10 in minutes on two CPU cores.

  python -m sslax.train --config=configs/swav.py:cifar10_cpu --workdir=runs/swav_cpu \\
      --config.data.train='parquet:/data/cifar10/train-*' --config.data.test='parquet:/data/cifar10/test-*'

  Status: measured on 2026-11-22 in `sslax.compare` with 2 epochs instead of 6, 2 CPU cores: kNN 0.394 (k 200, T 0.1; raw pixels
  0.450, random encoder 0.300).
  """
  recipes.cifar10_cpu(config)
  config.method = spec(
    SwAV,
    encoder=recipes.cifar10_cpu_encoder(),
    head=recipes.mlp(128, 128),
    prototypes=spec(Prototypes, count=256),
    augment=spec(MultiCrop, large=recipes.cifar10_cpu_views()),
    train_prototypes=spec(Ramp, start=0.0, end=1.0, shape='step', duration='20 steps'),
  )


def cifar10(config):
  """lightly's CIFAR-10 table, batch 512, 200 epochs: kNN 0.842.

  python -m sslax.train --config=configs/swav.py:cifar10 --workdir=runs/swav_cifar10

  Source of recipe and number: lightly @ e8d317f, cifar10_benchmark.py and benchmarks.rst; see recipes.lightly_cifar10.
  Adam 1e-3 x batch / 128, weight decay 1e-6, 512 prototypes.
  Status: shape-checked, not yet run.
  """
  recipes.lightly_cifar10(config)
  config.optim = spec(
    Adam,
    learning_rate=1e-3,
    reference_batch=128,
    warmup='0 steps',
    weight_decay=1e-6,
    exclude='',
    schedule=spec(Cosine, per_epoch=True),
  )
  config.method = spec(
    SwAV,
    encoder=recipes.lightly_encoder(),
    head=recipes.mlp(512, 128),
    prototypes=spec(Prototypes, count=512),
    augment=spec(MultiCrop, large=recipes.lightly_views(area=(0.14, 1.0))),
    train_prototypes=spec(Ramp, start=0.0, end=1.0, shape='step', duration='0 steps'),
  )


def cifar10_solo(config):
  """solo-learn's CIFAR-10 table, batch 256, 1,000 epochs: online linear 89.17.

  python -m sslax.train --config=configs/swav.py:cifar10_solo --workdir=runs/swav_cifar10_solo

  Source of recipe and number: vturrisi/solo-learn @ 9187ea3, scripts/pretrain/cifar/swav.yaml; see recipes.solo_cifar10.
  Status: shape-checked, not yet run.
  """
  recipes.solo_cifar10(config, optimizer=Larc, learning_rate=0.6, weight_decay=1e-6)
  config.method = spec(
    SwAV,
    encoder=recipes.solo_encoder(),
    head=recipes.mlp(2048, 128),
    prototypes=spec(Prototypes, count=3000),
    augment=spec(MultiCrop, large=recipes.solo_symmetric()),
    queue_size=3840,
    queue_from=spec(Ramp, start=0.0, end=1.0, shape='step', duration='50 epochs'),
    train_prototypes=spec(Ramp, start=0.0, end=1.0, shape='step', duration='2 epochs'),
  )


def imagenet(config):
  """ResNet-50, 400 epochs, 2x224 + 6x96: linear probe 74.6 (100 epochs 72.1, 200 epochs 73.9, 800 epochs 75.3).

  python -m sslax.train --config=configs/swav.py:imagenet --workdir=runs/swav_imagenet

  The official code: batch 4096, LARC 4.8 (from 0.3 in 10 epochs) to 0.0048, weight decay 1e-6 on everything. The std of the
  red channel is
  0.228 there.
  Status: shape-checked, not yet run.
  """
  recipes.imagenet(config, batch_size=4096, epochs=400.0)
  views = dict(jitter=(0.8, 0.8, 0.8, 0.2), mean=(0.485, 0.456, 0.406), std=(0.228, 0.224, 0.225))
  augment = spec(
    MultiCrop,
    large=spec(RandomViews, area=(0.14, 1.0), **views),
    small=spec(RandomViews, count=6, size=96, area=(0.05, 0.14), blur_kernel=23, **views),
  )
  config.method = spec(
    SwAV,
    encoder=spec(ResNet, depth=50, zero_init_residual=False, dtype='bfloat16'),
    head=recipes.mlp(2048, 128),
    prototypes=spec(Prototypes, count=3000),
    augment=augment,
    train_prototypes=spec(Ramp, start=0.0, end=1.0, shape='step', duration='313 steps'),
    image=recipes.photos(),
  )
  config.optim = spec(
    Larc,
    learning_rate=4.8,
    scaling='none',
    warmup='10 epochs',
    warmup_init=0.3,
    weight_decay=1e-6,
    exclude='',
    schedule=spec(Cosine, end_fraction=0.001),
  )


PRESETS = recipes.presets(digits, cifar10_cpu, cifar10, cifar10_solo, imagenet)
get_config = recipes.get_config(PRESETS)
