"""VICReg (Bardes, Ponce & LeCun 2022, https://arxiv.org/abs/2105.04906).

Presets: digits, cifar10_cpu, cifar10_solo, imagenet.
"""

from sslax import recipes
from sslax.methods.vicreg import VICReg
from sslax.models.resnet import ResNet
from sslax.run.optim import Cosine, Larc, Lars
from sslax.spec import spec


def expander(*features):
  """BatchNorm and ReLU between, no bias in the last layer (official code)."""
  return recipes.mlp(*features, final_bias=False)


def digits(config):
  """Handwritten digits on two CPU cores, minutes.

  python -m sslax.train --config=configs/vicreg.py:digits --workdir=runs/vicreg_digits

  Status: measured on 2026-11-22 in `sslax.compare` with 60 epochs, not 130, one seed: nearest centroid with 5 labels a class
  0.903 (raw pixels 0.845, random encoder 0.389).
  """
  recipes.digits(config)
  config.method = spec(
    VICReg,
    encoder=recipes.digits_encoder(),
    head=expander(256, 256),
    augment=recipes.digits_views(),
  )


def cifar10_cpu(config):
  """A small ResNet on CIFAR-10 in minutes on two CPU cores.

  python -m sslax.train --config=configs/vicreg.py:cifar10_cpu --workdir=runs/vicreg_cpu \\
      --config.data.train='parquet:/data/cifar10/train-*' --config.data.test='parquet:/data/cifar10/test-*'

  Status: measured on 2026-11-22 in `sslax.compare` with 2 epochs instead of 6, 2 CPU cores: kNN 0.452 (k 200, T 0.1; raw pixels
  0.450, random encoder 0.300).
  """
  recipes.cifar10_cpu(config)
  config.method = spec(
    VICReg,
    encoder=recipes.cifar10_cpu_encoder(),
    head=expander(512, 512),
    augment=recipes.cifar10_cpu_views(),
  )


def cifar10_solo(config):
  """solo-learn's CIFAR-10 table, batch 256, 1,000 epochs: online linear 92.07.

  python -m sslax.train --config=configs/vicreg.py:cifar10_solo --workdir=runs/vicreg_cifar10_solo

  Source of recipe and number: vturrisi/solo-learn @ 9187ea3, scripts/pretrain/cifar/vicreg.yaml; see recipes.solo_cifar10.
  Their variance term is not halved: 50 here is their 25.
  Status: shape-checked, not yet run.
  """
  recipes.solo_cifar10(config, optimizer=Larc, learning_rate=0.3, weight_decay=1e-4)
  augment = recipes.solo_symmetric(area=(0.2, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), blur_prob=0.0, solarize_prob=0.1)
  config.method = spec(
    VICReg,
    encoder=recipes.solo_encoder(),
    head=recipes.mlp(2048, 2048, 2048),
    augment=augment,
    variance=50.0,
  )


def imagenet(config):
  """ResNet-50, 1,000 epochs: linear probe 73.2.

  python -m sslax.train --config=configs/vicreg.py:imagenet --workdir=runs/vicreg_imagenet

  The official code: batch 2048, LARS 0.2 x batch / 256, weight decay 1e-6, 10 epochs of warm-up, cosine to a thousandth.
  Status: shape-checked, not yet run.
  """
  recipes.imagenet(config, batch_size=2048, epochs=1000.0)
  config.method = spec(
    VICReg,
    encoder=spec(ResNet, depth=50, dtype='bfloat16'),
    head=expander(8192, 8192, 8192),
    augment=recipes.byol_views(),
    image=recipes.photos(),
  )
  config.optim = spec(Lars, learning_rate=0.2, warmup='10 epochs', weight_decay=1e-6, schedule=spec(Cosine, end_fraction=0.001))


PRESETS = recipes.presets(digits, cifar10_cpu, cifar10_solo, imagenet)
get_config = recipes.get_config(PRESETS)
