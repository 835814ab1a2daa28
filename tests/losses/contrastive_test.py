"""NT-Xent against lightly's values, the paper's formula in float64, closed forms, and itself on eight devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sslax.losses.contrastive import contrastive_accuracy, nt_xent

value_and_grads = jax.jit(jax.value_and_grad(nt_xent, (0, 1)))


def pairs(b=8, d=16, seed=0):
  z = np.random.default_rng(seed).standard_normal((2, b, d), np.float32)
  return z[0], z[1]


def slow(z1, z2, temperature):
  """Equation 1, anchor by anchor, in float64."""
  z = np.concatenate([z1, z2]).astype(np.float64)
  z /= np.linalg.norm(z, axis=1, keepdims=True)
  n, total = len(z), 0.0
  for i in range(n):
    j = (i + n // 2) % n
    denominator = sum(np.exp(z[i] @ z[k] / temperature) for k in range(n) if k != i)
    total += -np.log(np.exp(z[i] @ z[j] / temperature) / denominator)
  return total / n


@pytest.mark.parametrize('temperature', [0.1, 0.5])
def test_value_and_gradients_of_lightly(golden, temperature):
  ref = np.load(golden / f'loss_nt_xent_t{temperature}.npz')
  loss, grads = value_and_grads(ref['z1'], ref['z2'], temperature)
  np.testing.assert_allclose(loss, ref['loss'], rtol=1e-5)
  for g, key in zip(grads, ('grad_z1', 'grad_z2'), strict=True):
    assert np.linalg.norm(g - ref[key]) < 1e-5 * np.linalg.norm(ref[key])


@pytest.mark.parametrize('b,temperature', [(1, 0.5), (2, 0.1), (7, 0.5), (8, 0.07)])
def test_the_formula_written_as_loops(b, temperature):
  z1, z2 = pairs(b)
  np.testing.assert_allclose(value_and_grads(z1, 3 * z2, temperature)[0], slow(z1, z2, temperature), rtol=1e-5, atol=1e-6)


def test_equal_rows_give_log_of_the_candidates():
  z = jnp.ones((6, 4))
  np.testing.assert_allclose(nt_xent(z, z, 0.1), np.log(11), rtol=1e-6)


def test_perfect_pairs_give_zero():
  z = 5 * jnp.eye(8)
  # Seven pairs of orthogonal rows against one equal row: log(1 + 14 exp(-1/T)).
  np.testing.assert_allclose(nt_xent(z, z, 0.5), np.log1p(14 * np.exp(-2.0)), rtol=1e-6)
  assert 0 <= nt_xent(z, z, 0.01) < 1e-6


def test_views_may_be_swapped():
  z1, z2 = pairs()
  np.testing.assert_allclose(nt_xent(z1, z2, 0.1), nt_xent(z2, z1, 0.1), rtol=1e-6)


def test_gradient_of_the_temperature():
  z1, z2 = pairs()
  h = 1e-4
  slope = (slow(z1, z2, 0.3 + h) - slow(z1, z2, 0.3 - h)) / (2 * h)
  np.testing.assert_allclose(jax.grad(nt_xent, 2)(jnp.array(z1), jnp.array(z2), 0.3), slope, rtol=1e-4)


@pytest.mark.parametrize('case', ['zero', 'all_zero', 'duplicates', 'bfloat16', 'large'])
def test_finite_at_the_edges(case):
  z1, z2 = map(jnp.array, pairs())
  if case == 'zero':
    z1 = z1.at[0].set(0)
  elif case == 'all_zero':
    z1, z2 = jnp.zeros_like(z1), jnp.zeros_like(z2)
  elif case == 'duplicates':
    z1, z2 = z1.at[1].set(z1[0]), z2.at[:2].set(z1[:1])
  elif case == 'bfloat16':
    z1, z2 = z1.astype(jnp.bfloat16), z2.astype(jnp.bfloat16)
  else:
    z1 = 1e15 * z1
  for temperature in (0.01, 0.5):
    loss, grads = value_and_grads(z1, z2, temperature)
    assert loss.dtype == jnp.float32 and np.isfinite(loss)
    assert all(g.dtype == z1.dtype and np.isfinite(np.float32(g)).all() for g in grads)


def test_bfloat16_inputs_are_computed_in_float32():
  z1, z2 = (z.astype(jnp.bfloat16) for z in pairs())
  expected = nt_xent(z1.astype(jnp.float32), z2.astype(jnp.float32), 0.01)
  np.testing.assert_allclose(nt_xent(z1, z2, 0.01), expected, rtol=1e-6)


def test_eight_devices_equal_one_and_move_no_rows():
  z1, z2 = pairs(32)
  f = jax.value_and_grad(nt_xent, (0, 1))
  one, grads = jax.jit(f)(z1, z2, 0.1)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  rows = NamedSharding(mesh, P('data'))
  lowered = jax.jit(f, in_shardings=(rows, rows, None), out_shardings=(None, rows)).lower(z1, z2, 0.1).compile()
  eight, sharded = lowered(jax.device_put(z1, rows), jax.device_put(z2, rows), 0.1)
  np.testing.assert_allclose(eight, one, rtol=1e-6)
  for a, b in zip(sharded, grads, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
  # Embeddings may be gathered, but rows that permute between devices mean that the views were joined along the batch.
  assert not re.search(r'= \S+ (all-to-all|collective-permute)', lowered.as_text())


def test_accuracy_counts_anchors_whose_nearest_row_is_their_positive():
  z = jnp.eye(4)
  assert contrastive_accuracy(z, 2 * z) == 1
  assert contrastive_accuracy(z, z[::-1]) == 0
  # The first pair is exchanged with the second: 4 of 8 anchors still find theirs.
  assert contrastive_accuracy(z, z[jnp.array([1, 0, 2, 3])]) == 0.5


def test_accuracy_of_a_collapsed_encoder_is_about_chance():
  assert contrastive_accuracy(jnp.ones((16, 4)), jnp.ones((16, 4))) <= 2 / 32


def test_accuracy_has_no_gradient():
  z1, z2 = map(jnp.array, pairs())
  assert not jax.grad(contrastive_accuracy)(z1, z2).any()


def test_wrong_ranks_and_shapes_are_refused():
  z = jnp.ones((4, 3))
  for f in (contrastive_accuracy, lambda a, b: nt_xent(a, b, 0.1)):
    with pytest.raises(AssertionError):
      f(z[None], z[None])
    with pytest.raises(AssertionError):
      f(z, z[:2])
