"""Flax behind three functions: `init -> (params, stats)`, `apply -> (out, stats)`, and `groups`, what each parameter is.

The only file that knows which Flax it is. `stats` holds running statistics (BatchNorm); it is {} for networks without them.
Methods keep it in their memory.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from sslax.errors import UserError
from sslax.ops import fsdp, microbatches, tree

PyTree = Any

VECTORS = r'(bias|scale\d*)$'  # how biases and the scales of norms are called: Flax's names, LayerScale, a method's logit_scale


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
    variables = {'params': _whole(module, params), **({'batch_stats': stats} if stats else {})}
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


def has_batch_norm(memory: PyTree) -> bool:
  """Whether a network keeps running variances there."""
  return any(path.endswith('/var') for path in tree.paths(memory))


def _whole(module, params):
  """Weights that are split over the mesh, gathered for this application, except those that their own layer gathers."""
  if fsdp.axis_size() == 1:
    return params
  return jax.tree.map(lambda w, group: w if group.gathered else fsdp.gather(w), params, _groups_of(module, params))


@dataclasses.dataclass(frozen=True)
class Group:
  """What a network says of one of its parameters: optimizers and sharding go by it. A leaf to JAX, which a NamedTuple is not.

  Attributes:
    decay: False: biases and scales of norms, which have no weight decay and no adaptation by LARS and LARC.
    layer: for rates that decay with depth: 0 of embeddings, i + 1 of block i, that of the first where blocks are stacked; None:
      after the last block.
    stacked: how many layers of `nn.scan` the leading axis holds; 0: it holds none.
    gathered: where weights are split, the layer itself gathers it, one layer at a time (`transformer.layer`).
  """

  decay: bool = True
  layer: int | None = None
  stacked: int = 0
  gathered: bool = False


def groups(modules: Mapping[str, nn.Module], params: PyTree) -> PyTree:
  """The tree of the `Group` of each parameter.

  A module states them in a method `param_groups(params) -> tree of Group`. One that does not, and parts of `params` that no
  module made (a temperature, a mask token), have `plain_groups`.

  Args:
    modules: the network behind params[name]; see `Method.modules`.
    params: arrays or their shapes.

  Raises:
    UserError: a module's groups are no tree like its parameters.
  """
  named = {name: _groups_of(modules[name], part, name) for name, part in params.items() if name in modules}
  return {**plain_groups(params), **named}


def plain_groups(params: PyTree) -> PyTree:
  """Groups by the names of the leaves alone: what is called like a bias or a scale has no decay, and there are no layers."""
  return tree.map_with_path(lambda path, _: Group(decay=not re.search(VECTORS, path)), params)


def _groups_of(module, params, name='params'):
  if not hasattr(module, 'param_groups'):
    return plain_groups(params)
  found = module.param_groups(params)
  if not tree.same_structure(found, params) or not all(isinstance(group, Group) for group in jax.tree.leaves(found)):
    raise UserError(f'{type(module).__name__}.param_groups must return a tree like {name}, with a net.Group for each leaf')
  return found


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
