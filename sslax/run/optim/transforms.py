"""Transformations with a rate or a strength that changes from step to step, which optax has for whole trees only."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

PyTree = Any


class CountState(NamedTuple):
  """State of a transformation with schedules."""

  count: jax.Array  # type: ignore[assignment]  # [] int32: updates done; hides tuple.count, and is a path in every checkpoint


def scheduled(transform: Callable[[PyTree, PyTree, jax.Array], PyTree]) -> optax.GradientTransformation:
  """transform(updates, params, step) -> updates, with the step counted."""

  def init(params):
    del params
    return CountState(jnp.zeros((), jnp.int32))

  def update(updates, state, params):
    return transform(updates, params, state.count), CountState(optax.safe_increment(state.count))

  return optax.GradientTransformation(init, update)


def descend(rates: Callable[[Any], PyTree]) -> optax.GradientTransformation:
  """u -> -rate(step) u, with a rate for each leaf."""
  return scheduled(lambda updates, _, step: jax.tree.map(lambda u, r: (-r * u).astype(u.dtype), updates, rates(step)))


def momentum(strength: float, nesterov: bool) -> optax.GradientTransformation:
  """u -> v with v <- strength v + u; without a state where it is 0."""
  return optax.trace(strength, nesterov) if strength else optax.identity()
