"""TPU slices as GKE knows them: what --type may say, and the hosts and chips of each."""

import math

# generation -> (GKE's name, cores a chip in Cloud's names, topologies), as in xpk 1.16's table; 1x1 and 2x2 of v5e are from GKE's
# documentation. Larger slices of v4, v5p and tpu7x exist: add yours.
_CUBES = ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8')
_SQUARES = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
GENERATIONS = {
  'v4': ('tpu-v4-podslice', 2, _CUBES),
  'v5e': ('tpu-v5-lite-podslice', 1, _SQUARES),
  'v5p': ('tpu-v5p-slice', 2, _CUBES),
  'v6e': ('tpu-v6e-slice', 1, _SQUARES),
  'tpu7x': ('tpu7x', 2, _CUBES),
}
CHIPS_PER_HOST = 4  # of every slice above one chip


def size(topology: str) -> tuple[int, int]:
  """(hosts, chips a host) of a slice, '4x4' say."""
  chips = math.prod(int(side) for side in topology.split('x'))
  return max(1, chips // CHIPS_PER_HOST), min(chips, CHIPS_PER_HOST)


def slice_types() -> dict[str, tuple[str, str]]:
  """What --type may say -> (generation, topology): 'v5e:4x4', or Cloud's names by chips or cores, 'v5litepod-16' or 'v5e-16'."""
  known = {}
  for generation, (_, cores, topologies) in GENERATIONS.items():
    for topology in topologies:
      where = generation, topology
      count = math.prod(size(topology)) * cores
      known |= {f'{generation}:{topology}': where, f'{generation}-{count}': where}
      if generation == 'v5e':
        known[f'v5litepod-{count}'] = where
  return known
