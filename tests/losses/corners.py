"""What every loss is put through: a slow float64 twin, awkward inputs, eight devices."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

CASES = ('zero', 'all_zero', 'duplicates', 'bfloat16', 'large')


def pairs(b=8, d=16, seed=0):
  """Two float32 [b, d] arrays; the rows of a pair are related, as two views of an image are."""
  z = np.random.default_rng(seed).standard_normal((2, b, d))
  return np.float32(z[0]), np.float32(z[0] + z[1])


def unit(z):
  return z / np.linalg.norm(z, axis=-1, keepdims=True)


def log_softmax(x):
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


@functools.cache
def value_and_grads(loss, n):
  """Compiled once for a loss (a function that outlives its test) and its number of arrays."""
  return jax.jit(jax.value_and_grad(loss, tuple(range(n))))


def compare(loss, slow, *arrays):
  """`loss` has the value of `slow` (float64), and its gradient has the slope of `slow` along a random direction."""
  value, grads = value_and_grads(loss, len(arrays))(*arrays)
  exact = [np.float64(a) for a in arrays]
  np.testing.assert_allclose(value, slow(*exact), rtol=1e-5, atol=1e-6)
  for i, g in enumerate(grads):
    step = 1e-6 * np.random.default_rng(i).standard_normal(arrays[i].shape)
    ends = [slow(*[a + s * step if j == i else a for j, a in enumerate(exact)]) for s in (1, -1)]
    slope = np.sum(np.float64(g) * step) * 2
    np.testing.assert_allclose(slope, ends[0] - ends[1], rtol=1e-4, atol=1e-5 * np.linalg.norm(g) * np.linalg.norm(step))
    assert np.linalg.norm(g) > 0


def golden_gradient(ours, theirs):
  """Within 1e-5 of the reference, relative to its norm."""
  assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(theirs)


def awkward(case, b=8, d=16):
  """Two [b, d] arrays: a row of zeros, only zeros, equal rows, bfloat16, or 1e15 times too large."""
  z1, z2 = pairs(b, d)
  if case == 'zero':
    z1[0] = 0
  elif case == 'all_zero':
    z1, z2 = 0 * z1, 0 * z2
  elif case == 'duplicates':
    z1[1], z2[:2] = z1[0], z1[:1]
  elif case == 'bfloat16':
    z1, z2 = z1.astype(jnp.bfloat16), z2.astype(jnp.bfloat16)
  else:
    z1 = np.float32(1e15) * z1
  return z1, z2


def finite(loss, *arrays):
  """A finite float32 value and finite gradients in the arrays' dtypes."""
  value, grads = value_and_grads(loss, len(arrays))(*arrays)
  assert value.dtype == jnp.float32 and np.isfinite(value)
  for a, g in zip(arrays, grads, strict=True):
    assert g.dtype == a.dtype and np.isfinite(np.float32(g)).all()


def eight_equal_one(loss, *arrays, axis=0):
  """Value and gradients on one device and with every array's batch axis over eight; returns the collectives that move rows."""
  f = jax.value_and_grad(loss, tuple(range(len(arrays))))
  one, grads = jax.jit(f)(*arrays)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  rows = NamedSharding(mesh, P(*[None] * axis, 'data'))
  arrays = [jax.device_put(a, rows) for a in arrays]
  compiled = jax.jit(f, out_shardings=(None, (rows,) * len(arrays))).lower(*arrays).compile()
  eight, sharded = compiled(*arrays)
  np.testing.assert_allclose(eight, one, rtol=1e-6)
  for a, b in zip(sharded, grads, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * np.abs(b).max())
  return set(re.findall(r' (all-gather|all-to-all|collective-permute)(?:-start)?\(', compiled.as_text()))
