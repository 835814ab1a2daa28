"""How far apart the rows of a batch are, which a falling loss does not show: metrics without gradient, and KoLeo, a loss."""

import chex
import jax
import jax.numpy as jnp

from sslax.ops.normalize import inner, l2_normalize


def embedding_std(z: jax.Array) -> jax.Array:
  """Standard deviation over the batch of unit rows, mean over channels, times sqrt(D); no gradient.

  Chen & He 2021 (SimSiam), https://arxiv.org/abs/2011.10566, sec. 4.1.

  Args:
    z: [N, D] embeddings, any scale.

  Returns:
    [] float32: about 1 when rows point everywhere, 0 when all point the same way.
  """
  chex.assert_rank(z, 2)
  return l2_normalize(jax.lax.stop_gradient(z)).std(axis=0).mean() * z.shape[1] ** 0.5


def embedding_rank(z: jax.Array, rows: int = 256) -> jax.Array:
  """How many directions the rows fill: tr(C)^2 / tr(C^2), C the covariance of unit rows; no gradient.

  The participation ratio, between 1 (all on one line) and min(N - 1, D). Sees what `embedding_std` cannot when the last layer is
  a BatchNorm, which keeps a spread in every channel although all channels say the same.

  Args:
    z: [N, D] embeddings, any scale.
    rows: only the first so many: [rows, rows] inner products.

  Returns:
    [] float32; 0 when all rows are equal.
  """
  chex.assert_rank(z, 2)
  z = l2_normalize(jax.lax.stop_gradient(z[:rows]))
  z = z - z.mean(axis=0, keepdims=True)
  gram = inner(z, z)  # as good as C here, and no larger for wide embeddings
  return jnp.square(jnp.trace(gram)) / jnp.maximum(jnp.sum(jnp.square(gram)), 1e-20)


def assignment_information(probabilities: jax.Array) -> jax.Array:
  """Entropy of the mean assignment minus the mean entropy of the assignments, in nats; no gradient.

  The mutual information of row and cluster, 0 for both collapses of a method that assigns: every row to one cluster (low entropy)
  and every row to all clusters alike (high entropy), which look opposite in the loss (Caron et al. 2021,
  https://arxiv.org/abs/2104.14294, sec. 5.3).

  Args:
    probabilities: [N, K], rows sum to 1.

  Returns:
    [] float32 in [0, log(min(N, K))].
  """
  chex.assert_rank(probabilities, 2)
  p = jax.lax.stop_gradient(probabilities).astype(jnp.float32)
  return jax.scipy.special.entr(p.mean(axis=0)).sum() - jax.scipy.special.entr(p).sum(axis=1).mean()


def koleo(z: jax.Array, eps: float = 1e-8) -> jax.Array:
  """-mean log(distance of each unit row to its nearest other row + eps): lower when rows are spread evenly.

  Kozachenko & Leonenko's estimate of the entropy as a regulariser, Sablayrolles et al. 2019, https://arxiv.org/abs/1806.03198,
  eq. 3, as DINOv2's official code has it (facebookresearch/dinov2, loss/koleo_loss.py): neighbours by inner product, gradient
  into both rows of a pair. There the rows are those of one GPU, here those of the global batch. Where a row has a double the
  gradient of that pair is 0; torch's is as large as 1 / eps there, along nothing but rounding errors.

  Args:
    z: [N, D] embeddings, any scale.
    eps: added to the distance.

  Returns:
    [] float32; 0 for a single row, which has no neighbour.
  """
  chex.assert_rank(z, 2)
  n = len(z)
  if n < 2:
    return jnp.zeros((), jnp.float32)
  z = l2_normalize(z)
  nearest = jnp.argmax(jnp.where(jnp.eye(n, dtype=bool), -jnp.inf, inner(z, z)), axis=1)
  square = jnp.sum(jnp.square(z - z[nearest]), axis=1)
  apart = square > 1e-14  # below, the rows of float32 differ by rounding only
  distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1.0)), 0.0)
  return -jnp.log(distance + eps).mean()
