"""Sinkhorn-Knopp: soft assignments of a batch to clusters of equal size."""

import jax
import jax.numpy as jnp

from sslax.errors import UserError


def sinkhorn(
  scores: jax.Array, epsilon: float | jax.Array = 0.05, iterations: int = 3, valid: jax.Array | None = None
) -> jax.Array:
  """exp(scores / epsilon) with columns and rows normalised in turn: each cluster gets about B / K rows, each row sums to 1.

  Caron et al. 2020 (SwAV), https://arxiv.org/abs/2006.09882, eq. 3-5 and the official code (facebookresearch/swav, main_swav.py):
  columns first, rows last. In logarithms: no exponential overflows and no row or column vanishes, whatever scores / epsilon is.
  Under `jit` over a mesh the columns are those of the global batch. No gradient is cut: give it `stop_gradient(scores)`.

  Args:
    scores: [B, K] similarities of rows and prototypes.
    epsilon: > 0; smaller is sharper.
    iterations: pairs of normalisations, >= 1.
    valid: [B] bool, 1 = takes part (DINOv2's loss/ibot_patch_loss.py); other rows come out summing to 1 and meaning nothing.

  Returns:
    [B, K] float32, >= 0; rows sum to 1, columns to nearly B / K.

  Raises:
    UserError: no iterations.
  """
  if iterations < 1:
    raise UserError(f'sinkhorn: {iterations} iterations normalise nothing; give at least 1.')
  log_q = scores.astype(jnp.float32) / epsilon
  for _ in range(iterations):
    # -1e30 and not -inf: where nothing takes part a sum over nothing stays finite.
    counted = log_q if valid is None else jnp.where(valid[:, None], log_q, -1e30)
    log_q = jax.nn.log_softmax(log_q - jax.nn.logsumexp(counted, axis=0, keepdims=True), axis=1)
  return jnp.exp(log_q)
