"""Triplet and margin losses against their formulas in float64, and mining on rows placed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses import corners

from sslax.errors import UserError
from sslax.losses import metric
from sslax.losses.metric import MINING

triplet, contrastive_margin = jax.jit(metric.triplet, static_argnames='mining'), jax.jit(metric.contrastive_margin)


def all_of_them(z1, z2):
  return contrastive_margin(z1, z2, 1.0) + sum(triplet(z1, z2, 0.2, mining=mining) for mining in MINING)


def rows(z1, z2):
  z = corners.unit(np.concatenate([z1, z2]))
  n, b = len(z), len(z1)
  return z, n, lambda i: (i + b) % n, lambda i: [k for k in range(n) if k % b != i % b]


def slow_triplet(z1, z2, margin, mining):
  z, n, other, negatives = rows(z1, z2)
  losses = []
  for i in range(n):
    positive = np.square(z[i] - z[other(i)]).sum()
    distance = sorted(np.square(z[i] - z[k]).sum() for k in negatives(i))
    if mining == 'hard':
      distance = distance[:1]
    elif mining == 'semi_hard':
      distance = ([d for d in distance if d > positive] or distance[-1:])[:1]
    losses += [max(0, positive - d + margin) for d in distance]
  return np.mean(losses)


def slow_margin(z1, z2, margin):
  z, n, other, negatives = rows(z1, z2)
  positive = [0.5 * np.square(z[i] - z[other(i)]).sum() for i in range(n)]
  negative = [0.5 * max(0, margin - np.linalg.norm(z[i] - z[k])) ** 2 for i in range(n) for k in negatives(i)]
  return np.mean(positive) + np.mean(negative)


def circle(*degrees):
  a = np.radians(degrees)
  return np.float32(np.stack([np.cos(a), np.sin(a)], 1))


@pytest.mark.parametrize('mining,b,margin', [('all', 7, 0.2), ('hard', 7, 0.2), ('semi_hard', 7, 0.2), ('semi_hard', 2, 1.0)])
def test_triplet_written_as_loops(mining, b, margin):
  corners.compare(
    lambda x, y: triplet(x, y, margin, mining=mining), lambda x, y: slow_triplet(x, y, margin, mining), *corners.pairs(b, 6)
  )


@pytest.mark.parametrize('b,margin', [(2, 1.0), (7, 1.5)])
def test_margin_written_as_loops(b, margin):
  corners.compare(lambda x, y: contrastive_margin(x, y, margin), lambda x, y: slow_margin(x, y, margin), *corners.pairs(b, 6))


def test_mining_on_a_circle():
  chord = lambda degrees: 2 - 2 * np.cos(np.radians(degrees))
  # Of the anchor at 0 the positive is at 40, the negatives at 20 and 90. The others: 40 -> 0; 20 -> 90; 90 -> 20.
  z1, z2 = circle(0, 20), circle(40, 90)
  hinge = lambda p, n: max(0.0, chord(p) - chord(n) + 0.5)
  hard = [hinge(40, 20), hinge(40, 20), hinge(70, 20), hinge(70, 50)]
  # At 40 the negatives are 20 and 50 away: semi-hard takes 50. At 20 and 90 the positive is 70 away: of 20 none is farther, so
  # the farthest (20) is taken; of 90 it is the row at 0.
  semi_hard = [hinge(40, 90), hinge(40, 50), hinge(70, 20), hinge(70, 90)]
  np.testing.assert_allclose(triplet(z1, z2, 0.5, mining='hard'), np.mean(hard), rtol=1e-5)
  np.testing.assert_allclose(triplet(z1, z2, 0.5, mining='semi_hard'), np.mean(semi_hard), rtol=1e-5)
  np.testing.assert_allclose(triplet(z1, z2, 0.5), np.mean(semi_hard), rtol=1e-5)


def test_perfect_pairs_give_zero_and_equal_rows_the_margin():
  z = 3 * np.eye(4, dtype=np.float32)
  for mining in MINING:
    assert triplet(z, z, 0.5, mining=mining) == 0
    np.testing.assert_allclose(triplet(z[:1].repeat(4, 0), z[:1].repeat(4, 0), 0.5, mining=mining), 0.5, rtol=1e-6)
  assert contrastive_margin(z, z, 1.2) == 0
  np.testing.assert_allclose(contrastive_margin(jnp.ones((4, 3)), jnp.ones((4, 3)), 1.0), 0.5, rtol=3e-3)


def test_margin_weighs_positives_and_negatives_alike_for_any_batch():
  z = np.eye(16, dtype=np.float32)
  for b in (2, 16):
    np.testing.assert_allclose(contrastive_margin(z[:b], -z[:b], 2.0), 2 + (2 - 2**0.5) ** 2 / 2, rtol=1e-5)


def test_negatives_are_pushed_apart():
  z = jnp.array(circle(0, 1))
  grad = jax.grad(contrastive_margin)(z, z, 1.0)
  assert grad[1, 1] < -0.1 < 0.1 < grad[0, 1]


@pytest.mark.parametrize('case', corners.CASES)
def test_finite_at_the_edges(case):
  corners.finite(all_of_them, *corners.awkward(case))


@pytest.mark.slow
def test_eight_devices_equal_one():
  corners.eight_equal_one(lambda a, b: contrastive_margin(a, b, 1.0) + triplet(a, b, 0.5), *corners.pairs(32))


def test_wrong_arguments_are_refused():
  z = jnp.ones((4, 3))
  with pytest.raises(UserError, match='easy.*semi_hard'):
    triplet(z, z, 0.2, mining='easy')
  for f in (lambda a, b: triplet(a, b, 0.2), lambda a, b: contrastive_margin(a, b, 1.0)):
    with pytest.raises(UserError, match='batch_size'):
      f(z[:1], z[:1])
    with pytest.raises(AssertionError):
      f(z, z[:2])
    with pytest.raises(AssertionError):
      f(z[None], z[None])
