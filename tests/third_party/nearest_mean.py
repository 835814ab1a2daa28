"""A third party's method and its config in one file, outside the package: a linear autoencoder that remembers the mean record.

python -m sslax.train --config=nearest_mean.py --workdir=runs/theirs
python -m sslax.train --config=nearest_mean.py:circles --workdir=runs/circles    # with an input and a source from outside, too
"""

import dataclasses
import pathlib

import flax.linen as nn
import jax.numpy as jnp

from sslax.inputs.image import Image
from sslax.method import Features, Input, Method, Output
from sslax.models import net
from sslax.run.config import base_config
from sslax.run.optim import Adam
from sslax.spec import spec


class Linear(nn.Module):
  width: int = 8

  @nn.compact
  def __call__(self, x, train: bool):
    del train
    return nn.Dense(self.width)(x)


@dataclasses.dataclass(frozen=True)
class LinearAutoencoder(Method):
  encoder: nn.Module
  momentum: float = 0.9
  input: Input = Image(8)

  def inputs(self):
    return {'input': self.input}

  @property
  def modules(self):
    return {'encoder': self.encoder}

  def _flat(self, batch):
    (key,) = self.input.shapes()
    x = batch[key].reshape(len(batch[key]), -1)
    return x / 255 if x.dtype == jnp.uint8 else x

  def init(self, rng, views):
    x = self._flat(views)
    encoder, _ = net.init(self.encoder, rng, x)
    return {'encoder': encoder, 'decoder': jnp.zeros((self.encoder.width, x.shape[1]))}, {'mean': x.mean(0)}

  def loss(self, params, memory, views, rng, step):
    x = self._flat(views)
    z, _ = net.apply(self.encoder, params['encoder'], {}, x - memory['mean'][None], train=True)
    mean = self.momentum * memory['mean'] + (1 - self.momentum) * x.mean(0)
    return jnp.mean((z @ params['decoder'] + memory['mean'][None] - x) ** 2), Output({'mean': mean}, {})

  def features(self, params, memory, batch):
    z, _ = net.apply(self.encoder, params['encoder'], {}, self._flat(batch) - memory['mean'][None], train=False)
    return Features(pooled=z)


def get_config(preset: str = 'digits'):
  config = base_config()
  config.batch_size, config.num_steps = 64, 20
  config.method = spec(LinearAutoencoder, encoder=spec(Linear, width=16))
  config.optim = spec(Adam, learning_rate=3e-3, scaling='none', warmup='0 steps', weight_decay=0.0)
  config.checkpoint.every_steps = 10
  if preset == 'circles':
    here = pathlib.Path(__file__).parent
    config.data.train = f'{here}/circles.py:Circles:300?size=8@train'
    config.data.test = f'{here}/circles.py:Circles:90?size=8@test'
    config.method.input = dict(make=f'{here}/circle_list.py:CircleList', rows=3)
  return config
