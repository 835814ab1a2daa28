"""I-JEPA's blocks and BEiT's block-wise masks: what they must never do, and how much they mask."""

import functools

import jax
import numpy as np
import pytest

from sslax.ops.blocks import block_masks, multi_block, random_counts

ROWS = 64


@functools.cache
def draws(grid, **changes):
  f = jax.jit(functools.partial(multi_block, rows=ROWS, grid=grid, **changes))
  return [jax.tree.map(np.asarray, f(jax.random.key(i))) for i in range(12)]


def test_targets_are_rectangles_of_one_size_and_in_range():
  """The formula of the official collator: its sizes for any number in [0, 1) are the only ones."""
  H, W = grid = (14, 14)
  allowed = set()
  for u in np.linspace(0, 1, 5000, endpoint=False):
    area, aspect = int(H * W * (0.15 + u * 0.05)), 0.75 + u * 0.75
    allowed.add((round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)))
  seen, borders = set(), np.zeros(4, int)
  for blocks in draws(grid):
    sizes = set()
    for ids, valid in zip(*(x.reshape(-1, x.shape[2]) for x in blocks[2:]), strict=True):
      row, column = np.divmod(ids[valid], W)
      h, w = np.ptp(row) + 1, np.ptp(column) + 1
      assert len(set(ids[valid].tolist())) == valid.sum() == h * w, 'no full rectangle'
      assert row.max() < H and column.max() < W and (ids[~valid] == 0).all()
      sizes.add((int(h), int(w)))
      borders += [row.min() == 0, column.min() == 0, row.max() == H - 1, column.max() == W - 1]
    assert len(sizes) == 1, 'one size a batch'
    seen |= sizes
  assert seen <= allowed and len(seen) > 1
  assert borders.min() > 0.7 * borders.max(), 'a border is reached less often than the others'


@pytest.mark.parametrize('grid', [(14, 14), (6, 6), (10, 12)])
def test_context_and_targets_are_disjoint_and_nothing_is_cut(grid):
  T = grid[0] * grid[1]
  for blocks in draws(grid):
    for b in range(ROWS):
      context = blocks.context[b][blocks.context_valid[b]]
      targets = set(blocks.target[b][blocks.target_valid[b]].tolist())
      assert len(set(context.tolist())) == len(context) >= 1 and not targets & set(context.tolist())
      # 0.85 of the area (sides are rounded), less what the targets can cover.
      assert len(context) >= np.floor(np.sqrt(0.85 * T)) ** 2 * 0.85 - len(targets)


@pytest.mark.slow
def test_capacity_cuts_the_end_of_the_raster_order_only():
  whole, cut = draws((8, 8)), draws((8, 8), most=0.4)
  shortened = 0
  for a, b in zip(whole, cut, strict=True):
    assert b.context.shape[1] == 26
    for i in range(ROWS):
      full = a.context[i][a.context_valid[i]]
      np.testing.assert_array_equal(b.context[i][b.context_valid[i]], full[:26])
      assert (np.diff(full) > 0).all()
      shortened += len(full) > 26
  assert 0 < shortened < 12 * ROWS


def test_areas_that_leave_no_context_are_refused():
  with pytest.raises(ValueError, match='context'):
    multi_block(jax.random.key(0), 2, (14, 14), targets=5)


@pytest.mark.parametrize('grid, least', [((14, 14), 16), ((6, 8), 4)])
def test_block_masks_never_exceed_and_nearly_reach_what_is_wanted(grid, least):
  T = grid[0] * grid[1]
  wanted = np.float32(np.linspace(0, 0.5 * T, 200))
  masks = np.asarray(jax.jit(functools.partial(block_masks, grid=grid, least=least))(jax.random.key(0), wanted))
  counts = masks.sum((1, 2))
  assert masks.shape == (200, *grid) and masks.dtype == bool and counts[0] == 0 and (counts <= wanted).all()
  large = wanted > 2 * least
  assert (counts[large] / wanted[large]).mean() > 0.85
  # In blocks: a masked patch has more masked neighbours than one of as many patches at random would.
  beside = (masks[:, 1:] & masks[:, :-1]).sum() / masks[:, 1:].sum()
  assert beside > 1.5 * masks.mean()
  assert masks[large].any(0).all(), 'a place is never masked'


def test_ratios_of_ibot_and_of_dinov2():
  rows, T = 4000, 100
  counts = np.asarray(random_counts(jax.random.key(0), rows, T, (0.1, 0.5), 0.5, False))
  some = counts[counts > 0]
  assert abs(len(some) / rows - 0.5) < 0.03 and some.min() >= 10 and some.max() <= 50
  np.testing.assert_allclose([some.mean(), some.std()], [30, 40 / 12**0.5], rtol=0.03)
  counts = np.asarray(random_counts(jax.random.key(0), 81, T, (0.1, 0.5), 0.5, True))
  some = np.sort(counts[counts > 0])
  assert len(some) == 40, 'exactly int(81 / 2)'
  edges = 10 + np.arange(41)
  assert ((some >= edges[:-1]) & (some <= edges[1:])).all(), 'one of each stratum'
  assert (counts[:40] > 0).mean() not in (0, 1), 'at random places'
