"""NNCLR (Dwibedi et al. 2021, https://arxiv.org/abs/2104.14548).

Presets: digits, cifar10_cpu, cifar10, cifar10_solo, imagenet.
"""

from sslax import recipes
from sslax.methods.nnclr import NNCLR
from sslax.models.resnet import ResNet
from sslax.run.optim import Larc, Lars
from sslax.spec import spec


def projector(*features):
  """BatchNorm after every layer."""
  return recipes.mlp(*features, final_norm='bn')


def digits(config):
  """Handwritten digits on two CPU cores, minutes.

  python -m sslax.train --config=configs/nnclr.py:digits --workdir=runs/nnclr_digits

  Status: measured on 2026-11-22 in `sslax.compare` with 60 epochs, not 130, one seed: nearest centroid with 5 labels a class
  0.909 (raw pixels 0.845, random encoder 0.389).
  """
  recipes.digits(config, learning_rate=4e-3)
  config.method = spec(
    NNCLR,
    encoder=recipes.digits_encoder(),
    head=projector(128, 64),
    predictor=recipes.mlp(128, 64),
    augment=recipes.digits_views(),
    queue_size=1024,
    temperature=0.2,
  )


def cifar10_cpu(config):
  """A small ResNet on CIFAR-10 in minutes on two CPU cores.

  python -m sslax.train --config=configs/nnclr.py:cifar10_cpu --workdir=runs/nnclr_cpu \\
      --config.data.train='parquet:/data/cifar10/train-*' --config.data.test='parquet:/data/cifar10/test-*'

  Status: not yet measured.
  """
  recipes.cifar10_cpu(config)
  config.method = spec(
    NNCLR,
    encoder=recipes.cifar10_cpu_encoder(),
    head=projector(256, 128),
    predictor=recipes.mlp(256, 128),
    augment=recipes.cifar10_cpu_views(),
    queue_size=4096,
    temperature=0.2,
  )


def cifar10(config):
  """lightly's CIFAR-10 table, batch 512, 200 epochs: kNN 0.815.

  python -m sslax.train --config=configs/nnclr.py:cifar10 --workdir=runs/nnclr_cifar10

  Source of recipe and number: lightly @ e8d317f, cifar10_benchmark.py and benchmarks.rst; see recipes.lightly_cifar10.
  Their NT-Xent counts all other views as negatives; here the predictions of the batch, as in the paper.
  Status: shape-checked, not yet run.
  """
  recipes.lightly_cifar10(config)
  config.method = spec(
    NNCLR,
    encoder=recipes.lightly_encoder(),
    head=projector(2048, 256),
    predictor=recipes.mlp(4096, 256),
    augment=recipes.lightly_views(),
    queue_size=8192,
    temperature=0.5,
  )


def cifar10_solo(config):
  """solo-learn's CIFAR-10 table, batch 256, 1,000 epochs: online linear 91.88.

  python -m sslax.train --config=configs/nnclr.py:cifar10_solo --workdir=runs/nnclr_cifar10_solo

  Source of recipe and number: vturrisi/solo-learn @ 9187ea3, scripts/pretrain/cifar/nnclr.yaml; see recipes.solo_cifar10.
  Status: shape-checked, not yet run.
  """
  recipes.solo_cifar10(config, optimizer=Larc, learning_rate=0.4, weight_decay=1e-5)
  config.method = spec(
    NNCLR,
    encoder=recipes.solo_encoder(),
    head=recipes.mlp(2048, 2048, 256, final_norm='bn'),
    predictor=recipes.mlp(4096, 256),
    augment=recipes.solo_asymmetric(),
    queue_size=65536,
    temperature=0.2,
  )


def imagenet(config):
  """ResNet-50, 1,000 epochs: linear probe 75.6 (the paper's abstract, from memory).

  python -m sslax.train --config=configs/nnclr.py:imagenet --workdir=runs/nnclr_imagenet

  The paper: batch 4096, LARS 0.3 x batch / 256, weight decay 1e-6, 10 epochs of warm-up, a queue of 98,304, temperature 0.1.
  Status: shape-checked, not yet run.
  """
  recipes.imagenet(config, batch_size=4096, epochs=1000.0)
  config.method = spec(
    NNCLR,
    encoder=spec(ResNet, depth=50, dtype='bfloat16'),
    head=projector(2048, 2048, 256),
    predictor=recipes.mlp(4096, 256),
    augment=recipes.byol_views(),
    queue_size=98304,
    temperature=0.1,
    image=recipes.photos(),
  )
  config.optim = spec(Lars, learning_rate=0.3, warmup='10 epochs', weight_decay=1e-6)


PRESETS = recipes.presets(digits, cifar10_cpu, cifar10, cifar10_solo, imagenet)
get_config = recipes.get_config(PRESETS)
