"""Handwritten digits on two CPU cores: 1,297 images of 8x8 pixels without their labels."""

from typing import Any, TypeAlias

import ml_collections

from sslax.models.resnet import ResNet
from sslax.ops.views import RandomViews
from sslax.run.optim import AdamW
from sslax.spec import spec

Config: TypeAlias = ml_collections.ConfigDict


def digits(config: Config, *, epochs: float = 130.0, learning_rate: float = 1.5e-3) -> None:
  """Data, length, optimizer and evaluation of the `digits` presets: 1,300 steps of 128 images with AdamW."""
  config.data.train, config.data.test = 'digits:@train', 'digits:@test'
  config.batch_size, config.num_epochs = 128, epochs
  config.optim = spec(AdamW, learning_rate=learning_rate, scaling='none', warmup='5%', weight_decay=1e-4)
  config.checkpoint.every_steps = 200
  config.online.every_steps = 200
  config.eval.probes.knn.k = 20


def digits_encoder(**changes: Any) -> Config:
  """A small ResNet for 12 pixels: D = 64."""
  return spec(ResNet, **{**dict(depth=18, stem='cifar', stages=(1, 1, 1), base=16), **changes})


def digits_views(**changes: Any) -> Config:
  """Views that leave a digit what it is.

  A digit is a shape: nothing of it may change that would make it another digit. So no flips (2 and 5, 6 and 9), and no colours,
  as there are none. What differs between two writers of the same digit is slant, size, place, stroke width and pen pressure:
  shear, a rotation far below the angle that turns a 6 towards a 9, crops that keep at least half of the digit with a free aspect
  ratio, blur (stroke), brightness and contrast (pressure). Stronger crops and angles and erasing gave SimCLR less in short runs.
  """
  fields = dict(
    size=12,
    area=(0.5, 1.0),
    ratio=(0.7, 1.4),
    interpolation='bilinear',
    flip=0.0,
    jitter=(0.4, 0.4, 0.0, 0.0),
    gray_prob=0.0,
    blur_prob=0.5,
    blur_kernel=3,
    blur_sigma=(0.1, 1.5),
    rotate=20.0,
    shear=20.0,
  )
  return spec(RandomViews, **{**fields, **changes})
