"""Losses that keep the channels of an embedding apart instead of its rows: Barlow Twins and VICReg."""

import chex
import jax
import jax.numpy as jnp

from sslax.errors import UserError


def cross_correlation(z1: jax.Array, z2: jax.Array) -> jax.Array:
  """C_ij: the correlation over the batch of channel i of the first views with channel j of the second.

  Zbontar et al. 2021 (Barlow Twins), https://arxiv.org/abs/2103.03230, eq. 2, standardised as in the official code by a BatchNorm
  without parameters: biased variance + 1e-5, each view by its own. Under `jit` over a mesh the batch is the global one.

  Args:
    z1: [B, D] embeddings of the first views, any scale.
    z2: [B, D] embeddings of the second views; row i belongs with row i of `z1`.

  Returns:
    [D, D] float32 in [-1, 1]; 0 in the rows and columns of constant channels, and everywhere for a batch of one.
  """
  chex.assert_rank([z1, z2], 2)
  chex.assert_equal_shape([z1, z2])
  return _gram(_standardise(z1), _standardise(z2)) / z1.shape[0]


def barlow_twins(z1: jax.Array, z2: jax.Array, off_diagonal_weight: float | jax.Array) -> jax.Array:
  """Sum of (1 - C_ii)^2 + off_diagonal_weight x the sum over i != j of C_ij^2, C the cross-correlation of the two views.

  Zbontar et al. 2021, https://arxiv.org/abs/2103.03230, eq. 1 (facebookresearch/barlowtwins, main.py, is the same).

  Args:
    z1: [B, D] embeddings of the first views, any scale.
    z2: [B, D] embeddings of the second views.
    off_diagonal_weight: lambda; 0.0051 in the paper.

  Returns:
    [] float32; D when the embeddings are constant.
  """
  c = cross_correlation(z1, z2)
  return jnp.sum(jnp.square(1 - jnp.diagonal(c))) + off_diagonal_weight * _off_diagonal(c)


def vicreg_terms(z1: jax.Array, z2: jax.Array) -> dict[str, jax.Array]:
  """The three terms of VICReg before their weights.

  Bardes et al. 2022, https://arxiv.org/abs/2105.04906, eq. 1-5, with the conventions of the official code
  (facebookresearch/vicreg, main_vicreg.py) where they differ: the invariance is the mean over batch AND channels (eq. 5 sums the
  channels), the variance is averaged over the two views (eq. 6 sums), the covariance is summed over them, as in the paper.

  Args:
    z1: [B, D] embeddings of the first views, not normalised: their scale is what the variance term holds.
    z2: [B, D] embeddings of the second views.

  Returns:
    invariance: [] mean of (z1 - z2)^2.
    variance: [] mean over channels and views of max(0, 1 - sqrt(var + 1e-4)), var unbiased over the batch; 0.99 when constant.
    covariance: [] sum over views of sum over i != j of cov_ij^2 / D, cov unbiased.

  Raises:
    UserError: a batch of one, which has no variance.
  """
  chex.assert_rank([z1, z2], 2)
  chex.assert_equal_shape([z1, z2])
  b, d = z1.shape
  if b < 2:
    raise UserError('vicreg: a batch of one image has no variance; batch_size must be at least 2.')
  z1, z2 = z1.astype(jnp.float32), z2.astype(jnp.float32)
  invariance = jnp.square(z1 - z2).mean()
  variance = covariance = jnp.float32(0)
  for z in (z1, z2):
    z = z - z.mean(axis=0, keepdims=True)
    std = jnp.sqrt(jnp.sum(z * z, axis=0) / (b - 1) + 1e-4)
    variance += jax.nn.relu(1 - std).mean() / 2
    covariance += _off_diagonal(_gram(z, z) / (b - 1)) / d
  return {'invariance': invariance, 'variance': variance, 'covariance': covariance}


def vicreg(z1: jax.Array, z2: jax.Array, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> jax.Array:
  """The weighted sum of `vicreg_terms`: Bardes et al. 2022, https://arxiv.org/abs/2105.04906, eq. 6, the paper's weights.

  Args:
    z1: [B, D] embeddings of the first views, B >= 2, not normalised.
    z2: [B, D] embeddings of the second views.
    invariance: weight of the distance between views.
    variance: weight of the hinge on the channels' standard deviations.
    covariance: weight of the squared covariances between channels.

  Returns:
    [] float32.

  Raises:
    UserError: a batch of one.
  """
  terms = vicreg_terms(z1, z2)
  return invariance * terms['invariance'] + variance * terms['variance'] + covariance * terms['covariance']


def _standardise(z):
  z = z.astype(jnp.float32)
  z = z - z.mean(axis=0, keepdims=True)
  return z * jax.lax.rsqrt(jnp.square(z).mean(axis=0, keepdims=True) + 1e-5)


def _gram(a, b):
  """[D, D] a^T b. HIGHEST: by default a TPU multiplies float32 in bfloat16 passes and a GPU in TF32."""
  return jnp.matmul(a.T, b, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def _off_diagonal(c):
  # Masked rather than the whole sum minus the diagonal's: near the optimum their difference would be all rounding.
  return jnp.sum(jnp.where(jnp.eye(c.shape[0], dtype=bool), 0, jnp.square(c)))
