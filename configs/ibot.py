"""iBOT (Zhou et al. 2022, https://arxiv.org/abs/2111.07832) and DINOv2 (Oquab et al. 2023, https://arxiv.org/abs/2304.07193).

Presets: digits, tiny_imagenet_cpu, imagenet, dinov2.
"""

from sslax import recipes
from sslax.methods.ibot import IBOT
from sslax.models.prototypes import Prototypes
from sslax.models.vit import ViT
from sslax.ops.schedules import Ramp
from sslax.ops.views import MultiCrop, RandomViews
from sslax.run.optim import AdamW, Cosine
from sslax.spec import spec


def head(*features):
  """The official head's trunk: GELU, no BatchNorm."""
  return recipes.mlp(*features, norm='none', activation='gelu', kernel_init='trunc_normal_0.02')


def prototypes(count, learn_scale=True):
  """The weight-normalised last layer; learn_scale=True is norm_last_layer=False."""
  return spec(Prototypes, count=count, weight_norm=True, learn_scale=learn_scale)


def temperature(duration):
  """Of the teacher: 0.04 to 0.07."""
  return spec(Ramp, start=0.04, end=0.07, shape='linear', duration=duration)


def digits(config):
  """Handwritten digits on two CPU cores, minutes: 6x6 patches of 2 pixels.

  python -m sslax.train --config=configs/ibot.py:digits --workdir=runs/ibot_digits

  Status: not yet measured.
  """
  recipes.digits(config, epochs=100.0, learning_rate=1e-3)
  config.method = spec(
    IBOT,
    encoder=spec(ViT, width=64, depth=3, heads=4, patch=2, weight_init='mae'),
    head=head(128, 128, 64),
    prototypes=prototypes(256),
    augment=spec(MultiCrop, large=recipes.digits_views()),
    momentum=spec(Ramp, start=0.98, end=1.0),
  )


def tiny_imagenet_cpu(config):
  """A small ViT on 50 classes of Tiny ImageNet, two CPU cores, at most 40 minutes: 8x8 patches of 8 pixels.

  python -m sslax.train --config=configs/ibot.py:tiny_imagenet_cpu --workdir=runs/ibot_tiny_imagenet \\
      --config.data.train='parquet:/data/tiny_imagenet_50/train-*' \\
      --config.data.test='parquet:/data/tiny_imagenet_50/validation-*'

  Status: shape-checked, not yet run.
  """
  config.data.train, config.data.test = 'parquet:/data/tiny_imagenet_50/train-*', 'parquet:/data/tiny_imagenet_50/validation-*'
  config.batch_size, config.num_epochs = 128, 15.0
  fields = dict(interpolation='bilinear', jitter=(0.4, 0.4, 0.2, 0.1), blur_prob=0.0, **recipes.IMAGENET)
  large = spec(RandomViews, size=64, area=(0.25, 1.0), **fields)
  small = spec(RandomViews, size=32, area=(0.05, 0.25), **fields)
  config.method = spec(
    IBOT,
    encoder=spec(ViT, width=192, depth=6, heads=3, patch=8, drop_path=0.1),
    head=head(512, 512, 128),
    prototypes=prototypes(1024),
    augment=spec(MultiCrop, large=large, small=small),
    momentum=spec(Ramp, start=0.99, end=1.0),
  )
  config.optim = spec(
    AdamW,
    learning_rate=5e-4,
    scaling='none',
    warmup='10%',
    weight_decay=spec(Ramp, start=0.04, end=0.4),
    clip_each=3.0,
    schedule=spec(Cosine, end_fraction=1e-3),
  )
  config.checkpoint.every_steps = 400
  config.online.every_steps = 400


