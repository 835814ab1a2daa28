"""Weight decay, with a strength that may change over the run and a factor for each parameter."""

from typing import Any

import jax
import optax

from sslax.method import Facts
from sslax.ops import schedules
from sslax.ops.schedules import Ramp
from sslax.run.optim.transforms import scheduled

PyTree = Any


def strength(weight_decay: float | Ramp, facts: Facts, where: str) -> schedules.Schedule:
  """step -> what a config says.

  Raises:
    UserError: the ramp's duration is none, or means nothing in this run.
  """
  if isinstance(weight_decay, Ramp):
    return weight_decay.settle(facts, f'{where}.duration')
  return schedules.constant(weight_decay)


def add(strength: schedules.Schedule, factor: PyTree) -> optax.GradientTransformation:
  """g -> g + strength(step) factor w. optax's takes a mask where we need a number for each leaf."""

  def transform(grads, params, step):
    now = strength(step)
    return jax.tree.map(lambda g, w, f: g + now * f * w if f else g, grads, params, factor)

  return scheduled(transform)
