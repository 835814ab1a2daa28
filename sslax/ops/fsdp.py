"""Fully sharded weights over the mesh axis 'fsdp' (ZeRO stage 3): which dimension is split, and how a layer gets a whole weight.

Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054; Zhao et al. 2023, https://arxiv.org/abs/2304.11277. The mesh is the
one in context when a function is traced (`jax.set_mesh`), so that models need not be told. Without one, nothing here does
anything.
"""

import functools
import math
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

PyTree = Any

MIN_SHARDED_SIZE = 2**14  # smaller leaves are replicated: the gather would cost more than the memory it saves


def axis_size() -> int:
  """Devices over which weights are split, by the mesh in context; 1 without one, and inside `shard_map`."""
  mesh = jax.sharding.get_abstract_mesh()
  return mesh.shape['fsdp'] if 'fsdp' in mesh.auto_axes else 1


def split(shape: tuple[int, ...], fsdp: int) -> P:
  """The largest dimension that `fsdp` divides is split; a small leaf is replicated. Give a scanned leaf's shape without [L]: a
  layer is then gathered from all devices, where one of whole layers would be sent from the device that has it.
  """
  divisible = [d for d, n in enumerate(shape) if n % fsdp == 0]
  if fsdp == 1 or math.prod(shape) < MIN_SHARDED_SIZE or not divisible:
    return P()
  largest = max(divisible, key=lambda d: shape[d])
  return P(*['fsdp' if d == largest else None for d in range(len(shape))])


def gather(weights: PyTree, dtype: str | None = None) -> PyTree:
  """Whole weights for use in a layer; their gradient comes back split, as the weights are.

  Said explicitly at the place of use, because the partitioner, left alone, splits the activations instead when a device has few
  rows: all-to-alls in every layer.

  Args:
    weights: leaves [...], no layers stacked.
    dtype: split leaves, the large matrices, are sent in it: that of the computation, to which the layer would cast them.
  """
  fsdp = axis_size()

  def whole(w):
    spec = split(w.shape, fsdp)
    return w if spec == P() else _gather(w if dtype is None else w.astype(dtype), spec)

  return weights if fsdp == 1 else jax.tree.map(whole, weights)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gather(w, spec):
  return jax.lax.with_sharding_constraint(w, P())


_gather.defvjp(
  lambda w, spec: (_gather(w, spec), None),
  lambda spec, _, g: (jax.lax.with_sharding_constraint(g, spec),),
)


def keep_all_but_gathered(prim: Any, *_: Any, **__: Any) -> bool:
  """Policy for `jax.checkpoint`: recompute nothing but `gather`, so that whole weights do not wait for the backward pass."""
  return prim.name != 'custom_vjp_call'
