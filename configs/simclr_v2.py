"""SimCLR v2 (Chen et al. 2020, https://arxiv.org/abs/2006.10029): pre-train a ResNet with selective kernels and a deeper head,
fine-tune it from the first layer of the head on few labels, distil it into a student on the images without labels.

Presets: digits, digits_finetune, digits_distill, cifar10_cpu, cifar10_finetune, cifar10_distill, imagenet, imagenet_finetune,
imagenet_distill.

The released code has no MoCo-style memory (the paper: about 1 % more), and neither has this.
"""

from sslax import recipes
from sslax.methods.distill import Distill
from sslax.methods.simclr import SimCLR
from sslax.methods.supervised import Supervised
from sslax.models.resnet import ResNet
from sslax.ops.views import RandomViews
from sslax.run.optim import EXCLUDE, Lars
from sslax.spec import spec

SK = dict(sk_ratio=0.0625, block='bottleneck')
PLAIN = dict(count=1, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0)  # a crop and a flip, in fine-tuning and distillation


def head(hidden, out=128):
  """Three layers, no biases, BatchNorm after each, the last one without offset or ReLU (model_util.py of the official code)."""
  last = dict(final_bias=False, final_norm='bn_no_bias')
  return recipes.mlp(hidden, hidden, out, bias=False, **last, kernel_init='normal_0.01')


def first_layer(hidden):
  """The first layer of `head`, with its ReLU: what is kept for fine-tuning (ft_proj_selector=1)."""
  return recipes.mlp(hidden, final_bias=False, final_norm='bn', final_activation=True, kernel_init='normal_0.01')


def classifier(classes):
  return recipes.mlp(classes, kernel_init='normal_0.01')


def finetune_from(run):
  """Encoder and first head layer of a pre-training, with their running statistics."""
  return (run, f'params/neck={run}:params/head', f'memory/stats/neck={run}:memory/stats/head')


def teacher_from(run):
  return (f'memory/teacher={run}:params', f'memory/teacher_stats={run}:memory/stats')


def digits_encoder():
  return recipes.digits_encoder(base=8, **SK)


def digits_plain():
  return recipes.digits_views(**PLAIN, rotate=15.0, shear=15.0)


def digits(config):
  """Step 1 on digits: pre-training without labels.

  python -m sslax.train --config=configs/simclr_v2.py:digits --workdir=runs/v2_digits

  Status: run for 640 of its 1,300 steps on a busy machine, as the start of the two presets below; not measured to the end.
  """
  recipes.digits(config)
  config.method = spec(
    SimCLR,
    encoder=digits_encoder(),
    head=head(128, 64),
    augment=recipes.digits_views(),
    temperature=0.2,
  )


def digits_finetune(config):
  """Step 2 on digits: fine-tuning from the first layer of the head with 130 labels (10 %).

  python -m sslax.train --config=configs/simclr_v2.py:digits_finetune --workdir=runs/v2_digits_finetune
  python -m sslax.evaluate --workdir=runs/v2_digits_finetune --probes=classifier

  Needs runs/v2_digits; --config.graft names another. From scratch, for comparison: the same with --config.graft="()".

  Status: measured on 2026-11-22 from a pre-training of 640 of its 1,300 steps, one seed: accuracy on the 500 test digits 0.856;
  from scratch 0.728.
  """
  recipes.digits(config, epochs=100.0, learning_rate=1e-3)
  config.data.train, config.online.every_steps = 'digits:@train[:10%]', 0
  config.graft = finetune_from('runs/v2_digits')
  config.method = spec(
    Supervised,
    encoder=digits_encoder(),
    neck=first_layer(128),
    classifier=classifier(10),
    augment=digits_plain(),
  )
  config.optim.weight_decay = 0.0


def digits_distill(config):
  """Step 3 on digits: a smaller student learns from the fine-tuned teacher on all 1,297 images, without their labels.

  python -m sslax.train --config=configs/simclr_v2.py:digits_distill --workdir=runs/v2_digits_distill
  python -m sslax.evaluate --workdir=runs/v2_digits_distill --probes=classifier

  Needs runs/v2_digits_finetune.

  Status: measured on 2026-11-22, one seed: accuracy on the 500 test digits 0.874, its teacher 0.856 (see digits_finetune).
  """
  recipes.digits(config, epochs=60.0, learning_rate=2e-3)
  config.online.every_steps = 0
  config.graft = teacher_from('runs/v2_digits_finetune')
  config.method = spec(
    Distill,
    encoder=recipes.digits_encoder(base=8),
    classifier=classifier(10),
    teacher_encoder=digits_encoder(),
    teacher_neck=first_layer(128),
    teacher_classifier=classifier(10),
    augment=digits_plain(),
    temperature=1.0,
  )


