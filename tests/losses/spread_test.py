"""Collapse metrics: their ends, their formulas in float64, no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses import corners

from sslax.losses import spread

embedding_std, assignment_information = jax.jit(spread.embedding_std), jax.jit(spread.assignment_information)


def test_embedding_std_written_as_loops():
  z = corners.pairs()[0]
  u = corners.unit(np.float64(z))
  expected = np.mean([np.sqrt(np.mean((u[:, i] - u[:, i].mean()) ** 2)) for i in range(16)]) * 4
  np.testing.assert_allclose(embedding_std(5 * z), expected, rtol=1e-5)


def test_embedding_std_is_one_for_spread_rows_and_zero_for_a_point():
  z = np.random.default_rng(0).standard_normal((2000, 32), np.float32)
  np.testing.assert_allclose(embedding_std(z), 1, atol=0.02)
  # Rows of any length in one direction are one point: a metric of the raw rows would not see it.
  assert embedding_std(np.arange(1.0, 9)[:, None] * np.ones((1, 4))) < 1e-6
  assert embedding_std(np.zeros((8, 4))) == 0 == embedding_std(z[:1])
  assert embedding_std(z.astype(jnp.bfloat16)).dtype == jnp.float32


def test_information_is_zero_for_both_collapses_and_full_for_a_partition():
  one, uniform, partition = np.eye(4)[np.zeros(8, int)], np.full((8, 4), 0.25), np.eye(4)[np.arange(8) % 4]
  assert assignment_information(one) == 0
  np.testing.assert_allclose(assignment_information(uniform), 0, atol=1e-6)
  np.testing.assert_allclose(assignment_information(partition), np.log(4), rtol=1e-6)
  same = np.array([[0.7, 0.2, 0.1]]).repeat(5, 0)
  np.testing.assert_allclose(assignment_information(same), 0, atol=1e-6)


def test_information_written_as_loops():
  p = np.exp(corners.log_softmax(np.float64(2 * corners.pairs(6, 5)[0])))
  entropy = lambda q: -sum(x * np.log(x) for x in q)
  expected = entropy(p.mean(0)) - np.mean([entropy(q) for q in p])
  np.testing.assert_allclose(assignment_information(p), expected, rtol=1e-5)


def test_no_gradient():
  z = jnp.array(corners.pairs()[0])
  assert not jax.grad(embedding_std)(z).any()
  assert not jax.grad(lambda z: assignment_information(jax.nn.softmax(z)))(z).any()


def test_wrong_ranks_are_refused():
  for f in (embedding_std, assignment_information):
    with pytest.raises(AssertionError):
      f(jnp.ones((2, 3, 4)))
