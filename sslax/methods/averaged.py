"""A running average of any method's weights, for evaluation.

Polyak & Juditsky 1992; as in Tarvainen & Valpola 2017 and timm's ModelEma.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from sslax.method import Batch, Features, Wrapper
from sslax.ops.tree import ema

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Averaged(Wrapper):
  """Training is untouched, `features` uses the average of the parameters (float32).

  average <- momentum * average + (1 - momentum) * params after every update. Running BatchNorm statistics stay the inner ones
  (timm's ModelEma averages them, too).
  """

  momentum: float = 0.999

  def __post_init__(self) -> None:
    if not 0 <= self.momentum < 1:
      raise ValueError(f'momentum must be in [0, 1), not {self.momentum}')

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    params, memory = super().init(rng, views)
    return params, {**memory, 'average': jax.tree.map(jnp.copy, params)}

  def after(self, params: PyTree, memory: PyTree, step: jax.Array) -> tuple[PyTree, PyTree]:
    params, memory = super().after(params, memory, step)
    return params, {**memory, 'average': ema(memory['average'], params, self.momentum)}

  def features(self, params: PyTree, memory: PyTree, batch: Batch) -> Features:
    del params
    return super().features(memory['average'], memory, batch)

  def pictures(self, params: PyTree, memory: PyTree, batch: Batch, rng: jax.Array) -> Mapping[str, jax.Array | Batch]:
    del params
    return super().pictures(memory['average'], memory, batch, rng)
