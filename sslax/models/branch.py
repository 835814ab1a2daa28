"""A branch of a joint-embedding method: modules applied one after the other, {'encoder': ..., 'head': ..., 'predictor': ...}.

Parameters and statistics are dicts with the same keys. A module that returns `Features` hands on its `pooled`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.method import Features
from sslax.models import net

PyTree = Any
Branch = dict[str, nn.Module]


def init(modules: Branch, rng: jax.Array, x: PyTree) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
  """(params, stats) for inputs like `x` [N, ...]."""
  params, stats = {}, {}
  for i, (name, module) in enumerate(modules.items()):
    params[name], stats[name] = net.init(module, jax.random.fold_in(rng, i), x)
    out, _ = net.apply(module, params[name], stats[name], x, train=False)  # for its shape: dead code once compiled
    x = _pooled(out)
  return params, stats


def apply(
  modules: Branch,
  params: PyTree,
  stats: PyTree,
  x: PyTree,
  *,
  train: bool,
  rng: jax.Array | None = None,
  whole: bool = False,
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
  """(outputs of every module by name, stats) for inputs `x` [N, ...].

  Args:
    params, stats: may hold more than `modules` names; `stats` comes back with the same keys.
    rng: for drop path and the like.
    whole: the first module, too, sees all N rows at once; otherwise it runs in the step's microbatches, see `net.apply`.
  """
  outs, stats = {}, dict(stats)
  for i, (name, module) in enumerate(modules.items()):
    out, stats[name] = net.apply(
      module,
      params[name],
      stats[name],
      x,
      train=train,
      rng=None if rng is None else jax.random.fold_in(rng, i),
      whole=whole or i > 0,
    )
    outs[name], x = out, _pooled(out)
  return outs, stats


def apply_each(
  modules: Branch, params: PyTree, stats: PyTree, views: jax.Array, *, train: bool, rng: jax.Array | None = None
) -> tuple[list[dict[str, PyTree]], PyTree]:
  """`apply` to each view of [B, V, H, W, C] in turn, as the official codes of BYOL and its kin do: (V outputs, stats).

  Batch statistics are those of one view; running ones move V times.
  """
  outs = []
  for v in range(views.shape[1]):
    key = None if rng is None else jax.random.fold_in(rng, v)
    out, stats = apply(modules, params, stats, views[:, v], train=train, rng=key)
    outs.append(out)
  return outs, stats


def apply_crops(
  modules: Branch,
  params: PyTree,
  stats: PyTree,
  groups: tuple[jax.Array, ...],
  *,
  train: bool,
  rng: jax.Array | None = None,
) -> tuple[dict[str, PyTree], PyTree]:
  """Multi-crop as in the official codes of SwAV and DINO: the encoder sees all crops of one size together, heads those of all.

  Args:
    groups: [B, V_g, S_g, S_g, C] for each size.

  Returns:
    ({name: [B, V, K]} (or a dict of those) for every module, V counted over all groups; of the encoder the pooled features),
    stats.
  """
  encoder = {'encoder': modules['encoder']}
  heads = {name: module for name, module in modules.items() if name != 'encoder'}
  parts = []
  for g, views in enumerate(groups):
    key = None if rng is None else jax.random.fold_in(rng, g)
    out, stats = apply(encoder, params, stats, flatten_views(views), train=train, rng=key)
    parts.append(out['encoder'].pooled.reshape(*views.shape[:2], -1))
  pooled = jnp.concatenate(parts, axis=1)
  outs, stats = apply(heads, params, stats, flatten_views(pooled), train=train, rng=rng, whole=True)
  return {'encoder': pooled, **jax.tree.map(lambda out: out.reshape(*pooled.shape[:2], -1), outs)}, stats


def flatten_views(views: jax.Array) -> jax.Array:
  """[B, V, ...] -> [B*V, ...], interleaved: no row leaves its chip, and of two views the positive of row i is i ^ 1."""
  return views.reshape(-1, *views.shape[2:])


def _pooled(out):
  return out.pooled if isinstance(out, Features) else out
