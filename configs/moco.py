"""MoCo v1 (He et al. 2020, https://arxiv.org/abs/1911.05722) and v2 (Chen et al. 2020, https://arxiv.org/abs/2003.04297).

Presets: digits, cifar10_cpu, cifar10, cifar10_solo, imagenet_v1, imagenet.
"""

from sslax import recipes
from sslax.methods.moco import MoCo
from sslax.models.resnet import ResNet
from sslax.ops.schedules import Ramp
from sslax.ops.views import RandomViews
from sslax.run.optim import Cosine, Multistep, Sgd
from sslax.spec import spec


def digits(config):
  """Handwritten digits on two CPU cores, minutes.

  python -m sslax.train --config=configs/moco.py:digits --workdir=runs/moco_digits

  Status: measured on 2026-11-22 in `sslax.compare` with 60 epochs, not 130, one seed: nearest centroid with 5 labels a class
  0.894 (raw pixels 0.845, random encoder 0.389).
  """
  recipes.digits(config, learning_rate=4e-3)
  config.method = spec(
    MoCo,
    encoder=recipes.digits_encoder(norm_groups=8),
    head=recipes.mlp(64, 64, norm='none'),
    augment=recipes.digits_views(),
    queue_size=1024,
    temperature=0.2,
    momentum=0.99,
  )


def cifar10_cpu(config):
  """A small ResNet on CIFAR-10 in minutes on two CPU cores.

  python -m sslax.train --config=configs/moco.py:cifar10_cpu --workdir=runs/moco_cpu \\
      --config.data.train='parquet:/data/cifar10/train-*' --config.data.test='parquet:/data/cifar10/test-*'

  Status: measured on 2026-11-22 in `sslax.compare` with 2 epochs instead of 6, 2 CPU cores: kNN 0.434 (k 200, T 0.1; raw pixels
  0.450, random encoder 0.300).
  """
  recipes.cifar10_cpu(config)
  config.method = spec(
    MoCo,
    encoder=recipes.cifar10_cpu_encoder(norm_groups=8),
    head=recipes.mlp(128, 128, norm='none'),
    augment=recipes.cifar10_cpu_views(),
    queue_size=4096,
    temperature=0.2,
    momentum=0.99,
  )


def cifar10(config):
  """lightly's CIFAR-10 table, batch 512, 200 epochs: kNN 0.847 (Moco).

  python -m sslax.train --config=configs/moco.py:cifar10 --workdir=runs/moco_cifar10

  Source of recipe and number: lightly @ e8d317f, cifar10_benchmark.py and benchmarks.rst; see recipes.lightly_cifar10.
  Both directions, a bank of 8,192 at batch 512, BatchNorm in 8 groups of rows.
  Status: shape-checked, not yet run.
  """
  recipes.lightly_cifar10(config)
  config.method = spec(
    MoCo,
    encoder=recipes.lightly_encoder(norm_groups=8),
    head=recipes.mlp(512, 128, norm='none'),
    augment=recipes.lightly_views(),
    queue_size=8192,
    temperature=0.1,
    momentum=0.99,
    symmetric=True,
  )


def cifar10_solo(config):
  """solo-learn's CIFAR-10 table, batch 256, 1,000 epochs: online linear 92.94 (MoCo V2+).

  python -m sslax.train --config=configs/moco.py:cifar10_solo --workdir=runs/moco_cifar10_solo

  Source of recipe and number: vturrisi/solo-learn @ 9187ea3, scripts/pretrain/cifar/mocov2plus.yaml; see recipes.solo_cifar10.
  Theirs keeps a queue for each direction; here one takes the keys of both.
  Status: shape-checked, not yet run.
  """
  recipes.solo_cifar10(config, optimizer=Sgd, learning_rate=0.3, weight_decay=1e-4)
  config.method = spec(
    MoCo,
    encoder=recipes.solo_encoder(),
    head=recipes.mlp(2048, 256, norm='none'),
    augment=recipes.solo_symmetric(jitter=(0.4, 0.4, 0.4, 0.1)),
    queue_size=65536,
    temperature=0.2,
    momentum=spec(Ramp, start=0.99, end=0.999),
    symmetric=True,
  )


def imagenet_v1(config):
  """MoCo v1, ResNet-50, 200 epochs: linear probe 60.6.

  python -m sslax.train --config=configs/moco.py:imagenet_v1 --workdir=runs/moco_imagenet_v1

  The official code: batch 256, SGD 0.03, x0.1 at 120 and 160, weight decay 1e-4 on everything, grey before the colour jitter
  there, after it here.
  Status: shape-checked, not yet run.
  """
  recipes.imagenet(config, batch_size=256, epochs=200.0)
  config.method = spec(
    MoCo,
    encoder=spec(ResNet, depth=50, norm_groups=8, zero_init_residual=False, dtype='bfloat16'),
    head=recipes.mlp(128),
    augment=spec(RandomViews, area=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.4), jitter_prob=1.0, blur_prob=0.0, **recipes.IMAGENET),
    queue_size=65536,
    temperature=0.07,
    momentum=0.999,
    image=recipes.photos(),
  )
  config.optim = spec(
    Sgd,
    learning_rate=0.03,
    warmup='0 steps',
    weight_decay=1e-4,
    exclude='',
    schedule=spec(Multistep, milestones=('120 epochs', '160 epochs')),
  )


def imagenet(config):
  """MoCo v2, ResNet-50, 200 epochs: linear probe 67.5 +- 0.1; 800 epochs: 71.1.

  python -m sslax.train --config=configs/moco.py:imagenet --workdir=runs/moco_imagenet

  The official code: batch 256, SGD 0.03, cosine once an epoch, weight decay 1e-4 on everything, BatchNorm of 8 GPUs with
  shuffled keys.
  Status: shape-checked, not yet run.
  """
  recipes.imagenet(config, batch_size=256, epochs=200.0)
  config.method = spec(
    MoCo,
    encoder=spec(ResNet, depth=50, norm_groups=8, zero_init_residual=False, dtype='bfloat16'),
    head=recipes.mlp(2048, 128, norm='none'),
    augment=recipes.moco_v2_views(),
    queue_size=65536,
    temperature=0.2,
    momentum=0.999,
    image=recipes.photos(),
  )
  config.optim = spec(
    Sgd, learning_rate=0.03, warmup='0 steps', weight_decay=1e-4, exclude='', schedule=spec(Cosine, per_epoch=True)
  )


PRESETS = recipes.presets(digits, cifar10_cpu, cifar10, cifar10_solo, imagenet_v1, imagenet)
get_config = recipes.get_config(PRESETS)
