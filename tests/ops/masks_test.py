import functools

import jax
import numpy as np
import pytest

from sslax.ops.masks import KINDS, block_mask, draw_noise, enlarge, from_noise

GRID = (6, 8)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def draw(rng, rows, kind, keep):
  h, w = GRID
  return from_noise(draw_noise(rng, rows, GRID, kind, h * w - keep), keep)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('keep', [12, 20])
def test_masks_are_a_permutation_of_the_patches(kind, keep):
  """Exactly K are kept, nothing twice; `restore` takes the kept and then the removed back to their places."""
  kept, masked, restore = jax.tree.map(np.asarray, draw(jax.random.key(0), 32, kind, keep))
  assert kept.shape == (32, keep) and masked.shape == restore.shape == (32, 48) and masked.dtype == bool
  assert (masked.sum(1) == 48 - keep).all()
  np.testing.assert_array_equal(np.sort(restore, 1), np.broadcast_to(np.arange(48), (32, 48)))
  patches = np.broadcast_to(np.arange(48), (32, 48))
  for row in range(32):
    assert sorted(kept[row]) == np.flatnonzero(~masked[row]).tolist()
    tokens = np.concatenate([patches[row, kept[row]], np.full(48 - keep, -1)])[restore[row]]
    np.testing.assert_array_equal(tokens, np.where(masked[row], -1, patches[row]))
  assert len(np.unique(masked, axis=0)) >= (4 if kind == 'grid' and keep == 12 else 20)  # rows differ


def test_noise_decides():
  masks = from_noise(np.float32([[0.3, 0.1, 0.9, 0.2]]), 2)
  np.testing.assert_array_equal(masks.kept, [[1, 3]])
  np.testing.assert_array_equal(masks.masked, [[1, 0, 1, 0]])
  np.testing.assert_array_equal(masks.restore, [[2, 0, 3, 1]])
  with pytest.raises(ValueError, match='keep=0 of 4'):
    from_noise(np.zeros((1, 4), np.float32), 0)
  with pytest.raises(ValueError, match="kind='blocks'"):
    draw_noise(jax.random.key(0), 2, GRID, 'blocks')


def test_every_patch_is_removed_as_often():
  masked = np.asarray(draw(jax.random.key(1), 4000, 'random', 12).masked)
  np.testing.assert_allclose(masked.mean(0), 0.75, atol=4 * np.sqrt(0.75 * 0.25 / 4000))


def test_rows_do_not_depend_on_the_batch():
  for kind in KINDS:
    few, more = draw(jax.random.key(2), 32, kind, 20).masked, draw(jax.random.key(2), 40, kind, 20).masked
    np.testing.assert_array_equal(few, more[:32])


def test_a_grid_keeps_one_of_every_four():
  masked = np.asarray(draw(jax.random.key(3), 64, 'grid', 12).masked).reshape(64, 3, 2, 4, 2)
  kept = np.moveaxis(~masked, 2, 3).reshape(64, 12, 4)  # cells of 2 x 2
  assert (kept.sum(-1) == 1).all()
  assert (kept == kept[:, :1]).all() and set(kept[:, 0].argmax(-1)) == {0, 1, 2, 3}  # one corner an image, drawn for each


def neighbours(masked):
  """How often the right and the lower neighbour of a removed patch is removed as well."""
  m = np.asarray(masked).reshape(-1, *GRID)
  return np.mean([(m[:, :, 1:] & m[:, :, :-1]).sum() / m[:, :, :-1].sum(), (m[:, 1:] & m[:, :-1]).sum() / m[:, :-1].sum()])


def test_blocks_hang_together_and_stay_below_the_number():
  mask = jax.jit(jax.vmap(lambda key: block_mask(key, GRID, 24)))(jax.random.split(jax.random.key(4), 256))
  counts = np.asarray(mask).sum(1)
  assert counts.max() <= 24 and counts.mean() > 22
  blocks, random = (draw(jax.random.key(6), 256, kind, 24).masked for kind in ('block', 'random'))
  assert neighbours(blocks) > 0.65 and abs(neighbours(random) - 23 / 47) < 0.03


def test_enlarge():
  units = np.array([[1, 0, 0, 0, 1, 1]], bool)  # 2 x 3
  expected = [[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]]
  np.testing.assert_array_equal(enlarge(units, (2, 3), 2).reshape(4, 6), expected)
