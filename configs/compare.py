"""Comparisons: the methods, their seeds, and what all runs have in common. For `python -m sslax.compare`, not for `sslax.train`.

Presets: digits, cifar10_cpu.

A method is 'name=FILE.py:PRESET', or a variant of it: 'name=FILE.py:PRESET method.temperature=0.5 optim.learning_rate=1e-3'. Its
loss, heads, views and optimizer come from its own preset; what stands in `shared` replaces the preset's value in every run, and
`shared.encoder` replaces every node `encoder` of the method, however deep, as `shared.image` and `shared.caption` do.
"""

import ml_collections

from sslax import recipes
from sslax.evals.knn import KNN
from sslax.models.resnet import ResNet
from sslax.spec import spec

METHODS = (
  'simclr',
  'moco',
  'moco_v3',
  'byol',
  'simsiam',
  'fastsiam',
  'nnclr',
  'barlow_twins',
  'vicreg',
  'swav',
  'dino',
  'supcon',
)


def every_method(preset):
  """Each method's own preset of that name; the two pairwise losses are one method with two."""
  pairwise = (f'triplet=configs/metric_learning.py:{preset}', f'margin=configs/metric_learning.py:{preset}_margin')
  return (*(f'{name}=configs/{name}.py:{preset}' for name in METHODS), *pairwise)


def digits(config):
  """All methods on 1,297 handwritten digits, small ResNet, two CPU cores.

  python -m sslax.compare --config=configs/compare.py:digits --workdir=runs/compare_digits

  With all labels given, raw pixels are hard to beat on digits: the column to read is that of 5 labels a class.
  Status: measured on 2026-11-22 with --config.probes='("fewshot",)', in two parts: benchmarks/RESULTS.md. One to four minutes a
  method on shared cores.
  """
  config.methods = every_method('digits')
  config.probes = ('fewshot', 'knn')
  config.shared = dict(
    data=dict(train='digits:@train', test='digits:@test'),
    batch_size=128,
    num_epochs=60.0,
    encoder=spec(ResNet, depth=18, stem='cifar', stages=(1, 1, 1), base=16),
    eval=dict(probes=dict(knn=spec(KNN, k=20))),
    online=dict(every_steps=300),
    checkpoint=dict(every_steps=200),
    log=dict(every_steps=1),
  )


def cifar10_cpu(config):
  """All methods on CIFAR-10, small ResNet, two epochs, two CPU cores: at most ten minutes a method.

  python -m sslax.compare --config=configs/compare.py:cifar10_cpu --workdir=runs/compare_cifar10 \\
      --config.shared.data.train='parquet:/data/cifar10/train-*' --config.shared.data.test='parquet:/data/cifar10/test-*'

  Status: measured on 2026-11-22 with --config.probes='("knn",)' and eight of the methods: 38 minutes on 2 shared cores, see
  benchmarks/RESULTS.md. The others and the linear probe: not yet measured.
  """
  config.methods = every_method('cifar10_cpu')
  config.probes = ('knn', 'linear')
  config.shared = dict(
    data=dict(train='tfds:cifar10@train', test='tfds:cifar10@test'),
    batch_size=256,
    num_epochs=2.0,
    encoder=spec(ResNet, depth=18, stem='imagenet', stages=(1, 1, 1), base=32),
    eval=dict(probes=dict(knn=spec(KNN))),
    online=dict(every_steps=200),
    checkpoint=dict(every_steps=200),
    log=dict(every_steps=1),
  )


def no_runs():
  """A comparison of nothing."""
  return ml_collections.ConfigDict(dict(methods=(), seeds=(0,), probes=(), shared={}))


PRESETS = recipes.presets(digits, cifar10_cpu)
get_config = recipes.get_config(PRESETS, no_runs)
