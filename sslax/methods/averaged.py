"""A running average of any method's weights, for evaluation.

Polyak & Juditsky 1992; as in Tarvainen & Valpola 2017 and timm's ModelEma.
"""

import dataclasses

import jax
import jax.numpy as jnp

from sslax.method import Method, Output
from sslax.ops.tree import ema


@dataclasses.dataclass(frozen=True)
class Averaged(Method):
  """Wraps `inner`: training is untouched, `features` uses the average of the parameters (float32).

  average <- momentum * average + (1 - momentum) * params after every update. Running BatchNorm statistics stay the inner ones.
  """

  inner: Method
  momentum: float = 0.999

  def __post_init__(self):
    if not 0 <= self.momentum < 1:
      raise ValueError(f'momentum must be in [0, 1), not {self.momentum}')

  @property
  def uses_labels(self):
    return self.inner.uses_labels

  @property
  def uses_text(self):
    return self.inner.uses_text

  def crops(self):
    return self.inner.crops()

  def grafts(self):
    return tuple(path.replace('memory/', 'memory/inner/', 1) for path in self.inner.grafts())

  def pictures(self, params, memory, batch, rng):
    return self.inner.pictures(memory['average'], memory['inner'], batch, rng)

  def views(self, rng, batch):
    return self.inner.views(rng, batch)

  def init(self, rng, views):
    params, memory = self.inner.init(rng, views)
    return params, {'inner': memory, 'average': jax.tree.map(jnp.copy, params)}

  def loss(self, params, memory, views, rng, step):
    loss, out = self.inner.loss(params, memory['inner'], views, rng, step)
    return loss, Output({'inner': out.memory, 'average': memory['average']}, out.metrics)

  def after(self, params, memory, step):
    params, inner = self.inner.after(params, memory['inner'], step)
    return params, {'inner': inner, 'average': ema(memory['average'], params, self.momentum)}

  def features(self, params, memory, batch):
    del params
    return self.inner.features(memory['average'], memory['inner'], batch)
