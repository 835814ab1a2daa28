"""A third party's method and its config in one file, outside the package: a linear autoencoder that remembers the mean image.

python -m sslax.train --config=nearest_mean.py --workdir=runs/theirs
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from sslax.method import Method, Output
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

  def _flat(self, image):
    return image.reshape(len(image), -1).astype(jnp.float32) / 255

  def init(self, rng, views):
    x = self._flat(views['image'])
    encoder, _ = net.init(self.encoder, rng, x)
    return {'encoder': encoder, 'decoder': jnp.zeros((self.encoder.width, x.shape[1]))}, {'mean': x.mean(0)}

  def loss(self, params, memory, views, rng, step):
    x = self._flat(views['image'])
    z, _ = net.apply(self.encoder, params['encoder'], {}, x - memory['mean'][None], train=True)
    mean = self.momentum * memory['mean'] + (1 - self.momentum) * x.mean(0)
    return jnp.mean((z @ params['decoder'] + memory['mean'][None] - x) ** 2), Output({'mean': mean}, {})

  def features(self, params, memory, batch):
    z, _ = net.apply(self.encoder, params['encoder'], {}, self._flat(batch['image']) - memory['mean'][None], train=False)
    return {'pooled': z}


def get_config(preset: str = 'digits'):
  del preset
  config = base_config()
  config.batch_size, config.num_steps, config.data.image_size = 64, 20, 8
  config.method = spec(LinearAutoencoder, encoder=spec(Linear, width=16))
  config.optim = spec(Adam, learning_rate=3e-3, scaling='none', warmup='0 steps', weight_decay=0.0)
  config.checkpoint.every_steps = 10
  return config
