"""DINO (Caron et al. 2021, https://arxiv.org/abs/2104.14294).

Presets: digits, cifar10_cpu, cifar10, cifar10_solo, imagenet, imagenet_boosted, imagenet_resnet50.
"""

from sslax import recipes
from sslax.methods.dino import DINO
from sslax.models.prototypes import Prototypes
from sslax.models.resnet import ResNet
from sslax.models.vit import ViT
from sslax.ops.schedules import Ramp
from sslax.ops.views import MultiCrop
from sslax.run.optim import AdamW, Cosine, Larc, Sgd
from sslax.spec import spec


def head(*features):
  """The official head's trunk: GELU, no BatchNorm."""
  return recipes.mlp(*features, norm='none', activation='gelu', kernel_init='trunc_normal_0.02')


def prototypes(count, learn_scale=True):
  """The weight-normalised last layer; learn_scale=False is norm_last_layer=True."""
  return spec(Prototypes, count=count, weight_norm=True, learn_scale=learn_scale)


def digits(config):
  """Handwritten digits on two CPU cores, minutes.

  python -m sslax.train --config=configs/dino.py:digits --workdir=runs/dino_digits

  Status: measured on 2026-11-22, one seed, 3.5 minutes: nearest centroid with 5 labels a class 0.932 +- 0.012 (raw pixels 0.845,
  random encoder 0.389); with 60 epochs 0.790.
  """
  recipes.digits(config, learning_rate=5e-3)
  config.method = spec(
    DINO,
    encoder=recipes.digits_encoder(),
    head=recipes.mlp(128, 128, 64, activation='gelu', kernel_init='trunc_normal_0.02'),
    prototypes=prototypes(256),
    augment=spec(MultiCrop, large=recipes.digits_views()),
    momentum=spec(Ramp, start=0.98, end=1.0),
  )


def cifar10_cpu(config):
  """A small ResNet on CIFAR-10 in minutes on two CPU cores.

  python -m sslax.train --config=configs/dino.py:cifar10_cpu --workdir=runs/dino_cpu \\
      --config.data.train='parquet:/data/cifar10/train-*' --config.data.test='parquet:/data/cifar10/test-*'

  Status: measured on 2026-11-22 in `sslax.compare` with 2 epochs instead of 6, 2 CPU cores: kNN 0.369 (k 200, T 0.1; raw pixels
  0.450, random encoder 0.300).
  """
  recipes.cifar10_cpu(config)
  config.method = spec(
    DINO,
    encoder=recipes.cifar10_cpu_encoder(),
    head=recipes.mlp(256, 256, 64, activation='gelu', kernel_init='trunc_normal_0.02'),
    prototypes=prototypes(512),
    augment=spec(MultiCrop, large=recipes.cifar10_cpu_views()),
    momentum=spec(Ramp, start=0.98, end=1.0),
  )


def cifar10(config):
  """lightly's CIFAR-10 table, batch 512, 200 epochs: kNN 0.813.

  python -m sslax.train --config=configs/dino.py:cifar10 --workdir=runs/dino_cifar10

  Source of recipe and number: lightly @ e8d317f, cifar10_benchmark.py and benchmarks.rst; see recipes.lightly_cifar10.
  Head 512-2048-256 with BatchNorm, 2,048 prototypes, momentum 0.99 throughout, no small crops.
  Status: shape-checked, not yet run.
  """
  recipes.lightly_cifar10(config)
  config.method = spec(
    DINO,
    encoder=recipes.lightly_encoder(),
    head=recipes.mlp(2048, 256, activation='gelu', kernel_init='trunc_normal_0.02'),
    prototypes=prototypes(2048, learn_scale=False),
    augment=spec(MultiCrop, large=recipes.lightly_asymmetric(area=(0.4, 1.0))),
    momentum=0.99,
    train_prototypes=spec(Ramp, start=0.0, end=1.0, shape='step', duration='0 steps'),
  )