def imagenet(config):
  """ViT-S/16, 800 epochs: kNN 75.2, linear probe 77.9, fine-tuned 82.3 (official README).

  python -m sslax.train --config=configs/ibot.py:imagenet --workdir=runs/ibot_imagenet

  The README's command: batch 1024 (64 on each of 16 GPUs), 2x224 + 10x96, shared head with 8192 prototypes and learnt lengths,
  teacher temperature 0.04 to 0.07 over 30 epochs, crops masked with probability 1/2 by 10 to 50 %, AdamW 5e-4 x batch / 256,
  weight decay 0.04 to 0.4, gradients clipped at 3 each, momentum 0.996 to 1.
  Status: shape-checked, not yet run.
  """
  recipes.imagenet(config, batch_size=1024, epochs=800.0)
  config.method = spec(
    IBOT,
    encoder=spec(ViT, variant='S', drop_path=0.1, dtype='bfloat16'),
    head=head(2048, 2048, 256),
    prototypes=prototypes(8192),
    augment=recipes.dino_views((0.25, 1.0), (0.05, 0.25), count=10),
    momentum=spec(Ramp, start=0.996, end=1.0),
    teacher_temperature=temperature('30 epochs'),
    patch_temperature=temperature('30 epochs'),
    image=recipes.photos(),
  )
  config.optim = spec(
    AdamW,
    learning_rate=5e-4,
    warmup='10 epochs',
    weight_decay=spec(Ramp, start=0.04, end=0.4),
    clip_each=3.0,
    schedule=spec(Cosine, end_fraction=1e-6 / 2e-3),
  )


def dinov2(config):
  """DINOv2's objective, ViT-L/14 from scratch: linear probe 84.5, kNN 82.0 after ImageNet-22k (official README).

  python -m sslax.train --config=configs/ibot.py:dinov2 --workdir=runs/dinov2 --config.data.train='tar:/data/imagenet22k/*.tar'

  configs/train/vitl14.yaml of the official code over ssl_default_config.yaml: 625,000 steps (500 "epochs" of 1,250), Sinkhorn
  targets, heads of their own with 131,072 prototypes each, KoLeo 0.1, exactly half of the crops masked by 10 to 50 %, AdamW 2e-4
  sqrt(batch / 1024), weight decay 0.04 to 0.2, momentum 0.994 to 1. The batch is that of 64 GPUs with 32 images each. Not as
  there: a plain MLP in place of SwiGLU, drop path that grows with the depth (theirs is uniform), gradients clipped at 3 for each
  parameter (theirs: each FSDP module), the patch projection's lower rate as a group, KoLeo over the global batch.
  Status: shape-checked, not yet run.
  """
  recipes.imagenet(config, batch_size=2048, epochs=0.0)
  config.num_steps = 625_000
  config.method = spec(
    IBOT,
    encoder=spec(ViT, variant='L', patch=14, drop_path=0.4, layer_scale=1e-5, dtype='bfloat16', scan=True, remat='full'),
    head=head(2048, 2048, 384),
    prototypes=prototypes(131072),
    patch_head=head(2048, 2048, 256),
    patch_prototypes=prototypes(131072),
    augment=recipes.dino_views((0.32, 1.0), (0.05, 0.32), count=8, size=98),
    momentum=spec(Ramp, start=0.994, end=1.0),
    teacher_temperature=temperature('37500 steps'),
    patch_temperature=temperature('37500 steps'),
    train_prototypes=spec(Ramp, start=0.0, end=1.0, shape='step', duration='1250 steps'),
    targets='sinkhorn',
    koleo_weight=0.1,
    least_block=4,
    stratified=True,
    image=recipes.photos(),
  )
  config.optim = spec(
    AdamW,
    learning_rate=2e-4 / 1024**0.5,
    scaling='sqrt',
    warmup='100000 steps',
    weight_decay=spec(Ramp, start=0.04, end=0.2),
    groups=(('encoder/patches/projection', 0.2, 1.0), ('', 1.0, 1.0)),
    clip_each=3.0,
    schedule=spec(Cosine, end_fraction=1e-6 / (2e-4 * 2**0.5)),
  )


PRESETS = recipes.presets(digits, tiny_imagenet_cpu, imagenet, dinov2)
get_config = recipes.get_config(PRESETS)
