"""Margin losses on Euclidean distances between unit rows: triplets with mining, and Hadsell's contrastive loss."""

import chex
import jax
import jax.numpy as jnp

from sslax.errors import UserError
from sslax.ops.normalize import inner, l2_normalize

MINING = ('all', 'hard', 'semi_hard')


def triplet(z1: jax.Array, z2: jax.Array, margin: float | jax.Array, mining: str = 'semi_hard') -> jax.Array:
  """max(0, d(anchor, positive) - d(anchor, negative) + margin), d the squared distance of unit rows, mean over the triplets.

  Schroff et al. 2015 (FaceNet), https://arxiv.org/abs/1503.03832, sec. 3, mined in the batch: every one of the 2B rows is an
  anchor, its other view the positive, the 2B - 2 rows of other images the candidates for the negative.

  Args:
    z1: [B, D] embeddings of the first views, any scale, B >= 2.
    z2: [B, D] embeddings of the second views; row i belongs with row i of `z1`.
    margin: > 0 on squared distances, which lie in [0, 4]; 0.2 in the paper.
    mining: 'semi_hard' takes the closest negative that is farther than the positive, and where none is farther the
      farthest of all (the paper leaves it open; this is TensorFlow Addons' rule, the gentlest); 'hard' the closest; both give one
      triplet an anchor. 'all' averages over all 2B (2B - 2) triplets, those at 0 included.

  Returns:
    [] float32; the margin when all rows are equal.

  Raises:
    UserError: another mining, or a batch of one image.
  """
  positive, distance, negative = _distances(z1, z2, 'triplet')
  if mining not in MINING:
    raise UserError(f'triplet: mining {mining!r} is unknown. Known: {", ".join(MINING)}.')
  if mining == 'all':
    hinge = jax.nn.relu(positive[:, None] - distance + margin)
    return jnp.where(negative, hinge, 0).sum() / negative.sum()
  nearest = jnp.where(negative, distance, jnp.inf).min(axis=1)
  if mining == 'semi_hard':
    farther = negative & (distance > positive[:, None])
    nearest_farther = jnp.where(farther, distance, jnp.inf).min(axis=1)
    nearest = jnp.where(farther.any(axis=1), nearest_farther, jnp.where(negative, distance, -jnp.inf).max(axis=1))
  return jax.nn.relu(positive - nearest + margin).mean()


def contrastive_margin(z1: jax.Array, z2: jax.Array, margin: float | jax.Array) -> jax.Array:
  """Mean over positive pairs of d^2 / 2 + mean over negative pairs of max(0, margin - d)^2 / 2, d the distance of unit rows.

  Hadsell et al. 2006, https://doi.org/10.1109/CVPR.2006.100, eq. 4. The paper sums over given pairs; here positives are the B
  pairs of views and negatives all pairs of rows of different images, each kind averaged by itself: the 2B - 2 negatives of a row
  weigh as much as its one positive, for any batch size. Rows are l2-normalised here, which the paper does not do.

  Args:
    z1: [B, D] embeddings of the first views, any scale, B >= 2.
    z2: [B, D] embeddings of the second views; row i belongs with row i of `z1`.
    margin: > 0; distances lie in [0, 2], those of unrelated rows near 1.4.

  Returns:
    [] float32; about margin^2 / 2 when all rows are equal.

  Raises:
    UserError: a batch of one image.
  """
  positive, distance, negative = _distances(z1, z2, 'contrastive_margin')
  # A negative nearer than 1e-3 counts as 1e-3 without gradient: a float32 inner product knows d^2 to 1e-7, so below it the
  # direction of the push is noise over a distance near 0.
  push = jnp.square(jax.nn.relu(margin - jnp.sqrt(jnp.maximum(distance, 1e-6)))) / 2
  return positive.mean() / 2 + jnp.where(negative, push, 0).sum() / negative.sum()


def _distances(z1, z2, loss):
  """([2B] squared distance to the other view, [2B, 2B] squared distances, [2B, 2B] True where the images differ)."""
  chex.assert_rank([z1, z2], 2)
  chex.assert_equal_shape([z1, z2])
  b, d = z1.shape
  if b < 2:
    raise UserError(f'{loss}: a batch of one image has no negatives; batch_size must be at least 2.')
  z = jnp.stack([l2_normalize(z1), l2_normalize(z2)], axis=1)  # interleaved behind the sharded axis: no row leaves its device
  # The positives' from the differences, exact where they are small.
  positive = jnp.repeat(jnp.square(z[:, 0] - z[:, 1]).sum(axis=1), 2)
  z = z.reshape(-1, d)
  square = jnp.sum(z * z, axis=1)
  image = jnp.arange(2 * b) // 2
  return positive, square[:, None] + square[None, :] - 2 * inner(z, z), image[:, None] != image[None, :]
