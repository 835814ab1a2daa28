"""Where arrays live: a mesh ('data', 'fsdp'), the batch over both axes, the state replicated or split by one rule."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sslax.errors import UserError
from sslax.ops import fsdp as rule
from sslax.ops import tree
from sslax.step import TrainState

PyTree = Any


def make_mesh(data: int = -1, fsdp: int = 1, slices: int = 1, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A mesh over all devices; data=-1 takes those that fsdp leaves.

  Args:
    data, fsdp: its shape, over all slices together.
    slices: TPU slices that only the data centre's network joins.
    devices: instead of all that jax sees; those of a topology that is not here, say.

  Raises:
    UserError: data * fsdp is not the number of devices, or the slices are not what the devices say or do not fit.
  """
  devices = jax.devices() if devices is None else devices
  count = len(devices)
  if fsdp < 1 or count % fsdp:
    raise UserError(f'config.mesh.fsdp={fsdp} does not divide the {count} devices that jax sees')
  data = count // fsdp if data == -1 else data
  if data * fsdp != count:
    raise UserError(
      f'config.mesh.data={data} x config.mesh.fsdp={fsdp} is not the {count} devices that jax sees; data=-1 takes what is left'
    )
  if devices[0].platform == 'tpu' and (found := len({getattr(d, 'slice_index', 0) for d in devices})) != slices:
    raise UserError(f'config.mesh.slices={slices}, and the {count} devices are in {found} slices: set it to {found}')
  if slices < 1 or data % slices:
    raise UserError(f'config.mesh.slices={slices} does not divide data={data}: the weights are split inside a slice')
  # Auto, said explicitly: since jax 0.9 the default is Explicit, under which ordinary reshapes raise.
  return Mesh(order(devices, data, fsdp, slices), ('data', 'fsdp'), axis_types=(AxisType.Auto, AxisType.Auto))


def order(devices: Sequence[jax.Device], data: int, fsdp: int, slices: int) -> np.ndarray:
  """[data, fsdp] devices such that neighbours in the mesh are neighbours in the network.

  fsdp, which talks in every layer, stays inside a slice; data, which talks once a step, crosses slices. Devices that know of no
  slice, to rehearse several, are taken in their order.
  """
  options: dict[str, Any] = dict(devices=devices, allow_split_physical_axes=True)  # a 4x4 torus makes a mesh of 2x8, too
  if slices == 1 or not hasattr(devices[0], 'slice_index'):
    return mesh_utils.create_device_mesh((data, fsdp), **options)
  return mesh_utils.create_hybrid_device_mesh((data // slices, fsdp), (slices, 1), **options)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Rows of a batch over all devices."""
  return NamedSharding(mesh, P(('data', 'fsdp')))


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, P())


def state_sharding(mesh: Mesh, abstract_state: TrainState, groups: PyTree) -> TrainState:
  """One rule for the whole state, see `ops.fsdp.split`: parameters, their moments and their targets are split alike.

  Args:
    abstract_state: its shapes.
    groups: of its parameters, see `models.net.groups`. A copy of a parameter elsewhere in the state is known by path and shape.
  """
  stacked = _stacked(abstract_state.params, groups)

  def place(path, leaf):
    parts = path.split('/')
    ends = ['/'.join(parts[i:]) for i in range(len(parts))]  # the longest first
    if next((stacked[end, leaf.shape] for end in ends if (end, leaf.shape) in stacked), False):
      return NamedSharding(mesh, P(None, *rule.split(leaf.shape[1:], mesh.shape['fsdp'])))
    return NamedSharding(mesh, rule.split(leaf.shape, mesh.shape['fsdp']))

  return tree.map_with_path(place, abstract_state)


def _stacked(params, groups):
  """{(path, shape): is it stacked?}, by paths from the key of the module on, and from inside it: a target may lack the key."""
  leaves = zip(tree.paths(params), jax.tree.leaves(params), jax.tree.leaves(groups), strict=True)
  whole = {(path, leaf.shape): group.stacked for path, leaf, group in leaves}
  inside = {(path.partition('/')[2], shape): stacked for (path, shape), stacked in whole.items()}
  return {**inside, **whole}


def with_sharding(abstract: PyTree, sharding: PyTree) -> PyTree:
  """ShapeDtypeStructs that say where they live; what a restore needs."""
  return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, sharding)


def global_batch(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
  """This process's rows -> global arrays. Processes hold contiguous blocks of the batch, in the order of their ids."""
  return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}
