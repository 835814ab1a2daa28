"""Unit rows and their inner products."""

import jax
import jax.numpy as jnp
import numpy as np

from sslax.ops.normalize import inner, l2_normalize


def test_rows_have_length_one_in_float32():
  z = np.random.default_rng(0).standard_normal((2, 5, 7), np.float32)
  u = l2_normalize(jnp.asarray(100 * z, jnp.bfloat16))
  assert u.dtype == jnp.float32
  np.testing.assert_allclose(np.linalg.norm(u, axis=-1), 1, rtol=1e-6)
  np.testing.assert_allclose(l2_normalize(z), z / np.linalg.norm(z, axis=-1, keepdims=True), rtol=1e-6)


def test_zero_stays_zero_with_a_finite_gradient():
  assert not l2_normalize(jnp.zeros((2, 3))).any()
  assert np.isfinite(jax.grad(lambda z: l2_normalize(z).sum())(jnp.zeros((2, 3)))).all()


def test_inner_is_every_row_with_every_row_at_full_precision():
  rng = np.random.default_rng(0)
  a, b = rng.standard_normal((3, 5), np.float32), rng.standard_normal((4, 5), np.float32)
  np.testing.assert_allclose(inner(a, b), [[np.dot(np.float64(x), y) for y in b] for x in a], rtol=1e-5, atol=1e-6)
  # The CPU has no cheaper precision to fall to: that HIGHEST is asked for can only be read from the program.
  text = jax.jit(inner).lower(a, b).as_text()
  assert 'precision = [HIGHEST, HIGHEST]' in text
  assert inner(jnp.asarray(a, jnp.bfloat16), jnp.asarray(b, jnp.bfloat16)).dtype == jnp.float32
