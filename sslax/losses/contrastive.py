"""Contrastive losses over a batch of paired views: every other row of the batch is a negative."""

import chex
import jax
import jax.numpy as jnp
import optax


def nt_xent(z1: jax.Array, z2: jax.Array, temperature: float | jax.Array) -> jax.Array:
  """NT-Xent: cross-entropy of picking an anchor's other view out of the 2B - 1 other rows, mean over the 2B anchors.

  Chen et al. 2020, https://arxiv.org/abs/2002.05709, eq. 1. The official code (google-research/simclr, objective.py) returns the
  SUM of the two views' means, which is 2x this; the mean is what the paper writes and what lightly returns. Rows are
  l2-normalised here (`hidden_norm=True` there), in float32 whatever the input. Under `jit` over a mesh the arrays are the global
  batch, so all devices' rows are negatives and nothing is gathered by hand.

  Args:
    z1: [B, D] projections of the first views, any scale.
    z2: [B, D] projections of the second views; row i belongs with row i of `z1`.
    temperature: divides the cosine similarities, > 0; 0.1 for ImageNet and 0.5 for CIFAR-10 in the paper.

  Returns:
    [] float32; log(2B - 1) when all rows are equal.
  """
  chex.assert_rank([z1, z2], 2)
  logits, positive = _logits(z1, z2, temperature)
  return optax.softmax_cross_entropy_with_integer_labels(logits, positive).mean()


def contrastive_accuracy(z1: jax.Array, z2: jax.Array) -> jax.Array:
  """The fraction of the 2B anchors whose most similar other row is their positive; no gradient.

  Chance is 1 / (2B - 1). The official code logs the same number as contrast_acc.

  Args:
    z1: [B, D] projections of the first views, any scale.
    z2: [B, D] projections of the second views.

  Returns:
    [] float32 in [0, 1]. Equal rows count once at most, so a collapsed encoder scores about chance and not 1.
  """
  chex.assert_rank([z1, z2], 2)
  logits, positive = _logits(jax.lax.stop_gradient(z1), jax.lax.stop_gradient(z2), 1.0)
  return jnp.mean(jnp.argmax(logits, axis=1) == positive, dtype=jnp.float32)


def _logits(z1, z2, temperature):
  """([2B, 2B] cosine similarities / temperature with -inf on the diagonal, [2B] column of each row's positive)."""
  chex.assert_equal_shape([z1, z2])
  # Interleaved, row 2i + v: stacking behind the sharded axis leaves every row on its device; concatenating along it would not.
  z = jnp.stack([_unit(z1), _unit(z2)], axis=1).reshape(-1, z1.shape[1])
  row = jnp.arange(z.shape[0])
  # HIGHEST: by default a TPU multiplies float32 in bfloat16 passes and a GPU in TF32; temperature 0.01 makes it 100 times worse.
  similarity = jnp.matmul(z, z.T, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
  # ORDER MATTERS: masked before the division, the gradient of a learnt temperature would be 0 * inf.
  return jnp.where(row[:, None] == row[None, :], -jnp.inf, similarity / temperature), row ^ 1


def _unit(z):
  """Rows of length 1; 0 stays 0 with a finite gradient (the 1e-12 under the root is tf.math.l2_normalize's)."""
  z = z.astype(jnp.float32)
  return z * jax.lax.rsqrt(jnp.maximum(jnp.sum(z * z, axis=-1, keepdims=True), 1e-12))
