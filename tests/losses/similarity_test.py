"""Negative cosine and BYOL against reference values and their formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses import corners

from sslax.losses import similarity

byol, negative_cosine = jax.jit(similarity.byol), jax.jit(similarity.negative_cosine)


def slow_cosine(p, z):
  return -np.mean([a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(p, z, strict=True)])


def slow_byol(p, z):
  return np.mean([np.square(a - b).sum() for a, b in zip(corners.unit(p), corners.unit(z), strict=True)])


def test_negative_cosine_of_lightly(golden):
  ref = np.load(golden / 'loss_negative_cosine.npz')
  loss, grad = jax.jit(jax.value_and_grad(negative_cosine))(ref['p'], ref['z'])
  np.testing.assert_allclose(loss, ref['loss'], rtol=1e-5)
  corners.golden_gradient(grad, ref['grad_p'])


def test_byol_value_and_gradients(golden):
  ref = np.load(golden / 'loss_byol.npz')
  loss, grads = jax.jit(jax.value_and_grad(byol, (0, 1)))(ref['p'], ref['z'])
  np.testing.assert_allclose(loss, ref['loss'], rtol=1e-5)
  corners.golden_gradient(grads[0], ref['grad_p'])
  corners.golden_gradient(grads[1], ref['grad_z'])


@pytest.mark.parametrize('b', [1, 7])
def test_the_formulas_written_as_loops(b):
  corners.compare(negative_cosine, slow_cosine, *corners.pairs(b))
  corners.compare(byol, slow_byol, *corners.pairs(b))


def test_ends_of_the_range():
  z = corners.pairs()[0]
  np.testing.assert_allclose([negative_cosine(z, 3 * z), negative_cosine(z, -z)], [-1, 1], rtol=1e-6)
  np.testing.assert_allclose([byol(z, 3 * z), byol(z, -z)], [0, 4], atol=1e-6)
  np.testing.assert_allclose([negative_cosine(z, 0 * z), byol(0 * z, z)], [0, 2])


@pytest.mark.parametrize('case', corners.CASES)
def test_finite_at_the_edges(case):
  corners.finite(byol, *corners.awkward(case))


def test_eight_devices_equal_one_and_move_nothing():
  assert not corners.eight_equal_one(negative_cosine, *corners.pairs(16))


def test_wrong_ranks_and_shapes_are_refused():
  for f in (negative_cosine, byol):
    with pytest.raises(AssertionError):
      f(jnp.ones(4), jnp.ones(4))
    with pytest.raises(AssertionError):
      f(jnp.ones((4, 2)), jnp.ones((1, 2)))
