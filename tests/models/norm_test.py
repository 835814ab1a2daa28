import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sslax.models import net
from sslax.models.norm import BatchNorm


def images(B=16, C=5, seed=0, mean=0.5):
  return (np.random.default_rng(seed).standard_normal((B, 3, 4, C)) * 2 + mean).astype(np.float32)


def variables(x, **fields):
  """A layer with gamma, beta and running statistics that are not the initial ones."""
  norm, rng = BatchNorm(**fields), np.random.default_rng(1)
  params, stats = jax.eval_shape(lambda key: net.init(norm, key, x), jax.random.key(0))
  draw = lambda leaf: np.float32(1 + 0.3 * rng.random(leaf.shape))
  return norm, jax.tree.map(draw, params), jax.tree.map(draw, stats)


@functools.partial(jax.jit, static_argnames='norm')
def train(norm, params, stats, x):
  return net.apply(norm, params, stats, x, train=True)


def reference(x, params, stats):
  """torch.nn.BatchNorm2d in float64: (output, running mean, running variance)."""
  x = x.astype(np.float64)
  axes = tuple(range(x.ndim - 1))
  mean, var = x.mean(axes), x.var(axes)
  y = (x - mean) / np.sqrt(var + 1e-5) * np.float64(params['scale']) + np.float64(params['bias'])
  return y, 0.9 * stats['mean'] + 0.1 * mean, 0.9 * stats['var'] + 0.1 * x.var(axes, ddof=1)


def test_train_is_pytorchs():
  x = images()
  norm, params, stats = variables(x)
  y, new = train(norm, params, stats, x)
  y_ref, mean, var = reference(x, params, stats)
  np.testing.assert_allclose(y, y_ref, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(new['mean'], mean, rtol=1e-5)
  np.testing.assert_allclose(new['var'], var, rtol=1e-5)  # unbiased: 191 / 192 apart from Flax's


def test_eval_uses_the_running_statistics():
  x = images()
  norm, params, stats = variables(x)
  y, new = net.apply(norm, params, stats, x, train=False)
  y_ref = (x - stats['mean']) / np.sqrt(stats['var'] + 1e-5) * params['scale'] + params['bias']
  np.testing.assert_allclose(y, y_ref, rtol=1e-5, atol=1e-6)
  assert new is stats


@pytest.mark.parametrize('strided', [False, True])
def test_groups_are_a_loop_over_groups(strided):
  x = images(24)
  norm, params, stats = variables(x, groups=4, strided=strided)
  y, new = train(norm, params, stats, x)
  rows = np.arange(24)
  rows = rows.reshape(6, 4).T if strided else rows.reshape(4, 6)  # group g: rows g, g + 4, ... or rows 6 g ... 6 g + 5
  means, variances = [], []
  for group in rows:
    y_ref, mean, var = reference(x[group], params, stats)
    np.testing.assert_allclose(np.asarray(y)[group], y_ref, rtol=1e-5, atol=1e-5)
    means.append(mean)
    variances.append(var)
  np.testing.assert_allclose(new['mean'], np.mean(means, 0), rtol=1e-5)
  np.testing.assert_allclose(new['var'], np.mean(variances, 0), rtol=1e-5)


@pytest.mark.parametrize('groups, strided, allowed', [(1, False, {'all-reduce'}), (8, False, set()), (8, True, {'all-reduce'})])
def test_eight_devices_are_one(groups, strided, allowed):
  """Statistics are global (or the group's), whatever the sharding; images never travel, contiguous groups send nothing at all."""
  x = images(32)
  norm, params, stats = variables(x, groups=groups, strided=strided)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  x_sharded = jax.device_put(x, NamedSharding(mesh, P('data')))
  forward = jax.jit(lambda x: net.apply(norm, params, stats, x, train=True))
  for a, b in zip(jax.tree.leaves(forward(x)), jax.tree.leaves(forward(x_sharded)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
  output_only = jax.jit(
    lambda x: net.apply(norm, params, stats, x, train=True)[0]
  )  # the statistics themselves are a mean over groups
  text = output_only.lower(x_sharded).compile().as_text()
  used = {name for name in ('all-reduce', 'all-gather', 'all-to-all', 'collective-permute') if f'{name}(' in text}
  assert used == allowed


def test_variance_survives_a_large_mean():
  """E[x^2] - E[x]^2 in float32 would be off by tens of percent here."""
  x = images(mean=3000.0)
  norm, params, stats = variables(x)
  stats = {**stats, 'mean': jnp.full(5, 2990.0)}
  y, new = train(norm, params, stats, x)
  y_ref, _, var = reference(x, params, stats)
  np.testing.assert_allclose(y, y_ref, atol=2e-3)
  np.testing.assert_allclose(new['var'], var, rtol=1e-4)


def test_bfloat16_keeps_float32_statistics():
  x = images(64)
  norm, params, stats = variables(x, dtype='bfloat16')
  y, new = train(norm, params, stats, jnp.bfloat16(x))
  y_ref, mean, var = reference(np.float32(jnp.bfloat16(x)), params, stats)
  assert y.dtype == jnp.bfloat16 and {leaf.dtype for leaf in jax.tree.leaves((params, new))} == {jnp.dtype('float32')}
  np.testing.assert_allclose(np.float32(y), y_ref, atol=0.03)
  np.testing.assert_allclose(new['mean'], mean, rtol=1e-5)
  np.testing.assert_allclose(new['var'], var, rtol=1e-5)


def test_no_gradient_through_running_statistics():
  """Neither out of them nor into them: microbatches stay apart in the backward pass."""
  x = images(4)
  norm, params, stats = variables(x)
  into = jax.jit(jax.grad(lambda x: sum(jnp.sum(s) for s in train(norm, params, stats, x)[1].values())))(x)
  assert not np.any(into)
  out_of = jax.jit(jax.grad(lambda s: jnp.sum(train(norm, params, s, x)[0] ** 3)))(stats)
  assert out_of['mean'].tolist() == [0.0] * 5  # exactly: not a rounded nothing


def test_switches():
  x = images(4)
  assert net.init(BatchNorm(use_scale=False), jax.random.key(0), x)[0].keys() == {'bias'}
  assert net.init(BatchNorm(use_bias=False), jax.random.key(0), x)[0].keys() == {'scale'}
  norm = BatchNorm(scale_init=0.0)
  assert not np.any(net.apply(norm, *net.init(norm, jax.random.key(0), x), x, train=True)[0])
  norm = BatchNorm(momentum=0.0)
  params, stats = net.init(norm, jax.random.key(0), x)
  new = net.apply(norm, params, stats, x, train=True)[1]
  np.testing.assert_allclose(new['mean'], x.mean((0, 1, 2)), rtol=1e-5)


def test_refusals():
  norm, params, stats = variables(images(6), groups=4)
  with pytest.raises(ValueError, match='6 rows do not divide into groups=4'):
    net.apply(norm, params, stats, images(6), train=True)
  norm, params, stats = variables(np.zeros((4, 5), np.float32), groups=4)
  with pytest.raises(ValueError, match='one value per channel'):
    net.apply(norm, params, stats, jnp.zeros((4, 5)), train=True)
  with pytest.raises(ValueError, match='groups=0'):
    BatchNorm(groups=0)
  with pytest.raises(ValueError, match='momentum=9'):
    BatchNorm(momentum=9.0)
