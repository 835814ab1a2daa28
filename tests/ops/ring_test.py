import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslax.ops.ring import enqueue, random_units


def test_the_oldest_rows_go_first():
  queue, pointer = jnp.zeros((6, 1)), jnp.zeros((), jnp.int32)
  for i in range(1, 5):
    queue, pointer = jax.jit(enqueue)(queue, pointer, jnp.full((2, 1), float(i)))
  np.testing.assert_array_equal(queue[:, 0], [4, 4, 2, 2, 3, 3])  # the fourth pair replaced the first
  assert pointer == 2


def test_rows_that_do_not_divide_are_refused_and_gradients_cut():
  with pytest.raises(ValueError, match='multiple'):
    enqueue(jnp.zeros((5, 1)), jnp.zeros((), jnp.int32), jnp.ones((2, 1)))
  grad = jax.grad(lambda x: enqueue(jnp.zeros((4, 1)), jnp.zeros((), jnp.int32), x)[0].sum())(jnp.ones((2, 1)))
  assert not grad.any()


def test_random_rows_are_unit_and_point_everywhere():
  rows = random_units(jax.random.key(0), 512, 8)
  np.testing.assert_allclose(jnp.linalg.norm(rows, axis=1), 1, rtol=1e-6)
  assert np.abs(rows.mean(0)).max() < 0.1
