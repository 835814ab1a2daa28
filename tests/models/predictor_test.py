"""I-JEPA's predictor: what it may look at, and where it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslax.models import net
from sslax.models.predictor import Predictor

GRID, K, L = (4, 4), 5, 3


@pytest.fixture(scope='module')
def predict():
  """(x, context, target, valid) -> prediction, with parameters large enough for attention to matter."""
  module = Predictor(width=16, depth=2, heads=2)
  params, stats = net.init(module, jax.random.key(0), *inputs(), GRID)
  assert stats == {} and params['mask_token'].shape == (16,) and params['proj']['kernel'].shape == (16, 12)
  params = jax.tree.map(lambda w: 5 * w if w.ndim > 1 else w + 0.1 * jnp.arange(w.size) / w.size, params)
  return jax.jit(lambda *inputs: net.apply(module, params, {}, *inputs, GRID, train=False)[0])


def inputs(seed=0):
  rng = np.random.default_rng(seed)
  ids = np.stack([rng.permutation(16)[: K + L] for _ in range(2)])
  return np.float32(rng.standard_normal((2, K, 12))), ids[:, :K], ids[:, K:], np.ones((2, K + L), bool)


def test_padding_is_seen_by_nobody_and_order_means_nothing(predict):
  x, context, target, valid = inputs()
  valid[:, [3, 4, K + 2]] = False
  out = np.asarray(predict(x, context, target, valid))
  other_x, other_context, other_target = x.copy(), context.copy(), target.copy()
  other_x[:, 3:], other_context[:, 3:], other_target[:, 2] = 7, 0, 1
  np.testing.assert_allclose(predict(other_x, other_context, other_target, valid)[:, :2], out[:, :2], rtol=1e-5, atol=1e-6)
  order = [2, 0, 1, 3, 4]
  np.testing.assert_allclose(predict(x[:, order], context[:, order], target, valid), out, rtol=1e-4, atol=1e-5)
  assert out.shape == (2, L, 12) and out.dtype == np.float32


def test_place_and_context_matter(predict):
  x, context, target, valid = inputs()
  out = np.asarray(predict(x, context, target, valid))
  assert np.abs(predict(x, context, (target + 1) % 16, valid) - out).max() > 1e-3, 'the place of the target'
  assert np.abs(predict(x, (context + 1) % 16, target, valid) - out).max() > 1e-3, 'the place of the context'
  assert np.abs(predict(x + 1, context, target, valid) - out).max() > 1e-3, 'the context'
  assert np.abs(out[:, 0] - out[:, 1]).max() > 1e-3, 'two targets of one image'


@pytest.mark.slow
def test_scanned_blocks_are_the_loop():
  fields = dict(width=16, depth=2, heads=2)

  @jax.jit
  def outs(key):
    params, _ = net.init(Predictor(**fields), key, *inputs(), GRID)
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), params['blocks_0'], params['blocks_1'])
    scanned = Predictor(**fields, scan=True, remat='full')
    return [
      net.apply(module, params, {}, *inputs(), GRID, train=True)[0]
      for module, params in ((Predictor(**fields), params), (scanned, {**params, 'blocks': stack}))
    ]

  loop, scan = outs(jax.random.key(0))
  np.testing.assert_allclose(scan, loop, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('changes', [{'width': 30}, {'width': 18, 'heads': 3}, {'depth': 0}, {'dtype': 'int8'}, {'remat': 'all'}])
def test_impossible_values_are_refused(changes):
  with pytest.raises(ValueError):
    Predictor(**changes)
