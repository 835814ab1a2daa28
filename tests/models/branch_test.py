import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods import tiny

from sslax.models import branch, net

MODULES = {'encoder': tiny.resnet(), 'head': tiny.head(8, 4), 'predictor': tiny.head(8, 4)}


def views(v=2, size=16):
  return jax.random.uniform(jax.random.key(v), (4, v, size, size, 3))


@pytest.mark.slow
def test_a_branch_is_its_modules_one_after_the_other():
  params, stats = branch.init(MODULES, jax.random.key(0), views()[:, 0])
  outs, new = branch.apply(MODULES, params, stats, views()[:, 0], train=True)
  x, expected = views()[:, 0], {}
  for name, module in MODULES.items():
    x, expected[name] = net.apply(module, params[name], stats[name], x, train=True)
    x = x.pooled if name == 'encoder' else x
    got = outs[name].pooled if name == 'encoder' else outs[name]
    np.testing.assert_array_equal(got, x)
  jax.tree.map(np.testing.assert_array_equal, new, expected)


@pytest.mark.slow
def test_each_view_has_its_own_batch_statistics_and_moves_the_running_ones():
  params, stats = branch.init(MODULES, jax.random.key(0), views()[:, 0])
  outs, new = branch.apply_each(MODULES, params, stats, views(), train=True)
  alone, once = branch.apply(MODULES, params, stats, views()[:, 0], train=True)
  second, twice = branch.apply(MODULES, params, once, views()[:, 1], train=True)
  np.testing.assert_array_equal(outs[0]['head'], alone['head'])
  np.testing.assert_array_equal(outs[1]['head'], second['head'])
  jax.tree.map(np.testing.assert_array_equal, new, twice)


@pytest.mark.slow
def test_multi_crop_joins_sizes_in_order():
  """Without batch statistics each crop's output is what it would be alone."""
  modules = {'encoder': tiny.vit(), 'head': tiny.head(8, 4, norm='none')}
  large, small = views(2, 16), views(3, 8)
  params, stats = branch.init(modules, jax.random.key(0), large[:, 0])
  outs, _ = branch.apply_crops(modules, params, stats, (large, small), train=False)
  assert outs['head'].shape == (4, 5, 4) and outs['encoder'].shape == (4, 5, 16)
  for v, crop in enumerate([large[:, 0], large[:, 1], small[:, 0], small[:, 1], small[:, 2]]):
    alone, _ = branch.apply(modules, params, stats, crop, train=False)
    np.testing.assert_allclose(outs['head'][:, v], alone['head'], rtol=1e-4, atol=1e-5)


def test_rows_are_interleaved():
  x = jnp.arange(6).reshape(3, 2, 1, 1, 1)
  np.testing.assert_array_equal(branch.flatten_views(x).ravel(), jnp.arange(6))
