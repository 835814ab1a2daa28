"""Losses that only pull two views together: BYOL and SimSiam. What keeps them from collapsing is the method's, not the loss's."""

import chex
import jax
import jax.numpy as jnp

from sslax.ops.normalize import l2_normalize


def negative_cosine(p: jax.Array, z: jax.Array) -> jax.Array:
  """-p.z / (|p| |z|), mean over the batch: one direction.

  Chen & He 2021 (SimSiam), https://arxiv.org/abs/2011.10566, eq. 1; the method averages both directions (eq. 2). No gradient
  is cut: give it `stop_gradient(z)`.

  Args:
    p: [B, D] predictions, any scale.
    z: [B, D] targets, any scale.

  Returns:
    [] float32 in [-1, 1]; a row of zeros counts as orthogonal to everything.
  """
  chex.assert_rank([p, z], 2)
  chex.assert_equal_shape([p, z])
  return -jnp.sum(l2_normalize(p) * l2_normalize(z), axis=1).mean()


def byol(p: jax.Array, z: jax.Array) -> jax.Array:
  """|p/|p| - z/|z||^2 = 2 - 2 cos(p, z), mean over the batch: one direction.

  Grill et al. 2020 (BYOL), https://arxiv.org/abs/2006.07733, eq. 2; the method sums the two directions. No gradient is cut.

  Args:
    p: [B, D] predictions, any scale.
    z: [B, D] targets, any scale.

  Returns:
    [] float32 in [0, 4].
  """
  return 2 + 2 * negative_cosine(p, z)
