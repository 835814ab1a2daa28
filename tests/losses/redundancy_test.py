"""Barlow Twins and VICReg against lightly's values and their formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses import corners

from sslax.errors import UserError
from sslax.losses import redundancy

barlow_twins, vicreg = jax.jit(redundancy.barlow_twins), jax.jit(redundancy.vicreg)
cross_correlation, vicreg_terms = jax.jit(redundancy.cross_correlation), jax.jit(redundancy.vicreg_terms)


def both(z1, z2):
  return barlow_twins(z1, z2, 0.005) + vicreg(z1, z2)


def slow_correlation(z1, z2):
  b, d = z1.shape
  c = np.zeros((d, d))
  for i in range(d):
    for j in range(d):
      x, y = z1[:, i] - z1[:, i].mean(), z2[:, j] - z2[:, j].mean()
      c[i, j] = (x * y).sum() / b / np.sqrt(((x * x).sum() / b + 1e-5) * ((y * y).sum() / b + 1e-5))
  return c


def slow_barlow(z1, z2, weight=0.02):
  c, total = slow_correlation(z1, z2), 0
  for i in range(len(c)):
    for j in range(len(c)):
      total += (1 - c[i, i]) ** 2 if i == j else weight * c[i, j] ** 2
  return total


def slow_terms(z1, z2):
  d, out = z1.shape[1], {'invariance': np.mean((z1 - z2) ** 2), 'variance': 0, 'covariance': 0}
  for z in (z1, z2):
    out['variance'] += sum(max(0, 1 - np.sqrt(z[:, i].var(ddof=1) + 1e-4)) for i in range(d)) / d / 2
    cov = np.cov(z.T)
    out['covariance'] += sum(cov[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d
  return out


@pytest.mark.parametrize(
  'loss,name', [(lambda a, b: barlow_twins(a, b, 0.005), 'barlow_lambda0.005'), (vicreg, 'vicreg_25_25_1')]
)
def test_value_and_gradients_of_lightly(golden, loss, name):
  ref = np.load(golden / f'loss_{name}.npz')
  value, grads = jax.jit(jax.value_and_grad(loss, (0, 1)))(ref['z1'], ref['z2'])
  np.testing.assert_allclose(value, ref['loss'], rtol=1e-5)
  corners.golden_gradient(grads[0], ref['grad_z1'])
  corners.golden_gradient(grads[1], ref['grad_z2'])


@pytest.mark.parametrize('b', [2, 9])
def test_barlow_twins_written_as_loops(b):
  z1, z2 = corners.pairs(b, 5)
  np.testing.assert_allclose(cross_correlation(z1, 2 * z2), slow_correlation(z1, 2 * z2), rtol=1e-5, atol=1e-6)
  if b > 2:  # two rows are always correlated by 1 or -1: the gradient is only that of the 1e-5
    corners.compare(lambda a, b: barlow_twins(a, b, 0.02), slow_barlow, z1, z2)


def test_correlation_is_of_the_first_view_with_the_second():
  z = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
  c = cross_correlation(z, 4 * z[:, ::-1] + 7)
  assert c.shape == (3, 3) and (np.diagonal(c[:, ::-1]) > 0.999).all()
  z2 = z.copy()
  z2[:, 0] = z[:, 1]
  assert cross_correlation(z, z2)[1, 0] > 0.999


def test_barlow_twins_at_the_optimum_and_collapsed():
  white = np.sqrt(8) * np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
  white = np.concatenate([white, -white]).astype(np.float32)
  np.testing.assert_allclose(barlow_twins(white, white, 0.005), 0, atol=1e-6)
  np.testing.assert_allclose(barlow_twins(jnp.ones((4, 6)), jnp.ones((4, 6)), 0.005), 6)
  assert barlow_twins(white[:1], white[:1], 0.005) == 8


@pytest.mark.parametrize('b', [2, 9])
def test_vicreg_written_as_loops(b):
  z1, z2 = (0.9 * z for z in corners.pairs(b, 5))
  terms, expected = vicreg_terms(z1, z2), slow_terms(z1, z2)
  assert terms.keys() == expected.keys()
  for key in terms:
    np.testing.assert_allclose(terms[key], expected[key], rtol=1e-5)
  slow = lambda a, b: 2 * (t := slow_terms(a, b))['invariance'] + 3 * t['variance'] + 5 * t['covariance']
  corners.compare(lambda a, b: vicreg(a, b, 2.0, 3.0, 5.0), slow, z1, z2)


def test_vicreg_of_constant_and_of_spread_embeddings():
  terms = vicreg_terms(jnp.full((4, 3), 7.0), jnp.full((4, 3), 5.0))
  np.testing.assert_allclose([terms[k] for k in ('invariance', 'variance', 'covariance')], [4, 0.99, 0], rtol=1e-6)
  wide = 10 * corners.pairs(32, 4)[0]
  assert vicreg_terms(wide, wide)['variance'] == 0 == vicreg_terms(wide, wide)['invariance']


def test_vicreg_of_one_image_is_a_clear_error():
  with pytest.raises(UserError, match='batch'):
    vicreg(jnp.ones((1, 4)), jnp.ones((1, 4)))


@pytest.mark.parametrize('case', corners.CASES)
def test_finite_at_the_edges(case):
  z1, z2 = corners.awkward(case)
  # VICReg's covariance is the fourth power of the scale, which leaves float32 at 1e9.
  corners.finite(both, np.float32(1e-8) * z1 if case == 'large' else z1, z2)


def test_eight_devices_equal_one():
  corners.eight_equal_one(both, *corners.pairs(32))


def test_wrong_ranks_and_shapes_are_refused():
  z = jnp.ones((4, 3))
  for f in (cross_correlation, vicreg_terms):
    with pytest.raises(AssertionError):
      f(z[0], z[0])
    with pytest.raises(AssertionError):
      f(z, z[:, :2])
