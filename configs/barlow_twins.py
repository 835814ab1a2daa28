"""Barlow Twins (Zbontar et al. 2021, https://arxiv.org/abs/2103.03230).

Presets: digits, cifar10_cpu, cifar10, cifar10_solo, imagenet.
"""

from sslax import recipes
from sslax.methods.barlow_twins import BarlowTwins
from sslax.models.resnet import ResNet
from sslax.run.optim import EXCLUDE, Cosine, Larc, Lars
from sslax.spec import spec


def projector(*features):
  """No biases; BatchNorm and ReLU between. The loss standardises what comes out."""
  return recipes.mlp(*features, bias=False, final_bias=False)


def digits(config):
  """Handwritten digits on two CPU cores, minutes.

  python -m sslax.train --config=configs/barlow_twins.py:digits --workdir=runs/barlow_twins_digits

  Status: measured on 2026-11-22 in `sslax.compare` with 60 epochs, not 130, one seed: nearest centroid with 5 labels a class
  0.881 (raw pixels 0.845, random encoder 0.389).
  """
  recipes.digits(config)
  config.method = spec(
    BarlowTwins,
    encoder=recipes.digits_encoder(),
    head=projector(256, 256),
    augment=recipes.digits_views(),
    off_diagonal_weight=0.01,
    loss_scale=0.1,
  )


def cifar10_cpu(config):
  """A small ResNet on CIFAR-10 in minutes on two CPU cores.

  python -m sslax.train --config=configs/barlow_twins.py:cifar10_cpu --workdir=runs/barlow_twins_cpu \\
      --config.data.train='parquet:/data/cifar10/train-*' --config.data.test='parquet:/data/cifar10/test-*'

  Status: measured on 2026-11-22 in `sslax.compare` with 2 epochs instead of 6, 2 CPU cores: kNN 0.425 (k 200, T 0.1; raw pixels
  0.450, random encoder 0.300).
  """
  recipes.cifar10_cpu(config)
  config.method = spec(
    BarlowTwins,
    encoder=recipes.cifar10_cpu_encoder(),
    head=projector(512, 512),
    augment=recipes.cifar10_cpu_views(),
    off_diagonal_weight=0.005,
    loss_scale=0.1,
  )


def cifar10(config):
  """lightly's CIFAR-10 table, batch 512, 200 epochs: kNN 0.819.

  python -m sslax.train --config=configs/barlow_twins.py:cifar10 --workdir=runs/barlow_twins_cifar10

  Source of recipe and number: lightly @ e8d317f, cifar10_benchmark.py and benchmarks.rst; see recipes.lightly_cifar10.
  Status: shape-checked, not yet run.
  """
  recipes.lightly_cifar10(config)
  config.method = spec(
    BarlowTwins,
    encoder=recipes.lightly_encoder(),
    head=recipes.mlp(2048, 2048, bias=False),
    augment=recipes.lightly_asymmetric(),
    off_diagonal_weight=5e-3,
  )


def cifar10_solo(config):
  """solo-learn's CIFAR-10 table, batch 256, 1,000 epochs: online linear 92.10.

  python -m sslax.train --config=configs/barlow_twins.py:cifar10_solo --workdir=runs/barlow_twins_cifar10_solo

  Source of recipe and number: vturrisi/solo-learn @ 9187ea3, scripts/pretrain/cifar/barlow.yaml; see recipes.solo_cifar10.
  Status: shape-checked, not yet run.
  """
  recipes.solo_cifar10(config, optimizer=Larc, learning_rate=0.3, weight_decay=1e-4)
  config.method = spec(
    BarlowTwins,
    encoder=recipes.solo_encoder(),
    head=recipes.mlp(2048, 2048, 2048),
    augment=recipes.solo_asymmetric(),
    off_diagonal_weight=0.0051,
    loss_scale=0.1,
  )


def imagenet(config):
  """ResNet-50, 1,000 epochs: linear probe 73.5.

  python -m sslax.train --config=configs/barlow_twins.py:imagenet --workdir=runs/barlow_twins_imagenet

  The official code: batch 2048, LARS, rate 0.2 x batch / 256 for weights and 0.0048 x batch / 256 for biases and BatchNorm,
  10 epochs of
  warm-up, cosine to a thousandth.
  Status: shape-checked, not yet run.
  """
  recipes.imagenet(config, batch_size=2048, epochs=1000.0)
  config.method = spec(
    BarlowTwins,
    encoder=spec(ResNet, depth=50, dtype='bfloat16'),
    head=projector(8192, 8192, 8192),
    augment=recipes.byol_views(),
    off_diagonal_weight=0.0051,
    image=recipes.photos(),
  )
  config.optim = spec(
    Lars,
    learning_rate=0.2,
    warmup='10 epochs',
    weight_decay=1e-6,
    groups=((EXCLUDE, 0.0048 / 0.2, 1.0), ('', 1.0, 1.0)),
    schedule=spec(Cosine, end_fraction=0.001),
  )


PRESETS = recipes.presets(digits, cifar10_cpu, cifar10, cifar10_solo, imagenet)
get_config = recipes.get_config(PRESETS)
