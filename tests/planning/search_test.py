"""What would fit: the first advice that does, the largest batch."""

import dataclasses

import pytest

from sslax.errors import UserError
from sslax.planning.plan import changed
from sslax.planning.search import advise, largest_batch
from sslax.planning.target import GIB


def model(config, here, *, per_row, shrinks=('microbatches', 'remat', 'mesh.fsdp'), bend=0.0):
  """A compiler that needs a line of memory, straight or bent, in the rows of a device; with the list of what it was asked."""
  asked = []

  def compile_with(changes):
    asked.append(changes)
    now = changed(config, {k: v for k, v in changes.items() if 'remat' not in k})
    state, rows = 0.5 * GIB, now.batch_size // 8
    if 'mesh.fsdp' in shrinks:
      state /= now.mesh.fsdp
    if 'microbatches' in shrinks:
      rows = rows / now.microbatches
    if 'remat' in shrinks and any('remat' in key for key in changes):
      rows = rows / 4
    needed = int(state + per_row * rows + bend * rows**2)
    return dataclasses.replace(here, changes=changes, batch_size=now.batch_size, needed=needed, fits=needed <= here.hbm)

  return compile_with, asked


@pytest.fixture(scope='module')
def large(config, here):
  config = changed(config, {'batch_size': 8 * 64})
  with config.unlocked():
    config.method.encoder.remat = 'none'
  return config, dataclasses.replace(here, state={'parameters': GIB // 2, 'input': 0})


@pytest.mark.parametrize(
  'per_row, shrinks, changes',
  [
    (GIB // 32, ('microbatches', 'remat', 'mesh.fsdp'), {'microbatches': 4}),
    (GIB // 64, ('microbatches', 'remat', 'mesh.fsdp'), {'microbatches': 2}),
    (GIB // 64, ('remat',), {'method.encoder.remat': 'full'}),
    (GIB // 96, ('mesh.fsdp',), {'mesh.fsdp': 8, 'mesh.data': -1}),
    (GIB // 36, ('remat', 'mesh.fsdp'), {'method.encoder.remat': 'full'}),
    (GIB // 20, ('remat', 'mesh.fsdp'), {'method.encoder.remat': 'full', 'mesh.fsdp': 8, 'mesh.data': -1}),
    (GIB, ('remat', 'mesh.fsdp'), None),
  ],
)
def test_the_advice_is_the_first_that_fits(large, per_row, shrinks, changes):
  config, here = large
  compile_with, asked = model(config, here, per_row=per_row, shrinks=shrinks)
  first = compile_with({})
  assert not first.fits
  found = advise(first, compile_with, config)
  assert (found and found.changes) == changes, asked
  assert len(asked) <= 10
  assert not found or compile_with(found.changes).fits


@pytest.mark.parametrize(
  'per_row, start, bend',
  [(GIB // 32, 64, 0), (GIB // 1000, 1, 0), (GIB // 3, 512, 0), (GIB // 4000, 16, GIB // 4000), (GIB // 2000, 4, -10)],
)
def test_the_largest_batch(large, per_row, start, bend):
  config, here = large
  config = changed(config, {'batch_size': 8 * start})
  compile_with, asked = model(config, here, per_row=per_row, bend=bend)
  found = largest_batch(compile_with({}), compile_with, config)
  best = max(rows for rows in range(10_000) if GIB // 2 + per_row * rows + bend * rows**2 <= GIB)
  assert best - max(1, best // 16) <= found.batch_size // 8 <= best, (found.batch_size, best)
  assert len(asked) <= 8, asked


def test_no_batch_fits(large):
  config, here = large
  compile_with, _ = model(config, here, per_row=GIB)
  assert largest_batch(compile_with({}), compile_with, config) is None
  with pytest.raises(UserError, match='--hbm'):
    largest_batch(dataclasses.replace(here, hbm=None), compile_with, config)
