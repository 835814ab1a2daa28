"""SwAV's swapped prediction against its formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses import corners

from sslax.errors import UserError
from sslax.losses.clustering import swapped_prediction


def scores(v, b=5, k=6, seed=0):
  return np.tanh(np.random.default_rng(seed).standard_normal((v, b, k), np.float32))


def codes(g, b=5, k=6):
  return np.float32(np.exp(corners.log_softmax(3 * scores(g, b, k, seed=1))))


def slow(s, q, temperature=0.1):
  total = 0
  for i in range(len(q)):
    others = [v for v in range(len(s)) if v != i]
    total += np.mean([-(q[i] * corners.log_softmax(s[v] / temperature)).sum(1).mean() for v in others])
  return total / len(q)


@pytest.mark.parametrize('v,g', [(2, 2), (6, 2), (3, 1)])
def test_the_formula_written_as_loops(v, g):
  corners.compare(lambda s, q: swapped_prediction(list(s), list(q), 0.1), slow, scores(v), codes(g))


def test_a_crop_does_not_predict_its_own_code():
  s = [jnp.array(x) for x in scores(3)]
  grads = jax.grad(lambda s: swapped_prediction(s, list(codes(1)), 0.1))(s)
  assert not grads[0].any() and grads[1].any() and grads[2].any()


def test_equal_scores_give_log_k():
  np.testing.assert_allclose(swapped_prediction([jnp.ones((4, 9))] * 4, list(codes(2, 4, 9)), 0.1), np.log(9), rtol=1e-6)


def cold(a, b):
  return swapped_prediction([a, b], list(codes(2, 8, 16)), 0.01)


@pytest.mark.parametrize('case', corners.CASES[:-1])
def test_finite_at_the_edges(case):
  corners.finite(cold, *corners.awkward(case))


def test_eight_devices_equal_one():
  s, q = scores(4, 16), codes(2, 16)
  corners.eight_equal_one(lambda a, b, c: swapped_prediction([a, b, c], list(q), 0.1), *s[:3])


def test_no_pair_is_a_clear_error_and_wrong_shapes_are_refused():
  s = jnp.ones((2, 3))
  for args in (([s], [s]), ([s], [s, s]), ([s, s], [])):
    with pytest.raises(UserError, match='pair'):
      swapped_prediction(*args, 0.1)
  with pytest.raises(AssertionError):
    swapped_prediction([s, s[:1]], [s], 0.1)
