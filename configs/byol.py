"""BYOL (Grill et al. 2020, https://arxiv.org/abs/2006.07733).

Presets: digits, cifar10_cpu, cifar10, cifar10_solo, imagenet.
"""

from sslax import recipes
from sslax.methods.byol import BYOL
from sslax.models.resnet import ResNet
from sslax.ops.schedules import Ramp
from sslax.run.optim import Larc, Lars
from sslax.spec import spec


def head(*features):
  """Projector and predictor of the official code (Haiku's initialisation)."""
  return recipes.mlp(*features, final_bias=False, kernel_init='lecun')


def digits(config):
  """Handwritten digits on two CPU cores, minutes.

  python -m sslax.train --config=configs/byol.py:digits --workdir=runs/byol_digits

  Status: measured on 2026-11-22 in `sslax.compare` with 60 epochs, not 130, one seed: nearest centroid with 5 labels a class
  0.852 (raw pixels 0.845, random encoder 0.389).
  """
  recipes.digits(config, learning_rate=5e-3)
  config.method = spec(
    BYOL,
    encoder=recipes.digits_encoder(),
    head=head(128, 64),
    predictor=head(128, 64),
    augment=recipes.digits_views(),
    momentum=spec(Ramp, start=0.9, end=1.0),
  )


def cifar10_cpu(config):
  """A small ResNet on CIFAR-10 in minutes on two CPU cores.

  python -m sslax.train --config=configs/byol.py:cifar10_cpu --workdir=runs/byol_cpu \\
      --config.data.train='parquet:/data/cifar10/train-*' --config.data.test='parquet:/data/cifar10/test-*'

  Status: measured on 2026-11-22 in `sslax.compare` with 2 epochs instead of 6, 2 CPU cores: kNN 0.378 (k 200, T 0.1; raw pixels
  0.450, random encoder 0.300).
  """
  recipes.cifar10_cpu(config)
  config.method = spec(
    BYOL,
    encoder=recipes.cifar10_cpu_encoder(),
    head=head(512, 128),
    predictor=head(512, 128),
    augment=recipes.cifar10_cpu_views(),
    momentum=spec(Ramp, start=0.98, end=1.0),
  )


def cifar10(config):
  """lightly's CIFAR-10 table, batch 512, 200 epochs: kNN 0.868.

  python -m sslax.train --config=configs/byol.py:cifar10 --workdir=runs/byol_cifar10

  Source of recipe and number: lightly @ e8d317f, cifar10_benchmark.py and benchmarks.rst; see recipes.lightly_cifar10.
  Momentum 0.99 throughout; their loss is a quarter of this one (half the sum of negative cosines), hence a quarter of the
  weights'
  gradient: the learning rate here is theirs / 4.
  Status: shape-checked, not yet run.
  """
  recipes.lightly_cifar10(config, learning_rate=0.06 / 4)
  config.optim.weight_decay = 5e-4 * 4  # decay is rate x weight decay: theirs
  lightly = dict(bias=False, final_bias=True, kernel_init='torch')
  config.method = spec(
    BYOL,
    encoder=recipes.lightly_encoder(),
    head=recipes.mlp(1024, 256, **lightly),
    predictor=recipes.mlp(1024, 256, **lightly),
    augment=recipes.lightly_asymmetric(),
    momentum=0.99,
  )


def cifar10_solo(config):
  """solo-learn's CIFAR-10 table, batch 256, 1,000 epochs: online linear 92.58.

  python -m sslax.train --config=configs/byol.py:cifar10_solo --workdir=runs/byol_cifar10_solo

  Source of recipe and number: vturrisi/solo-learn @ 9187ea3, scripts/pretrain/cifar/byol.yaml; see recipes.solo_cifar10.
  Status: shape-checked, not yet run.
  """
  recipes.solo_cifar10(config, optimizer=Larc, learning_rate=1.0, weight_decay=1e-5)
  config.method = spec(
    BYOL,
    encoder=recipes.solo_encoder(),
    head=recipes.mlp(4096, 256),
    predictor=recipes.mlp(4096, 256),
    augment=recipes.solo_asymmetric(),
    momentum=spec(Ramp, start=0.99, end=1.0),
  )


def imagenet(config):
  """ResNet-50, 300 epochs: linear probe 72.5 (1,000 epochs, rate 0.2, weight decay 1.5e-6, momentum from 0.996: 74.3).

  python -m sslax.train --config=configs/byol.py:imagenet --workdir=runs/byol_imagenet

  The official code: batch 4096, LARS 0.3 x batch / 256, 10 epochs of warm-up, weight decay 1e-6, momentum from 0.99.
  Status: shape-checked, not yet run.
  """
  recipes.imagenet(config, batch_size=4096, epochs=300.0)
  config.method = spec(
    BYOL,
    encoder=spec(ResNet, depth=50, zero_init_residual=False, dtype='bfloat16'),
    head=head(4096, 256),
    predictor=head(4096, 256),
    augment=recipes.byol_views(),
    momentum=spec(Ramp, start=0.99, end=1.0),
    image=recipes.photos(),
  )
  config.optim = spec(Lars, learning_rate=0.3, warmup='10 epochs', weight_decay=1e-6)


PRESETS = recipes.presets(digits, cifar10_cpu, cifar10, cifar10_solo, imagenet)
get_config = recipes.get_config(PRESETS)
