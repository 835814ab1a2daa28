"""Rows on the unit sphere and their inner products: what every loss over similarities starts from."""

import jax
import jax.numpy as jnp


def l2_normalize(z: jax.Array) -> jax.Array:
  """Rows of length 1, float32; 0 stays 0 with a finite gradient (the 1e-12 under the root is tf.math.l2_normalize's).

  Args:
    z: [..., D] of any floating dtype.

  Returns:
    [..., D] float32.
  """
  z = z.astype(jnp.float32)
  return z * jax.lax.rsqrt(jnp.maximum(jnp.sum(z * z, axis=-1, keepdims=True), 1e-12))


def inner(a: jax.Array, b: jax.Array) -> jax.Array:
  """Every row of `a` times every row of `b`, multiplied and accumulated in float32.

  Args:
    a: [N, D] float32.
    b: [M, D] float32.

  Returns:
    [N, M] float32.
  """
  # HIGHEST: by default a TPU multiplies float32 in bfloat16 passes and a GPU in TF32; temperature 0.01 makes it 100 times worse.
  return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
