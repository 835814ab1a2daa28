"""Collapse metrics: their ends, their formulas in float64, no gradient; KoLeo against reference values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses import corners

from sslax.losses import spread

embedding_std, assignment_information = jax.jit(spread.embedding_std), jax.jit(spread.assignment_information)
koleo = jax.jit(spread.koleo)


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


def slow_koleo(z):
  u, total = corners.unit(z), 0
  for i in range(len(u)):
    total -= np.log(min(np.sqrt(((u[i] - u[j]) ** 2).sum()) for j in range(len(u)) if j != i) + 1e-8)
  return total / len(u)


def test_koleo_value_and_gradient_of_lightly(golden):
  ref = np.load(golden / 'loss_koleo.npz')
  loss, grad = jax.jit(jax.value_and_grad(spread.koleo))(ref['x'])
  np.testing.assert_allclose(loss, ref['loss'], rtol=1e-5)
  corners.golden_gradient(grad, ref['grad_x'])


def test_koleo_written_as_loops():
  corners.compare(spread.koleo, slow_koleo, corners.pairs()[0])


@pytest.mark.parametrize('case', corners.CASES)
def test_koleo_of_awkward_inputs(case):
  corners.finite(spread.koleo, corners.awkward(case)[0])


@pytest.mark.slow
def test_koleo_of_doubles_and_of_one_row():
  """dinov2 issues 314 and 492: these were Inf there."""
  z = corners.pairs()[0]
  z[1] = z[0]
  value, grad = jax.value_and_grad(spread.koleo)(z)
  np.testing.assert_allclose(value, slow_koleo(np.float64(z)), rtol=1e-5)
  assert np.isfinite(grad).all() and np.abs(grad).max() < 10, 'a double must not blow up the gradient'
  assert spread.koleo(z[:1]) == 0 and not jax.grad(spread.koleo)(z[:1]).any()
  np.testing.assert_allclose(koleo(7 * z), value, rtol=1e-5)  # lengths mean nothing


def test_koleo_on_eight_devices():
  corners.eight_equal_one(spread.koleo, corners.pairs(16)[0])


def test_wrong_ranks_are_refused():
  for f in (embedding_std, assignment_information, koleo):
    with pytest.raises(AssertionError):
      f(jnp.ones((2, 3, 4)))
