"""The devices that a step is compiled for; they need not be here."""

import dataclasses
import os
import re
from collections.abc import Sequence

import jax
import numpy as np

from sslax.errors import UserError
from sslax.planning.topology import CHIPS, Topology

GIB = 2**30
UNITS = {'': 1, 'B': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


@dataclasses.dataclass(frozen=True)
class Target:
  """The devices that a step is compiled for."""

  name: str
  devices: Sequence[jax.Device]
  chips: int
  slices: int
  hbm: int | None  # bytes of a device that a program may take; None: nobody says (CPU)
  peak: float | None  # FLOP/s of all chips, bfloat16


def target(topology: Topology | None, hbm: int | None = None) -> Target:
  """The devices of a topology, which need not exist; None: those that jax sees.

  Args:
    hbm: bytes of a device, instead of what is known of it.

  Raises:
    UserError: libtpu is not installed, or knows no such slice.
  """
  if topology is None:
    devices = jax.devices()
    limit = (devices[0].memory_stats() or {}).get('bytes_limit')
    return Target('local', devices, len(devices), _slices(devices), hbm or limit, None)
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')  # or libtpu asks a machine of Google's who we are, and complains
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-16')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')  # nothing is opened, so two plans, or one beside a training, may be
  from jax.experimental import topologies

  try:
    devices = topologies.get_topology_desc(platform='tpu', **topology.libtpu).devices
  except RuntimeError as error:
    if 'not installed' in str(error):
      raise UserError(f'the compiler for TPUs is missing; it needs no TPU: pip install "jax[tpu]=={jax.__version__}"') from None
    raise UserError(f'libtpu has no such slice: {" ".join(str(error).split())}') from None
  chip = CHIPS[topology.chip]
  return Target(
    topology.name, devices, topology.chips, topology.slices, hbm or _hbm(devices[0], chip.hbm), topology.chips * chip.peak
  )


def _slices(devices: Sequence[jax.Device]) -> int:
  return len({getattr(device, 'slice_index', 0) for device in devices})


def _hbm(device: jax.Device, published: int) -> int:
  """Bytes of a device that a program may take, from the refusal of one that fits nowhere: less than what is published."""
  huge = jax.ShapeDtypeStruct((2**30, 2**10), np.float32, sharding=jax.sharding.SingleDeviceSharding(device))
  try:
    jax.jit(lambda x: x + 1).lower(huge).compile()
  except jax.errors.JaxRuntimeError as error:
    if numbers := out_of_memory(str(error)):
      return numbers[1]
  return published * GIB


def out_of_memory(message: str) -> tuple[int, int] | None:
  """(bytes needed, bytes there are) of a compiler's message, None when it is about something else."""
  for pattern in (
    r'requires? .*?\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)',
    r'required .*?\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)',
    r'Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm',
  ):
    if found := re.search(pattern, message):
      return round(float(found[1]) * UNITS[found[2]]), round(float(found[3]) * UNITS[found[4]])
  return None
