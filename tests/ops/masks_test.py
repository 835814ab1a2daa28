import functools

import jax
import numpy as np
import pytest

from sslax.ops.masks import KINDS, block_mask, draw_noise, enlarge, from_noise

GRID = (6, 8)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def draw(rng, rows=32, keep=20, kinds=KINDS):
  """{kind: Masks}"""
  h, w = GRID
  return {kind: from_noise(draw_noise(rng, rows, GRID, kind, h * w - keep), keep) for kind in kinds}


@pytest.mark.parametrize('kind', KINDS)
def test_masks_are_a_permutation_of_the_patches(kind):
  """Exactly K are kept, nothing twice; `restore` takes the kept and then the removed back to their places."""
  kept, masked, restore = jax.tree.map(np.asarray, draw(jax.random.key(0))[kind])
  assert kept.shape == (32, 20) and masked.shape == restore.shape == (32, 48) and masked.dtype == bool
  assert (masked.sum(1) == 28).all()
  np.testing.assert_array_equal(np.sort(restore, 1), np.broadcast_to(np.arange(48), (32, 48)))
  patches = np.broadcast_to(np.arange(48), (32, 48))
  for row in range(32):
    assert sorted(kept[row]) == np.flatnonzero(~masked[row]).tolist()
    tokens = np.concatenate([patches[row, kept[row]], np.full(28, -1)])[restore[row]]
    np.testing.assert_array_equal(tokens, np.where(masked[row], -1, patches[row]))
  assert len(np.unique(masked, axis=0)) > 20  # rows differ


def test_noise_decides():
  masks = jax.jit(from_noise, static_argnums=1)(np.float32([[0.3, 0.1, 0.9, 0.2]]), 2)
  np.testing.assert_array_equal(masks.kept, [[1, 3]])
  np.testing.assert_array_equal(masks.masked, [[1, 0, 1, 0]])
  np.testing.assert_array_equal(masks.restore, [[2, 0, 3, 1]])
  with pytest.raises(ValueError, match='keep=0 of 4'):
    from_noise(np.zeros((1, 4), np.float32), 0)
  with pytest.raises(ValueError, match="kind='blocks'"):
    draw(jax.random.key(0), kinds=('blocks',))


def test_every_patch_is_removed_as_often():
  masked = np.asarray(draw(jax.random.key(1), 4000, 12, ('random',))['random'].masked)
  np.testing.assert_allclose(masked.mean(0), 0.75, atol=4 * np.sqrt(0.75 * 0.25 / 4000))


def test_rows_do_not_depend_on_the_batch():
  few, more = draw(jax.random.key(2)), draw(jax.random.key(2), 256)
  for kind in KINDS:
    np.testing.assert_array_equal(few[kind].masked, more[kind].masked[:32])


def test_a_grid_keeps_one_of_every_four():
  masked = np.asarray(draw(jax.random.key(3), 64, 12, ('grid',))['grid'].masked).reshape(64, 3, 2, 4, 2)
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
  masks = draw(jax.random.key(6), 256)
  assert neighbours(masks['block'].masked) > 0.7 and abs(neighbours(masks['random'].masked) - 27 / 47) < 0.03


def test_enlarge():
  units = np.array([[1, 0, 0, 0, 1, 1]], bool)  # 2 x 3
  expected = [[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]]
  np.testing.assert_array_equal(enlarge(units, (2, 3), 2).reshape(4, 6), expected)
  np.testing.assert_array_equal(enlarge(units, (2, 3), (2, 1)).reshape(4, 3), np.repeat(units.reshape(2, 3), 2, axis=0))
