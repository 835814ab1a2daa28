"""What would make a step fit, and the largest batch that does: a few compilations each."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ml_collections
import numpy as np

from sslax.errors import UserError
from sslax.planning.plan import Plan
from sslax.planning.report import say
from sslax.run import config as configs

MICROBATCHES = (2, 4, 8, 16, 32, 64)
MAX_TRIES = 16  # compilations in search of the largest batch


def advise(first: Plan, compile_with: Callable[[dict[str, Any]], Plan], config: ml_collections.ConfigDict) -> Plan | None:
  """The first of microbatches, remat and FSDP, then of their combinations, with which the same batch fits; None: none does.

  Args:
    first: the plan that does not fit.
    compile_with: changes -> plan.
  """
  devices = int(np.prod(list(first.mesh.values())))
  rows = config.batch_size // devices
  counts = [n for n in MICROBATCHES if n > config.microbatches and rows % n == 0]
  remat = {key: 'full' for key, value in configs.flat(config).items() if key.endswith('.remat') and value == 'none'}
  fsdp = devices // config.mesh.slices
  split = {'mesh.fsdp': fsdp, 'mesh.data': -1} if config.mesh.fsdp < fsdp else {}

  def smaller(base: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from ({'microbatches': n, **base} for n in counts)

  ladders: list[Iterable[dict[str, Any]]] = [smaller({})]
  ladders += [[remat], smaller(remat)] if remat else []
  ladders += [[split], smaller(split)] if split else []
  ladders += [[{**remat, **split}], smaller({**remat, **split})] if remat and split else []
  for ladder in ladders:
    last = first.needed
    for changes in ladder:
      try:
        tried = compile_with(changes)
      except UserError as error:  # a microbatch that the views do not divide into, say
        say(f'{changes}: {error}')
        continue
      if tried.fits:
        return tried
      if tried.needed > 0.97 * last:  # it is not this that takes the memory
        break
      last = tried.needed
  return None


def largest_batch(first: Plan, compile_with: Callable[[dict[str, Any]], Plan], config: ml_collections.ConfigDict) -> Plan | None:
  """The plan of the largest global batch that fits, to a sixteenth; None: not one row a device fits.

  Over multiples of devices x microbatches. What a step needs grows with the batch almost in a straight line, so each try is near
  where the line through the last two meets the limit, and a few compilations do.

  Raises:
    UserError: nobody says how much memory there is.
  """
  if first.hbm is None:
    raise UserError('--largest_batch needs a limit, which a CPU does not have: --hbm=GIB')
  unit = int(np.prod(list(first.mesh.values()))) * config.microbatches
  points = [(0, sum(size for kind, size in first.state.items() if kind != 'input')), (first.batch_size // unit, first.needed)]
  best, low, high = (first, points[-1][0], None) if first.fits else (None, 0, points[-1][0])
  for _ in range(MAX_TRIES):
    if high is not None and high - low <= max(1, low // 16):
      break
    (a, x), (b, y) = points[-2:]
    guess = int(a + (first.hbm - x) * (b - a) / (y - x)) if y != x else 2 * b
    margin = max(1, low // 16) if high is None else max(1, (high - low) // 8)
    guess = min(max(guess, low + margin), 8 * max(low, 1) if high is None else high - margin)
    tried = compile_with({'batch_size': guess * unit})
    points.append((guess, tried.needed))
    if tried.fits:
      best, low = tried, guess
    else:
      high = guess
  return best
