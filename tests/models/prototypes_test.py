import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslax.models import net
from sslax.models.prototypes import Prototypes


def scores(module, x):
  params, stats = net.init(module, jax.random.key(0), x)
  return params, net.apply(module, params, stats, x, train=True)[0]


def test_weight_norm_gives_cosines():
  x = 7 * jax.random.normal(jax.random.key(1), (5, 8))
  params, out = scores(Prototypes(3, weight_norm=True), x)
  unit = lambda a, axis: a / np.linalg.norm(a, axis=axis, keepdims=True)
  np.testing.assert_allclose(out.scores, unit(np.asarray(x), 1) @ unit(np.asarray(params['kernel']), 0), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(out.unit, axis=1), 1, rtol=1e-6)
  assert set(params) == {'kernel'}


def test_a_learnt_scale_starts_at_one_and_multiplies():
  x = jax.random.normal(jax.random.key(1), (5, 8))
  module = Prototypes(3, weight_norm=True, learn_scale=True)
  params, out = scores(module, x)
  np.testing.assert_array_equal(params['scale'], np.ones(3))
  twice, _ = net.apply(module, {**params, 'scale': 2 * params['scale']}, {}, x, train=True)
  np.testing.assert_allclose(twice.scores, 2 * out.scores, rtol=1e-6)


def test_without_weight_norm_the_kernel_is_taken_as_it_is():
  x = jnp.eye(8)[:2]
  params, out = scores(Prototypes(3), x)
  np.testing.assert_allclose(out.scores, params['kernel'][:2], rtol=1e-6)


@pytest.mark.parametrize('fields, word', [({'count': 1}, 'count'), ({'count': 3, 'learn_scale': True}, 'weight_norm')])
def test_impossible_values_are_refused(fields, word):
  with pytest.raises(ValueError, match=word):
    Prototypes(**fields)
