"""A queue of the last K rows, as a ring that is written in place."""

import chex
import jax
import jax.numpy as jnp


def enqueue(queue: jax.Array, pointer: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(queue, pointer) with `rows` written over the oldest ones.

  Args:
    queue: [K, D], replicated over devices; K is a multiple of N (MoCo's official code asks for the same).
    pointer: [] int32, where the oldest row is.
    rows: [N, D], the newest. They are what a mesh gathers: N x D numbers.

  Raises:
    ValueError: N does not divide K.
  """
  chex.assert_rank([queue, rows], 2)
  if queue.shape[0] % rows.shape[0]:
    raise ValueError(f'a queue of {queue.shape[0]} rows does not take {rows.shape[0]} at a time: its length must be a multiple')
  rows = jax.lax.stop_gradient(rows).astype(queue.dtype)
  queue = jax.lax.dynamic_update_slice(queue, rows, (pointer, jnp.zeros((), pointer.dtype)))
  return queue, (pointer + rows.shape[0]) % queue.shape[0]


def random_units(rng: jax.Array, length: int, size: int) -> jax.Array:
  """[K, D] random unit rows: what a queue holds before the first keys (MoCo's official code)."""
  rows = jax.random.normal(rng, (length, size))
  return rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
