"""Contrastive losses against reference values, the papers' formulas in float64, closed forms, and themselves on eight devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from losses import corners

from sslax.errors import UserError
from sslax.losses import contrastive

nt_xent, info_nce = jax.jit(contrastive.nt_xent), jax.jit(contrastive.info_nce)
info_nce_queue, contrastive_accuracy = jax.jit(contrastive.info_nce_queue), jax.jit(contrastive.contrastive_accuracy)
supcon = jax.jit(contrastive.supcon, static_argnames='variant')
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
  assert not re.search(r' (all-to-all|collective-permute)(-start)?\(', lowered.as_text())


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


def slow_info_nce(q, k, temperature):
  logits = corners.unit(q) @ corners.unit(k).T / temperature
  return -np.mean([logits[i, i] - np.log(np.exp(logits[i]).sum()) for i in range(len(q))])


@pytest.mark.parametrize('b,temperature', [(7, 0.05), (2, 1.0)])
def test_info_nce_written_as_loops(b, temperature):
  corners.compare(lambda q, k: info_nce(q, k, temperature), lambda q, k: slow_info_nce(q, k, temperature), *corners.pairs(b))


def test_info_nce_is_one_direction_and_log_b_when_all_rows_are_equal():
  q, k = corners.pairs()
  assert abs(info_nce(q, k, 0.2) - info_nce(k, q, 0.2)) > 1e-3
  np.testing.assert_allclose(info_nce(np.ones((8, 4)), np.ones((8, 4)), 0.2), np.log(8), rtol=1e-6)
  assert info_nce(q[:1], k[:1], 0.2) == 0


def test_queue_value_and_gradients_of_moco(golden):
  ref = np.load(golden / 'loss_moco_t0.2.npz')
  queue = ref['queue'].T  # theirs holds its rows in columns
  loss, grads = jax.jit(jax.value_and_grad(lambda q, k: info_nce_queue(q, k, queue, 0.2), (0, 1)))(ref['q'], ref['k'])
  np.testing.assert_allclose(loss, ref['loss'], rtol=1e-5)
  corners.golden_gradient(grads[0], ref['grad_q'])
  corners.golden_gradient(grads[1], ref['grad_k'])


@pytest.mark.parametrize('rows,temperature', [(40, 0.07), (1, 0.5)])
def test_queue_written_as_loops(rows, temperature):
  q, k = corners.pairs(5)
  queue = corners.unit(corners.pairs(rows, seed=1)[0])

  def slow(q, k):
    q, k, total = corners.unit(q), corners.unit(k), 0
    for a, b in zip(q, k, strict=True):
      positive = np.exp(a @ b / temperature)
      total -= np.log(positive / (positive + sum(np.exp(a @ n / temperature) for n in np.float64(queue))))
    return total / len(q)

  corners.compare(lambda q, k: info_nce_queue(q, k, queue, temperature), slow, q, k)


def test_queue_of_equal_rows_gives_log_of_one_plus_its_length():
  z = jnp.ones((4, 9)) / 3
  np.testing.assert_allclose(info_nce_queue(2 * z, z, jnp.ones((20, 9)) / 3, 0.07), np.log(21), rtol=1e-6)


def slow_supcon(z, label, temperature, variant):
  z, total = corners.unit(z), 0
  for i in range(len(z)):
    others = [j for j in range(len(z)) if j != i]
    denominator = sum(np.exp(z[i] @ z[j] / temperature) for j in others)
    p = [np.exp(z[i] @ z[j] / temperature) / denominator for j in others if label[j] == label[i]]
    if p:
      total -= np.mean(np.log(p)) if variant == 'out' else np.log(np.mean(p))
  return total / len(z)


def test_supcon_value_and_gradient(golden):
  ref = np.load(golden / 'loss_supcon_t0.1.npz')
  z, theirs = ref['z'], ref['grad_z']
  loss, grad = jax.jit(jax.value_and_grad(lambda z: supcon(z, ref['label'], 0.1)))(z)
  np.testing.assert_allclose(loss, ref['loss'], rtol=1e-5)
  # Theirs takes unit rows as they are; ours normalises them, which removes the gradient along the row.
  corners.golden_gradient(grad, theirs - z * (z * theirs).sum(1, keepdims=True))


@pytest.mark.parametrize('variant,label', [('out', [0, 0, 1, 1, 2, 2, 0, 3]), ('in', [0, 0, 1, 1, 2, 2, 0, 3]), ('out', [5] * 8)])
def test_supcon_written_as_loops(variant, label):
  z = corners.pairs()[1]
  corners.compare(lambda z: supcon(z, jnp.array(label), 0.2, variant=variant), lambda z: slow_supcon(z, label, 0.2, variant), z)


def test_supcon_in_of_one_class_is_constant():
  # All other rows are positives, so their p_ij sum to 1: L_in is log(N - 1) whatever the rows, L_out is more.
  z = corners.pairs()[0]
  np.testing.assert_allclose(supcon(z, np.zeros(8, int), 0.2, variant='in'), np.log(7), rtol=1e-5)
  assert supcon(z, np.zeros(8, int), 0.2, variant='out') > np.log(7) + 0.1


def test_supcon_with_a_class_for_each_image_is_nt_xent():
  z1, z2 = corners.pairs()
  label = jnp.tile(jnp.arange(8), 2)
  for variant in ('out', 'in'):
    np.testing.assert_allclose(supcon(np.concatenate([z1, z2]), label, 0.1, variant=variant), nt_xent(z1, z2, 0.1), rtol=1e-5)


def test_supcon_without_any_positive_is_zero_with_zero_gradient():
  z = jnp.array(corners.pairs()[0])
  for variant, n in (('out', 1), ('in', 1), ('in', 8)):
    loss, grad = jax.value_and_grad(supcon)(z[:n], np.arange(n), 0.1, variant=variant)
    assert loss == 0 and not np.asarray(grad).any()


def test_supcon_refuses_another_variant():
  with pytest.raises(UserError, match='sup.*out'):
    supcon(jnp.ones((4, 2)), jnp.zeros(4, int), 0.1, variant='sup')


QUEUE = corners.unit(corners.pairs(12, seed=1)[0])


def the_others(z1, z2, temperature):
  label = jnp.arange(len(z1)) % 3
  return (
    info_nce(z1, z2, temperature)
    + info_nce_queue(z1, z2, QUEUE, temperature)
    + supcon(z1, label, temperature)
    + supcon(z2, label, temperature, variant='in')
  )


@pytest.mark.parametrize('case', corners.CASES)
def test_the_others_are_finite_at_the_edges(case):
  for temperature in (0.01, 0.5):
    corners.finite(the_others, *corners.awkward(case), np.float32(temperature))


@pytest.mark.slow
def test_the_others_on_eight_devices_equal_one():
  corners.eight_equal_one(lambda a, b: the_others(a, b, 0.1), *corners.pairs(32))


def test_the_others_refuse_wrong_ranks_and_shapes():
  z, label = jnp.ones((4, 3)), jnp.zeros(4, int)
  for f in (
    lambda: info_nce(z, z[:2], 0.1),
    lambda: info_nce(z[None], z[None], 0.1),
    lambda: info_nce_queue(z, z[:1], z, 0.1),
    lambda: info_nce_queue(z, z, z.T, 0.1),
    lambda: supcon(z, label[:2], 0.1),
    lambda: supcon(z, label[:, None], 0.1),
  ):
    with pytest.raises(AssertionError):
      f()
