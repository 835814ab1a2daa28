"""TrainState and the one training step. Every method, on every number of chips, runs this function."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sslax.method import Method
from sslax.ops import microbatches as pieces
from sslax.ops.tree import l2_norm

PyTree = Any


class TrainState(NamedTuple):
  """All that a run is: saved whole, restored whole."""

  step: jax.Array  # [] int32: updates done, and the position in the data
  params: PyTree  # what gradient descent trains
  memory: PyTree  # what it does not
  opt_state: PyTree


def init_state(method: Method, tx: optax.GradientTransformation, seed: int, batch: dict[str, jax.Array]) -> TrainState:
  """A fresh state for batches like `batch` (arrays, or shapes under `jax.eval_shape`).

  Call it as `jax.jit(init_state, static_argnums=(0, 1, 2), out_shardings=...)`: distinct committed buffers, so that the first
  step may donate them and nothing compiles twice.
  """
  views_rng, init_rng = jax.random.split(jax.random.fold_in(jax.random.key(seed), jnp.uint32(2**32 - 1)))
  params, memory = method.init(init_rng, method.views(views_rng, batch))
  return TrainState(jnp.zeros((), jnp.int32), params, memory, tx.init(params))


def train_step(
  method: Method, tx: optax.GradientTransformation, seed: int, state: TrainState, batch: dict[str, jax.Array]
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One update: views -> loss and gradient -> optimizer -> after.

  Randomness is a function of (seed, step), so there is nothing to carry or to restore. `metrics['finite']` is 1 when loss,
  gradients and new parameters are all finite; a state whose step says 0 must not be saved.
  """
  views_rng, loss_rng = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
  views = method.views(views_rng, batch)
  del batch  # the loss sees the views only

  def loss_fn(params):
    return method.loss(params, state.memory, views, loss_rng, state.step)

  (loss, out), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  # ORDER MATTERS: an EMA target follows the parameters that this step produced.
  params, memory = method.after(params, out.memory, state.step)

  grad_norm, param_norm = l2_norm(grads), l2_norm(params)
  finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(param_norm)
  finite &= jnp.all(
    jnp.array([jnp.all(jnp.isfinite(m)) for m in jax.tree.leaves(memory) if jnp.issubdtype(m.dtype, jnp.floating)] or [True])
  )
  metrics = {'loss': loss, 'grad_norm': grad_norm, 'param_norm': param_norm, **out.metrics, 'finite': finite}
  return TrainState(state.step + 1, params, memory, opt_state), {k: jnp.float32(v) for k, v in metrics.items()}


def jit_step(
  method: Method,
  tx: optax.GradientTransformation,
  seed: int,
  state_sharding: PyTree,
  batch_sharding: PyTree,
  microbatches: int = 1,
) -> jax.stages.Wrapped:
  """`train_step` compiled for a mesh: (state, batch) -> (state, metrics). The old state is donated.

  The mesh of the shardings and the number of microbatches are in context while the step is traced: for what is laid out by hand
  (the blockwise losses, split weights), and for the networks, which run on so many parts of the batch one after the other.
  """
  shardings = jax.tree.leaves(batch_sharding)
  mesh = shardings[0].mesh.abstract_mesh if shardings else jax.sharding.get_abstract_mesh()

  def step(state, batch):
    with jax.sharding.use_abstract_mesh(mesh), pieces.running_in(microbatches):
      return train_step(method, tx, seed, state, batch)

  return jax.jit(step, in_shardings=(state_sharding, batch_sharding), out_shardings=(state_sharding, None), donate_argnums=0)