def cifar10_encoder():
  return recipes.cifar10_cpu_encoder(base=16, **SK)


def cifar10_plain():
  return recipes.cifar10_cpu_views(**PLAIN, area=(0.4, 1.0))


def cifar10_cpu(config):
  """Step 1 on CIFAR-10, in minutes on two CPU cores.

  python -m sslax.train --config=configs/simclr_v2.py:cifar10_cpu --workdir=runs/v2_cifar10 \\
      --config.data.train='parquet:/data/cifar10/train-*' --config.data.test='parquet:/data/cifar10/test-*'

  Status: run on 2026-11-22 with --config.num_epochs=4, 9 minutes on 2 shared CPU cores, as the start of the two presets below.
  """
  recipes.cifar10_cpu(config)
  config.method = spec(
    SimCLR,
    encoder=cifar10_encoder(),
    head=head(256, 128),
    augment=recipes.cifar10_cpu_views(),
    temperature=0.2,
  )


def cifar10_finetune(config):
  """Step 2 on CIFAR-10: 10 % of the labels (5,000).

  python -m sslax.train --config=configs/simclr_v2.py:cifar10_finetune --workdir=runs/v2_cifar10_finetune \\
      --config.data.train='parquet:/data/cifar10/train-*@[10%:balanced]' --config.data.test='parquet:/data/cifar10/test-*'
  python -m sslax.evaluate --workdir=runs/v2_cifar10_finetune --probes=classifier

  Needs runs/v2_cifar10. 1 %: '@[1%:balanced]' and --config.num_epochs=60 --config.batch_size=64. From scratch, for comparison:
  --config.graft="()".

  Status: measured on 2026-11-22 from 4 epochs of pre-training, one seed, accuracy on the 10,000 test images: 10 % of the labels
  ('@[10%:balanced]', --config.num_epochs=20) 0.535, from scratch 0.471; 1 % ('@[1%:balanced]', --config.num_epochs=60
  --config.batch_size=64) 0.416, from scratch 0.365. One to three minutes each on 2 shared CPU cores.
  """
  recipes.cifar10_cpu(config, epochs=30.0, learning_rate=1e-3)
  config.data.train = 'tfds:cifar10@train[:10%]'
  config.graft = finetune_from('runs/v2_cifar10')
  config.method = spec(
    Supervised,
    encoder=cifar10_encoder(),
    neck=first_layer(256),
    classifier=classifier(10),
    augment=cifar10_plain(),
  )
  config.optim.weight_decay = 0.0


def cifar10_distill(config):
  """Step 3 on CIFAR-10: a student of half the width on all 50,000 images, without their labels.

  python -m sslax.train --config=configs/simclr_v2.py:cifar10_distill --workdir=runs/v2_cifar10_distill \\
      --config.data.train='parquet:/data/cifar10/train-*' --config.data.test='parquet:/data/cifar10/test-*'
  python -m sslax.evaluate --workdir=runs/v2_cifar10_distill --probes=classifier

  Needs runs/v2_cifar10_finetune.

  Status: measured on 2026-11-22 with --config.num_epochs=4, one seed: accuracy on the 10,000 test images 0.527, its teacher 0.535
  (10 % of the labels, see cifar10_finetune); 3.5 minutes on 2 shared CPU cores.
  """
  recipes.cifar10_cpu(config)
  config.graft = teacher_from('runs/v2_cifar10_finetune')
  config.method = spec(
    Distill,
    encoder=recipes.cifar10_cpu_encoder(base=16),
    classifier=classifier(10),
    teacher_encoder=cifar10_encoder(),
    teacher_neck=first_layer(256),
    teacher_classifier=classifier(10),
    augment=cifar10_plain(),
    temperature=1.0,
  )


def imagenet_encoder():
  return spec(ResNet, depth=50, projection='group', dtype='bfloat16', **SK)


# LARS leaves the classifier's rate alone, as the official code does with its head_supervised.
EXCLUDE_CLASSIFIER = EXCLUDE + '|^classifier/'


