"""Clipping of gradients: all together, and each on its own."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any


def clip_norm(limit: float) -> optax.GradientTransformation:
  """Gradients above this global norm are scaled down to it; 0 is off."""
  return optax.clip_by_global_norm(limit) if limit else optax.identity()


def clip_each(limit: float, stacked: PyTree) -> optax.GradientTransformation:
  """g -> g min(1, limit / (|g| + 1e-6)), leaf by leaf, and layer by layer where they are stacked; 0 is off."""
  if not limit:
    return optax.identity()

  def clip(g, layers):
    axes = tuple(range(int(layers), g.ndim))
    norm = jnp.sqrt(jnp.sum(jnp.square(g.astype(jnp.float32)), axes, keepdims=True))
    return (g * jnp.minimum(1.0, limit / (norm + 1e-6))).astype(g.dtype)

  return optax.stateless(lambda grads, _: jax.tree.map(clip, grads, stacked))