def cifar10_solo(config):
  """solo-learn's CIFAR-10 table, batch 256, 1,000 epochs: online linear 89.52.

  python -m sslax.train --config=configs/dino.py:cifar10_solo --workdir=runs/dino_cifar10_solo

  Source of recipe and number: vturrisi/solo-learn @ 9187ea3, scripts/pretrain/cifar/dino.yaml; see recipes.solo_cifar10.
  Status: shape-checked, not yet run.
  """
  recipes.solo_cifar10(config, optimizer=Larc, learning_rate=0.3, weight_decay=1e-6)
  config.method = spec(
    DINO,
    encoder=recipes.solo_encoder(),
    head=head(2048, 2048, 256),
    prototypes=prototypes(4096),
    augment=spec(MultiCrop, large=recipes.solo_asymmetric()),
    momentum=spec(Ramp, start=0.9995, end=1.0),
  )


def imagenet(config):
  """ViT-S/16, 100 epochs, 2x224 + 8x96: kNN 69.3, linear probe 74.0 (one node of 8 GPUs; "vanilla" in the official README).

  python -m sslax.train --config=configs/dino.py:imagenet --workdir=runs/dino_imagenet

  The official defaults: batch 512, AdamW 5e-4 x batch / 256, weight decay 0.04 to 0.4, gradients clipped at 3 each, 10 epochs
  of warm-up,
  cosine to 1e-6, momentum 0.996 to 1. `imagenet_boosted` gives 73.3 / 76.0.
  Status: shape-checked, not yet run.
  """
  recipes.imagenet(config, batch_size=512, epochs=100.0)
  config.method = spec(
    DINO,
    encoder=spec(ViT, variant='S', drop_path=0.1, dtype='bfloat16'),
    head=head(2048, 2048, 256),
    prototypes=prototypes(65536, learn_scale=False),
    augment=recipes.dino_views((0.4, 1.0), (0.05, 0.4)),
    momentum=spec(Ramp, start=0.996, end=1.0),
    image=recipes.photos(),
  )
  config.optim = spec(
    AdamW,
    learning_rate=5e-4,
    warmup='10 epochs',
    weight_decay=spec(Ramp, start=0.04, end=0.4),
    clip_each=3.0,
    schedule=spec(Cosine, end_fraction=1e-6 / 1e-3),
  )


def imagenet_boosted(config):
  """ViT-S/16, 300 epochs: kNN 73.3, linear probe 76.0 (official README).

  python -m sslax.train --config=configs/dino.py:imagenet_boosted --workdir=runs/dino_imagenet_boosted

  As `imagenet`, with batch 1024, the teacher temperature from 0.04 to 0.07 over 30 epochs and learnt lengths in the last layer.
  Status: shape-checked, not yet run.
  """
  imagenet(config)
  config.batch_size, config.num_epochs = 1024, 300.0
  del config.method['teacher_temperature']  # a number there; ml_collections keeps a field's type
  config.method.teacher_temperature = spec(Ramp, start=0.04, end=0.07, shape='linear', duration='30 epochs')
  config.method.prototypes = prototypes(65536)
  config.optim.schedule.end_fraction = 1e-6 / 2e-3


def imagenet_resnet50(config):
  """ResNet-50: kNN 67.5, linear probe 75.3 (800 epochs in the paper).

  python -m sslax.train --config=configs/dino.py:imagenet_resnet50 --workdir=runs/dino_imagenet_resnet50

  The official README: SGD 0.03 x batch / 256, weight decay 1e-4 throughout, crops of (0.14, 1) and (0.05, 0.14).
  Status: shape-checked, not yet run.
  """
  recipes.imagenet(config, batch_size=1024, epochs=800.0)
  config.method = spec(
    DINO,
    encoder=spec(ResNet, depth=50, zero_init_residual=False, dtype='bfloat16'),
    head=head(2048, 2048, 256),
    prototypes=prototypes(65536, learn_scale=False),
    augment=recipes.dino_views((0.14, 1.0), (0.05, 0.14)),
    momentum=spec(Ramp, start=0.996, end=1.0),
    teacher_temperature=spec(Ramp, start=0.04, end=0.07, shape='linear', duration='50 epochs'),
    image=recipes.photos(),
  )
  config.optim = spec(Sgd, learning_rate=0.03, warmup='10 epochs', weight_decay=1e-4, clip_each=3.0)


PRESETS = recipes.presets(digits, cifar10_cpu, cifar10, cifar10_solo, imagenet, imagenet_boosted, imagenet_resnet50)
get_config = recipes.get_config(PRESETS)
