"""Flax behind two functions: `init -> (params, stats)` and `apply -> (out, stats)`. The only file that knows which Flax it is.

`stats` holds running statistics (BatchNorm); it is {} for networks without them. Methods keep it in their memory.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from sslax.errors import UserError
from sslax.ops import fsdp, microbatches, tree

PyTree = Any


def init(module: nn.Module, rng: jax.Array, *inputs: PyTree) -> tuple[PyTree, PyTree]:
  """(params, stats) of `module` for inputs of these shapes, all float32."""
  params_rng, drop_rng = jax.random.split(rng)
  variables = dict(module.init({'params': params_rng, 'dropout': drop_rng}, *inputs, train=False))
  params = variables.pop('params', {})
  return params, variables.pop('batch_stats', {})


def apply(
  module: nn.Module,
  params: PyTree,
  stats: PyTree,
  *inputs: PyTree,
  train: bool,
  rng: jax.Array | None = None,
  whole: bool = False,
  method: str | Callable | None = None,
) -> tuple[PyTree, PyTree]:
  """(out, stats) of `module` on `inputs` (arrays [B, ...], batch first).

  Args:
    train: batch statistics, dropout and drop path on; `stats` is then returned moved, otherwise as it came.
    rng: needed when the module has dropout or drop path and `train`.
    whole: all rows at once, whatever the step says: heads, whose BatchNorm sees all rows. Otherwise, where the step that is being
      traced runs in n > 1 microbatches (`jit_step`), B/n rows at a time under `lax.scan(jax.checkpoint)`. Reverse mode through it
      is GradCache (Gao et al. 2021, https://arxiv.org/abs/2101.06983): the loss still sees all B rows, the activations of B/n are
      alive at a time. Exact for networks without BatchNorm; with it, each microbatch has its own statistics (ghost BatchNorm) and
      `stats` moves n times.
    method: what to call instead of the module itself: the name of a method with an argument `train`, or a function
      (module, *inputs, train) -> out that calls several. It may close over arrays without a batch axis, a mask token say.

  Raises:
    UserError: B is not a multiple of the number of microbatches.
  """

  def once(stats, rng, *inputs):
    variables = {'params': _whole(params), **({'batch_stats': stats} if stats else {})}
    rngs = {'dropout': rng} if rng is not None else {}
    if train and stats:
      out, new = module.apply(variables, *inputs, train=True, rngs=rngs, mutable=['batch_stats'], method=method)
      return out, new['batch_stats']
    return module.apply(variables, *inputs, train=train, rngs=rngs, method=method), stats

  n = 1 if whole else microbatches.count()
  if n == 1:
    return once(stats, rng, *inputs)
  microbatches.note_use()
  rows = jax.tree.leaves(inputs)[0].shape[0]
  if rows % n:
    raise UserError(f'{rows} rows do not divide into config.microbatches={n}')

  # Strided microbatches: row i goes to microbatch i % n, so that the sharded axis stays in front and no pixel changes its chip.
  def split(x):
    return x.reshape(rows // n, n, *x.shape[1:]).swapaxes(0, 1)

  def join(x):
    return x.swapaxes(0, 1).reshape(rows, *x.shape[2:])

  rngs = None if rng is None else jax.random.split(rng, n)

  def body(stats, part):
    rng, inputs = part
    out, stats = jax.checkpoint(once)(stats, rng, *inputs)
    return stats, out

  stats, out = jax.lax.scan(body, stats, (rngs, jax.tree.map(split, inputs)))
  return jax.tree.map(join, out), stats


def _whole(params):
  """Weights that are split over the mesh, gathered for this application, except those that their own layer gathers."""
  return tree.map_with_path(lambda path, w: w if fsdp.LAYERS.search(path) else fsdp.gather(w), params)


def captured_calls(function: Callable, *args: PyTree, method: str) -> tuple[PyTree, list[tuple]]:
  """(function(*args), [arguments of each call of a Flax method of that name, in order]): a look inside without a hook there.

  Works under `jax.jit` of the whole; calls inside a scan or a checkpoint cannot be seen from outside and leak a tracer.
  """
  calls = []

  def note(call, call_args, call_kwargs, context):
    if context.method_name == method:
      calls.append(call_args)
    return call(*call_args, **call_kwargs)

  with nn.intercept_methods(note):
    out = function(*args)
  return out, calls


def groups(modules, params):  # TEMPORARY
  del modules, params