def imagenet(config):
  """Step 1: ResNet-50 with selective kernels (35M), 800 epochs: linear 74.6 (README of google-research/simclr).

  python -m sslax.train --config=configs/simclr_v2.py:imagenet --workdir=runs/v2_imagenet \\
      --config.data.train='folder:/data/imagenet/train' --config.data.test='folder:/data/imagenet/val'

  Other rows of that table: --config.method.encoder.depth=152 --config.method.encoder.width=3 (795M; linear 79.8), with
  --config.method.head.features="(6144,6144,128)". Batch 4096, LARS 0.1 x sqrt(batch) = 6.4, warm-up over 5 %, weight decay 1e-4.
  The paper's hardware: 128 Cloud TPUs.
  Status: shape-checked under jax.eval_shape, not yet run.
  """
  recipes.imagenet(config, batch_size=4096, epochs=800.0)
  config.method = spec(
    SimCLR,
    encoder=imagenet_encoder(),
    head=head(2048),
    augment=spec(RandomViews, size=224, area=(0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2)),
    temperature=0.1,
    image=recipes.photos(),
  )
  config.optim = spec(Lars, learning_rate=0.1, scaling='sqrt', warmup='5%', weight_decay=1e-4)


def imagenet_finetune(config):
  """Step 2: fine-tuning from the first layer of the head; 10 % of the labels: 72.1, 1 %: 64.5 (same table, ResNet-50 + SK).

  python -m sslax.train --config=configs/simclr_v2.py:imagenet_finetune --workdir=runs/v2_imagenet_finetune

  Needs runs/v2_imagenet. The labels are TFDS's copy of SimCLR's lists; 1 %: 'tfds:imagenet2012_subset/1pct@train' and
  --config.num_epochs=60. LARS 0.002 x sqrt(batch), the paper's for networks with SK (0.005 without), batch 1024, no warm-up, no
  weight decay, crops and flips only.
  Status: shape-checked under jax.eval_shape, not yet run.
  """
  recipes.imagenet(config, batch_size=1024, epochs=30.0)
  config.data.train = 'tfds:imagenet2012_subset/10pct@train'
  config.graft = finetune_from('runs/v2_imagenet')
  config.method = spec(
    Supervised,
    encoder=imagenet_encoder(),
    neck=first_layer(2048),
    classifier=classifier(1000),
    augment=spec(RandomViews, size=224, **PLAIN),
    image=recipes.photos(),
  )
  config.optim = spec(
    Lars,
    learning_rate=0.002,
    scaling='sqrt',
    warmup='0 steps',
    weight_decay=0.0,
    exclude=EXCLUDE_CLASSIFIER,
  )


def imagenet_distill(config):
  """Step 3: a ResNet-50 learns from the teacher on all images, without their labels.

  python -m sslax.train --config=configs/simclr_v2.py:imagenet_distill --workdir=runs/v2_imagenet_distill

  Needs runs/v2_imagenet_finetune. The paper's teacher is a ResNet-152 3x + SK, which gives a ResNet-50 of 77.5 with 10 % of the
  labels and 73.9 with 1 %; expect less from this preset's smaller teacher. 400 epochs; batch, LARS, weight decay and warm-up as
  in pre-training; crops and flips only; temperature 1 (0.1 for self-distillation).
  Status: shape-checked under jax.eval_shape, not yet run.
  """
  recipes.imagenet(config, batch_size=4096, epochs=400.0)
  config.graft = teacher_from('runs/v2_imagenet_finetune')
  config.method = spec(
    Distill,
    encoder=spec(ResNet, depth=50, projection='group', dtype='bfloat16'),
    classifier=classifier(1000),
    teacher_encoder=imagenet_encoder(),
    teacher_neck=first_layer(2048),
    teacher_classifier=classifier(1000),
    augment=spec(RandomViews, size=224, **PLAIN),
    temperature=1.0,
    image=recipes.photos(),
  )
  config.optim = spec(
    Lars,
    learning_rate=0.1,
    scaling='sqrt',
    warmup='5%',
    weight_decay=1e-4,
    exclude=EXCLUDE_CLASSIFIER,
  )


PRESETS = recipes.presets(
  digits,
  digits_finetune,
  digits_distill,
  cifar10_cpu,
  cifar10_finetune,
  cifar10_distill,
  imagenet,
  imagenet_finetune,
  imagenet_distill,
)
get_config = recipes.get_config(PRESETS)
