"""SimSiam (Chen & He 2021, https://arxiv.org/abs/2011.10566).

Presets: digits, cifar10_cpu, cifar10, cifar10_paper, cifar10_solo, imagenet.
"""

from sslax import recipes
from sslax.methods.simsiam import SimSiam
from sslax.models.resnet import ResNet
from sslax.run.optim import Cosine, Sgd
from sslax.spec import spec


def projector(*features, final_norm='bn_no_affine'):
  """No biases, BatchNorm after every layer, without affine after the last (official code)."""
  return recipes.mlp(*features, bias=False, final_bias=False, final_norm=final_norm)


def predictor(*features):
  """A bottleneck; the last layer has a bias and no BatchNorm."""
  return recipes.mlp(*features, bias=False)


def digits(config):
  """Handwritten digits on two CPU cores, minutes.

  python -m sslax.train --config=configs/simsiam.py:digits --workdir=runs/simsiam_digits

  Status: measured on 2026-11-22 in `sslax.compare` with 60 epochs, not 130, one seed: nearest centroid with 5 labels a class
  0.858 (raw pixels 0.845, random encoder 0.389).
  """
  recipes.digits(config, learning_rate=5e-3)
  config.method = spec(
    SimSiam,
    encoder=recipes.digits_encoder(),
    head=projector(128, 128),
    predictor=predictor(32, 128),
    augment=recipes.digits_views(),
  )
  config.optim.constant = '^predictor/'


def cifar10_cpu(config):
  """A small ResNet on CIFAR-10 in minutes on two CPU cores.

  python -m sslax.train --config=configs/simsiam.py:cifar10_cpu --workdir=runs/simsiam_cpu \\
      --config.data.train='parquet:/data/cifar10/train-*' --config.data.test='parquet:/data/cifar10/test-*'

  Status: measured on 2026-11-22 in `sslax.compare` with 2 epochs instead of 6, 2 CPU cores: kNN 0.398 (k 200, T 0.1; raw pixels
  0.450, random encoder 0.300).
  """
  recipes.cifar10_cpu(config)
  config.method = spec(
    SimSiam,
    encoder=recipes.cifar10_cpu_encoder(),
    head=projector(256, 256),
    predictor=predictor(64, 256),
    augment=recipes.cifar10_cpu_views(),
  )
  config.optim.constant = '^predictor/'


def cifar10(config):
  """lightly's CIFAR-10 table, batch 512, 200 epochs: kNN 0.764 (800 epochs: 0.904).

  python -m sslax.train --config=configs/simsiam.py:cifar10 --workdir=runs/simsiam_cifar10

  Source of recipe and number: lightly @ e8d317f, cifar10_benchmark.py and benchmarks.rst; see recipes.lightly_cifar10.
  The rate is not scaled with the batch.
  Status: shape-checked, not yet run.
  """
  recipes.lightly_cifar10(config, scale_rate=False)
  config.method = spec(
    SimSiam,
    encoder=recipes.lightly_encoder(),
    head=projector(2048, 2048, final_norm='bn'),
    predictor=predictor(512, 2048),
    augment=recipes.lightly_views(area=(0.2, 1.0)),
  )


def cifar10_paper(config):
  """The paper's appendix D: linear probe 91.8 after 800 epochs.

  python -m sslax.train --config=configs/simsiam.py:cifar10_paper --workdir=runs/simsiam_cifar10_paper

  ResNet-18, SGD 0.03 x batch / 256, batch 512, weight decay 5e-4, cosine, a two-layer projector, no blur.
  Status: shape-checked, not yet run.
  """
  recipes.lightly_cifar10(config)
  config.num_epochs = 800.0
  config.method = spec(
    SimSiam,
    encoder=spec(ResNet, depth=18, stem='cifar', dtype='bfloat16'),
    head=projector(2048, 2048),
    predictor=predictor(512, 2048),
    augment=recipes.lightly_views(area=(0.2, 1.0)),
  )
  config.optim = spec(Sgd, learning_rate=0.03, warmup='0 steps', weight_decay=5e-4, exclude='', constant='^predictor/')


def cifar10_solo(config):
  """solo-learn's CIFAR-10 table, batch 256, 1,000 epochs: online linear 90.51.

  python -m sslax.train --config=configs/simsiam.py:cifar10_solo --workdir=runs/simsiam_cifar10_solo

  Source of recipe and number: vturrisi/solo-learn @ 9187ea3, scripts/pretrain/cifar/simsiam.yaml; see recipes.solo_cifar10.
  Status: shape-checked, not yet run.
  """
  recipes.solo_cifar10(config, optimizer=Sgd, learning_rate=0.5, weight_decay=1e-5)
  config.method = spec(
    SimSiam,
    encoder=recipes.solo_encoder(),
    head=projector(2048, 2048, 2048),
    predictor=predictor(512, 2048),
    augment=recipes.solo_symmetric(jitter=(0.4, 0.4, 0.4, 0.1)),
  )
  config.optim.constant = '^predictor/'


def imagenet(config):
  """ResNet-50, 100 epochs: linear probe 68.1 (batch 512), 68.3 (256).

  python -m sslax.train --config=configs/simsiam.py:imagenet --workdir=runs/simsiam_imagenet

  The official code: SGD 0.05 x batch / 256, weight decay 1e-4 on everything, cosine once an epoch; the predictor keeps the
  peak rate.
  Status: shape-checked, not yet run.
  """
  recipes.imagenet(config, batch_size=512, epochs=100.0)
  config.method = spec(
    SimSiam,
    encoder=spec(ResNet, depth=50, dtype='bfloat16'),
    head=projector(2048, 2048, 2048),
    predictor=predictor(512, 2048),
    augment=recipes.moco_v2_views(),
    image=recipes.photos(),
  )
  config.optim = spec(
    Sgd,
    learning_rate=0.05,
    warmup='0 steps',
    weight_decay=1e-4,
    exclude='',
    constant='^predictor/',
    schedule=spec(Cosine, per_epoch=True),
  )


PRESETS = recipes.presets(digits, cifar10_cpu, cifar10, cifar10_paper, cifar10_solo, imagenet)
get_config = recipes.get_config(PRESETS)
