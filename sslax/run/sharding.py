"""Where arrays live: a mesh ('data', 'fsdp'), the batch over both axes, the state replicated or split by one rule."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sslax.errors import UserError

PyTree = Any
MIN_SHARDED_SIZE = 2**14  # smaller leaves are replicated: the gather would cost more than the memory it saves


def make_mesh(data: int = -1, fsdp: int = 1, *, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
  """A mesh over all devices; data=-1 takes those that fsdp leaves.

  Args:
    devices: instead of all that jax sees; those of a topology that is not here, say.

  Raises:
    UserError: data * fsdp is not the number of devices.
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
  # Auto, said explicitly: since jax 0.9 the default is Explicit, under which ordinary reshapes raise.
  return jax.make_mesh((data, fsdp), ('data', 'fsdp'), axis_types=(AxisType.Auto, AxisType.Auto), devices=devices)


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Rows of a batch over all devices."""
  return NamedSharding(mesh, P(('data', 'fsdp')))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  return NamedSharding(mesh, P())


def state_sharding(mesh: jax.sharding.Mesh, abstract_state: PyTree) -> PyTree:
  """One rule for the whole state: the largest dimension that the fsdp axis divides is split over it, small leaves are
  replicated.
  """
  fsdp = mesh.shape['fsdp']

  def rule(leaf):
    divisible = [d for d, n in enumerate(leaf.shape) if n % fsdp == 0]
    if fsdp == 1 or leaf.size < MIN_SHARDED_SIZE or not divisible:
      return NamedSharding(mesh, P())
    split = max(divisible, key=lambda d: leaf.shape[d])
    return NamedSharding(mesh, P(*['fsdp' if d == split else None for d in range(leaf.ndim)]))

  return jax.tree.map(rule, abstract_state)


def with_sharding(abstract: PyTree, sharding: PyTree) -> PyTree:
  """ShapeDtypeStructs that say where they live; what a restore needs."""
  return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, sharding)


def global_batch(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
  """This process's rows -> global arrays. Processes hold contiguous blocks of the batch, in the order of their ids."""
  return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}
