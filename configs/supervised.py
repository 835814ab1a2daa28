"""Training with labels: from scratch and fine-tuning. The baseline of the self-supervised methods, and the last step of most.

Presets: digits, digits_finetune, cifar10_cpu, cifar10, imagenet_finetune.
"""

from sslax import recipes
from sslax.methods.supervised import Supervised
from sslax.models.resnet import ResNet
from sslax.models.vit import ViT
from sslax.ops.views import RandomViews
from sslax.run.optim import EXCLUDE, AdamW, Cosine, Sgd
from sslax.spec import spec

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # SupContrast's for CIFAR-10
PLAIN = dict(count=1, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0)  # one crop and perhaps a flip: what classifiers train on


def digits(config):
  """All 1,297 labels of the digits, from scratch, with the encoder of configs/simclr.py:digits.

  python -m sslax.train --config=configs/supervised.py:digits --workdir=runs/digits_supervised
  python -m sslax.evaluate --workdir=runs/digits_supervised --probes=classifier,knn

  Status: shape-checked; sixty steps of it are a test; not measured to the end.
  """
  recipes.digits(config, epochs=40.0, learning_rate=2e-3)
  config.online.every_steps = 0
  config.method = spec(
    Supervised,
    encoder=recipes.digits_encoder(),
    classifier=recipes.mlp(10),
    augment=recipes.digits_views(**PLAIN, rotate=15.0, shear=15.0),
  )


def digits_finetune(config):
  """A tenth of the labels (130), starting from the encoder of configs/simclr.py:digits.

  python -m sslax.train --config=configs/simclr.py:digits --workdir=runs/digits
  python -m sslax.train --config=configs/supervised.py:digits_finetune --workdir=runs/digits_finetune
  python -m sslax.evaluate --workdir=runs/digits_finetune --probes=classifier

  The same from scratch: --config=configs/supervised.py:digits --config.data.train='digits:@train[:10%]' --config.num_epochs=200
  (one step is an epoch there).

  Status: shape-checked, not yet run.
  """
  digits(config)
  config.data.train = 'digits:@train[:10%]'
  config.graft = ('runs/digits',)
  config.num_epochs = 200.0
  config.optim.learning_rate = 1e-3


def cifar10_cpu(config):
  """All labels of CIFAR-10, from scratch, with the encoder and the length of configs/simclr.py:cifar10_cpu.

  python -m sslax.train --config=configs/supervised.py:cifar10_cpu --workdir=runs/cifar10_supervised \\
      --config.data.train='parquet:/data/cifar10/train-*' --config.data.test='parquet:/data/cifar10/test-*'

  Status: shape-checked, not yet run.
  """
  recipes.cifar10_cpu(config)
  config.method = spec(
    Supervised,
    encoder=recipes.cifar10_cpu_encoder(),
    classifier=recipes.mlp(10),
    augment=recipes.cifar10_cpu_views(**PLAIN, area=(0.4, 1.0)),
  )


def cifar10(config):
  """The cross-entropy baseline of the SupCon paper: ResNet-50, 500 epochs, accuracy 0.950 (Khosla et al. 2020, Table 2).

  python -m sslax.train --config=configs/supervised.py:cifar10 --workdir=runs/ce_cifar10

  Recipe: main_ce.py of HobbitLong/SupContrast with its README's command (batch 1024, rate 0.8, cosine to 1e-3 of it, warm-up from
  0.01 over 10 epochs, weight decay 1e-4 on every parameter, crops and flips only). One small difference: there the cosine starts
  beneath the warm-up, here after it.
  Status: shape-checked, not yet run.
  """
  config.data.train, config.data.test = 'tfds:cifar10@train', 'tfds:cifar10@test'
  config.batch_size, config.num_epochs = 1024, 500.0
  config.method = spec(
    Supervised,
    encoder=spec(ResNet, depth=50, stem='cifar', zero_init_residual=False, dtype='bfloat16'),
    classifier=recipes.mlp(10),
    augment=spec(RandomViews, **PLAIN, size=32, area=(0.2, 1.0), interpolation='bilinear', mean=MEAN, std=STD),
  )
  config.optim = spec(
    Sgd,
    learning_rate=0.8,
    scaling='none',
    warmup='10 epochs',
    warmup_init=0.01,
    weight_decay=1e-4,
    exclude='',
    schedule=spec(Cosine, end_fraction=1e-3, per_epoch=True),
  )
  config.checkpoint.every_steps = 960


def imagenet_finetune(config):
  """MAE's fine-tuning of a ViT-B/16: 83.6 (He et al. 2022, Table 3; FINETUNE.md) from the official 1600-epoch weights.

  python -m sslax.train --config=configs/supervised.py:imagenet_finetune --workdir=runs/vit_b_finetune \\
      --config.data.train='folder:/data/imagenet/train' --config.data.test='folder:/data/imagenet/val' \\
      --config.graft="('encoder=/data/mae_pretrain_vit_base.safetensors',)"

  100 epochs, batch 1024, AdamW 5e-4 x batch / 256, layer decay 0.65, drop path 0.1, mixup 0.8, cutmix 1.0, label smoothing 0.1,
  random erasing 0.25, RandAugment (rand-m9-mstd0.5-inc1). What the official recipe has and this has not: erasing with noise up to
  a third of the image (here zeros, up to a fifth), and a layer norm after the mean of the tokens instead of before. Expect less
  than 83.6.
  Status: shape-checked under jax.eval_shape, not yet run.
  """
  recipes.imagenet(config, batch_size=1024, epochs=100.0)
  config.graft = ('encoder=mae_pretrain_vit_base.safetensors',)
  config.method = spec(
    Supervised,
    encoder=spec(
      ViT, variant='B', pool='mean', positions='sincos_mae', weight_init='mae', drop_path=0.1, remat='full', dtype='bfloat16'
    ),
    classifier=recipes.mlp(1000, kernel_init='trunc_normal_2e-5'),
    augment=spec(RandomViews, **PLAIN, rand_augment=2, erase_prob=0.25, **recipes.IMAGENET),
    label_smoothing=0.1,
    mixup=0.8,
    cutmix=1.0,
    image=recipes.photos(),
  )
  config.optim = spec(
    AdamW,
    learning_rate=5e-4,
    scaling='linear',
    warmup='5 epochs',
    weight_decay=0.05,
    layer_decay=0.65,
    exclude=EXCLUDE + '|/cls$',
    schedule=spec(Cosine, end_fraction=5e-4),  # 1e-6 after a peak of 2e-3
  )


PRESETS = recipes.presets(digits, digits_finetune, cifar10_cpu, cifar10, imagenet_finetune)
get_config = recipes.get_config(PRESETS)
