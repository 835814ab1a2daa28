"""DINO, its centre and SimCLR v2's distillation against reference values and their formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses import corners

from sslax.errors import UserError
from sslax.losses import distillation
from sslax.losses.distillation import cross_view

dino, distill, update_center = jax.jit(distillation.dino), jax.jit(distillation.distill), jax.jit(distillation.update_center)


def logits(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


def slow_dino(student, teacher, center, student_temperature=0.1, teacher_temperature=0.05):
  total = pairs = 0
  for g in range(len(teacher)):
    for v in range(len(student)):
      if v == g:
        continue
      p = np.exp(corners.log_softmax((teacher[g] - center) / teacher_temperature))
      total += -(p * corners.log_softmax(student[v] / student_temperature)).sum(-1).mean()
      pairs += 1
  return total / pairs


def test_value_gradient_and_centre_of_lightly(golden):
  ref = np.load(golden / 'loss_dino.npz')
  temperatures = float(ref['student_temp']), float(ref['teacher_temp'])
  f = lambda s: dino(s, ref['teacher'], ref['center_before'], *temperatures)
  loss, grad = jax.jit(jax.value_and_grad(f))(ref['student'])
  np.testing.assert_allclose(loss, ref['loss'], rtol=1e-5)
  corners.golden_gradient(grad, ref['grad_student'])
  center = update_center(ref['center_before'], ref['teacher'], float(ref['center_momentum']))
  np.testing.assert_allclose(center, ref['center_after'], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('v,g', [(2, 2), (5, 2), (3, 1)])
def test_dino_written_as_loops(v, g):
  args = logits(v, 3, 6), logits(g, 3, 6, seed=1), logits(6, seed=2)
  corners.compare(lambda s, t, c: dino(s, t, c, 0.1, 0.05), slow_dino, *args)


def test_dino_skips_the_pairs_of_the_same_crop():
  student, teacher = jnp.array(logits(3, 4, 5)), logits(1, 4, 5, seed=1)
  grad = jax.grad(dino)(student, teacher, jnp.zeros(5), 0.1, 0.04)
  assert not grad[0].any() and grad[1].any() and grad[2].any()


def test_dino_of_uniform_outputs_is_log_k_and_the_centre_undoes_a_shift():
  np.testing.assert_allclose(dino(jnp.zeros((3, 4, 7)), jnp.zeros((2, 4, 7)), jnp.zeros(7), 0.1, 0.04), np.log(7), rtol=1e-6)
  student, teacher, shift = logits(3, 4, 7), logits(2, 4, 7, seed=1), logits(7, seed=2)
  np.testing.assert_allclose(
    dino(student, teacher + shift, shift, 0.1, 0.04), dino(student, teacher, 0 * shift, 0.1, 0.04), rtol=1e-5
  )


def test_no_pair_is_a_clear_error():
  for v, g in ((1, 1), (1, 2), (2, 0)):
    with pytest.raises(UserError, match='pair'):
      cross_view(jnp.ones((g, 2, 3)), jnp.ones((v, 2, 3)))


@pytest.mark.parametrize('momentum', [0.0, 0.9, 1.0])
def test_centre_moves_towards_the_mean_of_the_raw_logits(momentum):
  center, teacher = logits(6), logits(2, 4, 6, seed=1)
  expected = momentum * center + (1 - momentum) * sum(teacher[g, i] for g in range(2) for i in range(4)) / 8
  np.testing.assert_allclose(update_center(center, teacher, momentum), expected, rtol=1e-5, atol=1e-6)


def test_centre_is_averaged_in_float32_and_keeps_its_dtype():
  teacher = jnp.full((2, 600, 3), 1.0, jnp.bfloat16)
  center = update_center(jnp.zeros(3), teacher, 0.9)
  assert center.dtype == jnp.float32
  np.testing.assert_allclose(center, 0.1, rtol=1e-6)


@pytest.mark.parametrize('temperature', [0.1, 1.0, 3.0])
def test_distill_written_as_loops(temperature):
  def slow(s, t):
    p = [np.exp(x / temperature) / np.exp(x / temperature).sum() for x in t]
    return -np.mean(
      [(a * np.log(np.exp(x / temperature) / np.exp(x / temperature).sum())).sum() for a, x in zip(p, s, strict=True)]
    )

  corners.compare(lambda s, t: distill(s, t, temperature), slow, logits(5, 4), logits(5, 4, seed=1))


def test_distill_is_least_where_the_student_agrees():
  s, t = jnp.array(logits(5, 4)), logits(5, 4, seed=1)
  p = jax.nn.softmax(t / 0.5)
  np.testing.assert_allclose(distill(t + 3, t, 0.5), -(p * jnp.log(p)).sum(1).mean(), rtol=1e-5)
  assert distill(s, t, 0.5) > distill(t, t, 0.5)
  np.testing.assert_allclose(jax.grad(distill)(jnp.array(t), t, 0.5), 0, atol=1e-6)


def cold(student, teacher):
  return dino(student, teacher, jnp.zeros(6), 0.01, 0.01) + distill(student[0], teacher[0], 0.01)


@pytest.mark.parametrize('scale', [0.0, 1.0, 1e4])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_finite_at_the_edges(scale, dtype):
  student, teacher = ((scale * logits(v, 4, 6, seed=v)).astype(dtype) for v in (3, 2))
  corners.finite(cold, student, teacher)


def test_eight_devices_equal_one_and_move_nothing():
  args = logits(4, 16, 6), logits(2, 16, 6, seed=1)
  assert not corners.eight_equal_one(lambda s, t: dino(s, t, jnp.ones(6), 0.1, 0.04), *args, axis=1)


def test_wrong_ranks_and_shapes_are_refused():
  s, t, c = jnp.ones((3, 4, 6)), jnp.ones((2, 4, 6)), jnp.ones(6)
  for f in (
    lambda: dino(s[0], t, c, 0.1, 0.1),
    lambda: dino(s, t[:, :2], c, 0.1, 0.1),
    lambda: dino(s, t, c[:1], 0.1, 0.1),
    lambda: update_center(c[:1], t, 0.9),
    lambda: distill(s[0], t[0, :2], 1.0),
  ):
    with pytest.raises(AssertionError):
      f()


def patches():
  """(teacher, student logits [N, T, K], masked [N, T]): rows with 3, 0, 1 and 5 masked patches."""
  masked = np.arange(5)[None] < np.array([3, 0, 1, 5])[:, None]
  return logits(4, 5, 6), logits(4, 5, 6, seed=1), masked


def slow_patches(teacher, student, masked):
  total = 0
  for n in range(len(masked)):
    each = [
      -(np.exp(corners.log_softmax(teacher[n, t])) * corners.log_softmax(student[n, t])).sum() for t in np.flatnonzero(masked[n])
    ]
    total += sum(each) / max(len(each), 1)
  return total / len(masked)


def test_masked_patches_written_as_loops():
  teacher, student, masked = patches()
  fast = lambda t, s: distillation.masked_patches(jax.nn.softmax(t), jax.nn.log_softmax(s), masked)
  corners.compare(fast, lambda t, s: slow_patches(t, s, masked), teacher, student)
  grad = jax.jit(jax.grad(fast, 1))(teacher, student)
  assert not grad[~masked].any() and np.abs(grad[masked]).max(-1).all()


def test_patch_centre_is_of_masked_patches_and_stands_where_there_are_none():
  center, (teacher, _, masked) = logits(6, seed=2), patches()
  update = jax.jit(distillation.update_patch_center)
  np.testing.assert_allclose(update(center, teacher, masked, 0.9), 0.9 * center + 0.1 * teacher[masked].mean(0), rtol=1e-5)
  np.testing.assert_array_equal(update(center, teacher, 0 * masked == 1, 0.9), center)


@pytest.mark.parametrize('kind', ['smooth_l1', 'l2'])
def test_distance_of_features_written_as_loops(kind):
  prediction, target, valid = 2 * logits(2, 3, 4), logits(2, 3, 4, seed=1), np.array([[1, 1, 0], [1, 0, 0]]) == 1
  one = {'smooth_l1': lambda d: d * d / 2 if abs(d) < 1 else abs(d) - 0.5, 'l2': lambda d: d * d}[kind]

  def slow(p, t):
    return np.mean([one(d) for i, j in np.argwhere(valid) for d in p[i, j] - t[i, j]])

  corners.compare(lambda p, t: distillation.predict_features(p, t, valid, kind), slow, prediction, target)
  with pytest.raises(ValueError, match='huber'):
    distillation.predict_features(prediction, target, valid, 'huber')
