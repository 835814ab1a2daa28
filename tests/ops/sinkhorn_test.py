"""Sinkhorn-Knopp against lightly's codes, the official loop in float64, and itself on eight devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sslax.errors import UserError
from sslax.ops import sinkhorn as module

sinkhorn = jax.jit(module.sinkhorn, static_argnames='iterations')


def scores(b=12, k=5, seed=0):
  return np.tanh(np.random.default_rng(seed).standard_normal((b, k), np.float32))


def slow(scores, epsilon, iterations):
  """The official code's loop, in float64: q is [K, B]."""
  q = np.exp(np.float64(scores) / epsilon).T
  k, b = q.shape
  q /= q.sum()
  for _ in range(iterations):
    for i in range(k):
      q[i] /= q[i].sum() * k
    for j in range(b):
      q[:, j] /= q[:, j].sum() * b
  return (q * b).T


def test_codes_of_lightly(golden):
  ref = np.load(golden / 'sinkhorn_eps0.05_iter3.npz')
  np.testing.assert_allclose(sinkhorn(ref['scores']), ref['codes'], rtol=1e-5)


@pytest.mark.parametrize('epsilon,iterations', [(0.05, 3), (0.03, 1), (0.5, 5)])
def test_the_official_loop(epsilon, iterations):
  s = scores()
  np.testing.assert_allclose(sinkhorn(s, epsilon, iterations=iterations), slow(s, epsilon, iterations), rtol=2e-5, atol=1e-12)


def test_rows_sum_to_one_and_clusters_are_of_equal_size():
  s = scores(64, 8)
  s[:, 0] += 1  # a prototype that everyone likes best
  q = sinkhorn(s, 0.1)
  np.testing.assert_allclose(q.sum(1), 1, rtol=1e-5)
  np.testing.assert_allclose(sinkhorn(s, 0.5, iterations=6).sum(0), 8, rtol=1e-3)
  assert (s.argmax(1) == 0).mean() > 0.4 > 0.2 > (q.argmax(1) == 0).mean()


def test_equal_scores_give_uniform_codes():
  np.testing.assert_allclose(sinkhorn(jnp.ones((6, 4))), 0.25, rtol=1e-6)


@pytest.mark.parametrize('scale', [20.0, 1e4])
def test_finite_where_the_exponential_overflows(scale):
  s = scale * scores()
  s[3] = -scale  # exp underflows a whole row, and a whole column
  s[:, 2] = -scale
  q = sinkhorn(s, 1.0)
  assert np.isfinite(np.asarray(q)).all()
  np.testing.assert_allclose(q.sum(1), 1, rtol=1e-5)
  if scale == 20:
    np.testing.assert_allclose(q, slow(s, 1.0, 3), rtol=1e-4, atol=1e-12)


def test_bfloat16_scores_are_computed_in_float32():
  s = scores().astype(jnp.bfloat16)
  q = sinkhorn(s)
  assert q.dtype == jnp.float32
  np.testing.assert_array_equal(q, sinkhorn(s.astype(np.float32)))


def test_a_batch_of_one_is_uniform():
  # One row shared by K clusters of equal size; no row is favoured by its scores.
  np.testing.assert_allclose(sinkhorn(scores(1)), 0.2, rtol=1e-5)


def test_eight_devices_equal_one_and_move_no_scores():
  s = scores(32)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  rows = NamedSharding(mesh, P('data'))
  compiled = jax.jit(sinkhorn, out_shardings=rows).lower(jax.device_put(s, rows)).compile()
  np.testing.assert_allclose(compiled(jax.device_put(s, rows)), sinkhorn(s), rtol=1e-5, atol=1e-9)
  assert not re.search(r' (all-gather|all-to-all|collective-permute)(-start)?\(', compiled.as_text())


def test_no_iterations_is_a_clear_error():
  with pytest.raises(UserError, match='iterations'):
    sinkhorn(scores(), iterations=0)


def test_rows_that_take_no_part_change_nothing():
  rng = np.random.default_rng(0)
  scores, valid = rng.standard_normal((24, 5), np.float32), rng.random(24) < 0.6
  balance = jax.jit(lambda scores, valid, epsilon: sinkhorn(scores, epsilon, valid=valid))
  np.testing.assert_allclose(balance(scores, valid, 0.5)[valid], sinkhorn(scores[valid], 0.5), rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(balance(scores, valid, 0.5).sum(1), 1.0, rtol=1e-5)
  assert np.isfinite(balance(scores, np.zeros(24, bool), 0.05)).all()
