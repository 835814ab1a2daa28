"""TPU slices by name: 'v5e:4x4' is a slice of 16 chips, '2*v5e:4x4' two of them that the data centre's network joins.

No jax here: a typo must be found before anything is imported.
"""

import math
import re
from typing import NamedTuple

from sslax.errors import suggest


class Chip(NamedTuple):
  """What https://docs.cloud.google.com/tpu/docs/v5e (and v4, v5p, v6e, tpu7x) says of one chip, read on 2026-11-22."""

  hbm: int  # GiB; the runtime keeps some of it
  peak: float  # FLOP/s of dense bfloat16 products
  dimensions: int  # of the torus
  devices: int = 1  # that jax sees of one chip


CHIPS = {
  'v4': Chip(32, 275e12, 3),
  'v5e': Chip(16, 197e12, 2),
  'v5p': Chip(95, 459e12, 3),
  'v6e': Chip(32, 918e12, 2),
  'tpu7x': Chip(192, 2307e12, 3, devices=2),
}
EXAMPLES = {2: ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16'), 3: ('2x2x1', '2x2x2', '2x2x4', '4x4x4', '4x4x8')}


class Topology(NamedTuple):
  """Slices of one kind."""

  name: str  # as it was asked for
  chip: str
  shape: tuple[int, ...]  # chips in each dimension of a slice
  slices: int = 1

  @property
  def chips(self) -> int:
    return self.slices * math.prod(self.shape)

  @property
  def libtpu(self) -> dict:
    """Arguments of jax.experimental.topologies.get_topology_desc."""
    options = dict(topology_name=f'{self.chip}:{"x".join(map(str, self.shape))}', num_slices=self.slices)
    if any(side % 2 for side in self.shape[:2]):  # less than the 2 x 2 chips that a host has otherwise: Colab's one chip
      options['chips_per_host_bounds'] = (*self.shape, 1)[:3]
    if self.chip in ('v4', 'v5p'):
      options['chip_config_name'] = 'megacore'  # both cores of a chip as one device, as on Cloud TPU
    return options


def parse(name: str) -> Topology | None:
  """The topology of 'CHIP:AxB', 'CHIP:AxBxC' or 'N*...'; None for 'local', the devices that jax sees.

  Raises:
    ValueError: there is none of this name; says what is near.
  """
  if name == 'local':
    return None
  match = re.fullmatch(r'(?:([1-9]\d*)\*)?(\w+):([1-9]\d*(?:x[1-9]\d*)*)', name)
  if not match or match[2] not in CHIPS:
    known = [f'{chip}:{shape}' for chip, facts in CHIPS.items() for shape in EXAMPLES[facts.dimensions]]
    hint = suggest(re.sub(r'^\d+\*', '', name), ['local', *known])
    raise ValueError(
      f'there is no topology {name!r}.{hint if "Did" in hint else ""} It is a chip ({", ".join(CHIPS)}) and a shape, '
      'v5e:4x4 or v5p:2x2x2; 2*v5e:4x4 are two slices, and local are the devices that jax sees'
    )
  shape = tuple(int(side) for side in match[3].split('x'))
  dimensions = CHIPS[match[2]].dimensions
  if len(shape) != dimensions:
    near = suggest(name, [f'{match[2]}:{shape}' for shape in EXAMPLES[dimensions]])
    raise ValueError(f'{name!r}: a slice of {match[2]} has {dimensions} dimensions.{near}')
  return Topology(name, match[2], shape, int(match[1] or 1))
