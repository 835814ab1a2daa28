"""Which patches of an image are removed. Every row of a batch loses the same number of them, so that all shapes are static.

Noise decides: a row keeps its K patches of lowest noise. Uniform noise is random masking; other noise gives other patterns. What
row i loses depends on (rng, i) only, not on how the batch is split over devices.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from sslax.ops.patches import sides

KINDS = ('random', 'block', 'grid')
TRIALS = 40  # blocks that are tried for one image


class Masks(NamedTuple):
  """T patches of B images, of which K are kept."""

  kept: jax.Array  # [B, K] int32: the patches that are kept, in the order of their noise
  masked: jax.Array  # [B, T] bool, 1 = removed
  restore: jax.Array  # [B, T] int32: where patch t is among the kept ones followed by the removed ones


def from_noise(noise: jax.Array, keep: int) -> Masks:
  """The K patches of lowest noise are kept: per-sample shuffling of He et al. 2022, section 3; `random_masking` of the official
  code.

  Args:
    noise: [B, T].
    keep: K.

  Raises:
    ValueError: K is not in [1, T].
  """
  chex.assert_rank(noise, 2)
  T = noise.shape[1]
  if not 1 <= keep <= T:
    raise ValueError(f'keep={keep} of {T} patches: at least one, and not more than there are')
  shuffle = jnp.argsort(noise, axis=1)
  restore = jnp.argsort(shuffle, axis=1)
  return Masks(shuffle[:, :keep], restore >= keep, restore)


def draw_noise(rng: jax.Array, rows: int, grid: tuple[int, int], kind: str = 'random', remove: int = 0) -> jax.Array:
  """[B, h*w] noise for `from_noise`.

  Args:
    rng: key.
    rows: B.
    grid: (h, w), patches.
    kind: the three of He et al. 2022, section 4.1 (figure 6): 'random'; 'block' removes rectangles, see `block_mask`; 'grid'
      keeps one of every 2 x 2 patches, whose corner is drawn for each image (the paper does not say).
    remove: T - K, which blocks must know. Where blocks or grid do not give exactly this number, the rest is random.

  Raises:
    ValueError: no such kind.
  """
  noise = jax.random.uniform(jax.random.fold_in(rng, 0), (rows, grid[0] * grid[1]))
  rng = jax.random.fold_in(rng, 1)
  if kind == 'random':
    return noise
  if kind == 'block':
    blocks = jax.vmap(lambda key: block_mask(key, grid, remove))(jax.random.split(rng, rows))
    return noise + blocks
  if kind == 'grid':
    corner = jax.random.bernoulli(rng, shape=(rows, 2, 1, 1))
    row, column = jnp.indices(grid)[:, None] % 2 == corner.swapaxes(0, 1)
    return noise + ~(row & column).reshape(rows, -1)
  raise ValueError(f'kind={kind!r} is none of {", ".join(map(repr, KINDS))}')


def block_mask(rng: jax.Array, grid: tuple[int, int], remove: int) -> jax.Array:
  """[h*w] bool, 1 = removed: block-wise masking (Bao et al. 2022, https://arxiv.org/abs/2106.08254, algorithm 1).

  Rectangles of between a twelfth of the patches (16 of 196 in the paper) and as many as are still to be removed, with a
  log-uniform aspect ratio of 0.3 to 1 / 0.3, are removed while they do not exceed `remove` together. The official code gives up
  after ten rectangles in a row that do not fit, here after 40 in all; either may end a little below `remove`.
  """
  h, w = grid
  smallest = max(1, h * w // 12)
  row, column = jnp.indices(grid)

  def add(mask, u):
    left = remove - mask.sum()
    area = smallest + u[0] * (left - smallest)
    aspect = 0.3 ** (2 * u[1] - 1)
    bh, bw = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    top, start = jnp.floor(u[2] * (h - bh + 1)), jnp.floor(u[3] * (w - bw + 1))
    block = (top <= row) & (row < top + bh) & (start <= column) & (column < start + bw)
    more = (block & ~mask).sum()
    fits = (bh < h) & (bw < w) & (more > 0) & (more <= left)
    return mask | (block & fits), None

  mask, _ = jax.lax.scan(add, jnp.zeros(grid, bool), jax.random.uniform(rng, (TRIALS, 4)))
  return mask.reshape(-1)


def enlarge(masked: jax.Array, grid: tuple[int, int], scale: int | tuple[int, int]) -> jax.Array:
  """Masks of units -> masks of the patches in them, [B, h*w] -> [B, h*scale * w*scale]: SimMIM's units of 32 pixels.

  Args:
    masked: [B, h*w] bool.
    grid: (h, w), units.
    scale: patches along a side of a unit; or down and to the right.
  """
  chex.assert_rank(masked, 2)
  units = masked.reshape(len(masked), *grid)
  down, right = sides(scale, 2)
  return units.repeat(down, axis=1).repeat(right, axis=2).reshape(len(masked), -1)
