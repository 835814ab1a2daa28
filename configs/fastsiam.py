"""FastSiam (Pototzky, Sultan & Schmidt-Thieme 2022).

Presets: digits, cifar10_cpu, cifar10.
"""

from sslax import recipes
from sslax.methods.fastsiam import FastSiam
from sslax.spec import spec


def digits(config):
  """Handwritten digits on two CPU cores, minutes.

  python -m sslax.train --config=configs/fastsiam.py:digits --workdir=runs/fastsiam_digits

  Status: measured on 2026-11-22 in `sslax.compare` with 60 epochs, not 130, one seed: nearest centroid with 5 labels a class
  0.923 (raw pixels 0.845, random encoder 0.389).
  """
  recipes.digits(config, learning_rate=5e-3)
  config.method = spec(
    FastSiam,
    encoder=recipes.digits_encoder(),
    head=recipes.mlp(128, 128, bias=False, final_bias=False, final_norm='bn_no_affine'),
    predictor=recipes.mlp(32, 128, bias=False),
    augment=recipes.digits_views(count=4),
  )
  config.optim.constant = '^predictor/'


def cifar10_cpu(config):
  """A small ResNet on CIFAR-10 in minutes on two CPU cores; half the epochs of the others, as it sees four views an image.

  python -m sslax.train --config=configs/fastsiam.py:cifar10_cpu --workdir=runs/fastsiam_cpu \\
      --config.data.train='parquet:/data/cifar10/train-*' --config.data.test='parquet:/data/cifar10/test-*'

  Status: not yet measured.
  """
  recipes.cifar10_cpu(config, epochs=3.0)
  config.method = spec(
    FastSiam,
    encoder=recipes.cifar10_cpu_encoder(),
    head=recipes.mlp(256, 256, bias=False, final_bias=False, final_norm='bn_no_affine'),
    predictor=recipes.mlp(64, 256, bias=False),
    augment=recipes.cifar10_cpu_views(count=4),
  )
  config.optim.constant = '^predictor/'


def cifar10(config):
  """lightly's CIFAR-10 table, batch 512, 200 epochs: kNN 0.788 (800 epochs: 0.902; batch 128, 200 epochs: 0.906).

  python -m sslax.train --config=configs/fastsiam.py:cifar10 --workdir=runs/fastsiam_cifar10

  Source of recipe and number: lightly @ e8d317f, cifar10_benchmark.py and benchmarks.rst; see recipes.lightly_cifar10. The
  rate is not scaled with the batch.
  Status: shape-checked, not yet run.
  """
  recipes.lightly_cifar10(config, scale_rate=False)
  config.method = spec(
    FastSiam,
    encoder=recipes.lightly_encoder(),
    head=recipes.mlp(2048, 2048, bias=False, final_bias=False, final_norm='bn'),
    predictor=recipes.mlp(512, 2048, bias=False),
    augment=recipes.lightly_views(area=(0.2, 1.0), count=4),
  )


PRESETS = recipes.presets(digits, cifar10_cpu, cifar10)
get_config = recipes.get_config(PRESETS)
