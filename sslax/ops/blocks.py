"""Masks made of rectangles on the grid of patches: I-JEPA's context and targets, the block-wise masks of BEiT and iBOT."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_SIZES = 1024  # block sizes come from so many equally likely numbers in [0, 1): what they can be is known before compiling
_TRIES = 10  # in a row, after which BEiT's masks stay as they are


class Blocks(NamedTuple):
  """Numbers of patches, counted row by row, with padding: every shape is static."""

  context: jax.Array  # [B, K] int32
  context_valid: jax.Array  # [B, K] bool, 0 = padding
  target: jax.Array  # [B, M, L] int32
  target_valid: jax.Array  # [B, M, L] bool, 0 = padding; all blocks of a batch have the same number of ones


def multi_block(
  rng: jax.Array,
  rows: int,
  grid: tuple[int, int],
  targets: int = 4,
  target_area: tuple[float, float] = (0.15, 0.2),
  target_ratio: tuple[float, float] = (0.75, 1.5),
  context_area: tuple[float, float] = (0.85, 1.0),
  most: float = 1.0,
) -> Blocks:
  """A context block and M target blocks for each image; what a target covers is not context.

  Assran et al. 2023 (I-JEPA), https://arxiv.org/abs/2301.08243, section 3; official code (facebookresearch/ijepa,
  src/masks/multiblock.py): the blocks of a batch share their size, the places are each image's own, and one number gives both
  area and aspect of a size. Three things differ from that code. (1) To fit an array it cuts all contexts of a batch to the
  shortest, the end of the raster order first. Here shorter contexts are padded, so they stay whole, and only those above the
  capacity (`most`) are cut, in the same order: the same where all have one length, more context elsewhere. (2) Its blocks are
  smaller than the grid and never reach the last row and column (an exclusive bound); here every place is as likely. (3) It draws
  contexts of 10 patches or fewer again; here the areas must be such that some context is left, and it is taken.

  Args:
    rng: key.
    rows: images, B.
    grid: (H, W) in patches; T = H W.
    targets: M.
    target_area: bounds of a target's fraction of T.
    target_ratio: bounds of its height / width.
    context_area: bounds of the context block's fraction of T; it is as high as wide.
    most: capacity of the context as a fraction of T.

  Raises:
    ValueError: the targets may cover the whole context.
  """
  T = grid[0] * grid[1]
  target_sizes, context_sizes = _sizes(grid, target_area, target_ratio), _sizes(grid, context_area, (1.0, 1.0))
  target_counts, context_counts = target_sizes.prod(1), context_sizes.prod(1)
  L = int(target_counts.max())
  if targets * L >= context_counts.min():
    raise ValueError(
      f'{targets} targets of up to {L} patches may cover a context of {context_counts.min()} (the grid has {T}): lower targets '
      'or target_area, or raise context_area'
    )
  longest = max(n - max(0, target_counts.min() - (T - n)) for n in context_counts)  # one target alone takes this from a context
  K = min(int(longest), max(1, round(most * T)))

  size_rng, place_rng = jax.random.split(rng)
  draw = jax.random.randint(size_rng, (2,), 0, _SIZES)
  target_size, context_size = jnp.asarray(target_sizes)[draw[0]], jnp.asarray(context_sizes)[draw[1]]
  sizes = jnp.concatenate([jnp.broadcast_to(target_size, (targets, 2)), context_size[None]])  # [M + 1, 2], the context last
  free = jnp.asarray(grid)[None] - sizes + 1  # places in each direction
  corner = jnp.int32(jnp.floor(jax.random.uniform(place_rng, (rows, targets + 1, 2)) * free[None]))  # [B, M + 1, 2]

  j = jnp.arange(L)
  height, width = target_size
  row = corner[:, :targets, :1] + (j // width)[None, None]  # [B, M, L]
  column = corner[:, :targets, 1:] + (j % width)[None, None]
  target_valid = jnp.broadcast_to(j < height * width, row.shape)
  target = jnp.where(target_valid, row * grid[1] + column, 0)

  offset = jnp.stack(jnp.divmod(jnp.arange(T), grid[1]), 1)[None, None] - corner[:, :, None]  # [B, M + 1, T, 2]
  inside = ((offset >= 0) & (offset < sizes[None, :, None])).all(-1)
  context = inside[:, targets] & ~inside[:, :targets].any(1)
  first = jnp.argsort(~context, axis=1, stable=True)[:, :K]
  return Blocks(first, jnp.take_along_axis(context, first, 1), target, target_valid)


def block_masks(
  rng: jax.Array,
  wanted: jax.Array,
  grid: tuple[int, int],
  least: int,
  ratio: tuple[float, float] = (0.3, 1 / 0.3),
  tries: int = 64,
) -> jax.Array:
  """Union of random rectangles that masks at most, and nearly, `wanted` patches of each image.

  Bao et al. 2022 (BEiT), https://arxiv.org/abs/2106.08254, algorithm 1, with the details of the official codes of iBOT
  (bytedance/ibot, loader.py) and DINOv2 (data/masking.py): the next rectangle has an area between `least` and what is wanted
  still, is smaller than the grid in both directions, and counts if it masks at least one new patch and not too many; after 10
  tries in a row without one the mask stays as it is. Row i depends on (rng, i) and wanted[i].

  Args:
    rng: key.
    wanted: [N] patches to mask, a float as well; 0: none.
    grid: (H, W) in patches.
    least: area of the smallest rectangle in patches: 16 in BEiT, (min(H, W) // 3)^2 in iBOT, 4 in DINOv2.
    ratio: bounds of height / width, drawn log-uniformly.
    tries: rectangles in all; the official loops have no such bound, and end long before it.

  Returns:
    [N, H, W] bool, 1 = masked.
  """
  size, low, high = jnp.asarray(grid), math.log(ratio[0]), math.log(ratio[1])
  y, x = jnp.arange(grid[0])[:, None], jnp.arange(grid[1])[None]

  def one(rng, wanted):
    def step(state, u):
      mask, failed = state
      remaining = wanted - mask.sum()
      area, aspect = least + u[0] * (remaining - least), jnp.exp(low + u[1] * (high - low))
      box = jnp.round(jnp.sqrt(jnp.maximum(area, 0) * jnp.stack([aspect, 1 / aspect])))
      top, left = jnp.floor(u[2:] * (size - box + 1))
      inside = (y >= top) & (y < top + box[0]) & (x >= left) & (x < left + box[1])
      new = (inside & ~mask).sum()
      good = (failed < _TRIES) & (box < size).all() & (new > 0) & (new <= remaining)
      return (mask | inside & good, jnp.where(good, 0, failed + 1)), None

    (mask, _), _ = jax.lax.scan(step, (jnp.zeros(grid, bool), 0), jax.random.uniform(rng, (tries, 4)))
    return mask

  return jax.vmap(one)(jax.random.split(rng, len(wanted)), wanted)


def random_counts(
  rng: jax.Array, rows: int, patches: int, ratio: tuple[float, float], prob: float, stratified: bool
) -> jax.Array:
  """How many patches to mask in each of `rows` crops: 0, or with probability `prob` a uniform fraction of all.

  Zhou et al. 2022 (iBOT), https://arxiv.org/abs/2111.07832, and its official code (pred_ratio 0 0.3, pred_ratio_var 0 0.2).

  Args:
    rng: key.
    rows: crops, N.
    patches: T.
    ratio: bounds of the fraction.
    prob: of masking a crop at all.
    stratified: exactly int(prob N) crops are masked, and one fraction is drawn from each of as many equal intervals, which go to
      random crops (DINOv2, data/collate.py).

  Returns:
    [N] float32 in [0, ratio[1] T].
  """
  u = jax.random.uniform(rng, (3, rows))
  low, high = ratio
  if not stratified:
    return jnp.where(u[0] < prob, patches * (low + u[1] * (high - low)), 0.0)
  n = int(prob * rows)
  rank = jnp.argsort(u[2])  # a permutation: crops of rank below n are masked
  return jnp.where(rank < n, jnp.floor(patches * (low + (rank + u[1]) / max(n, 1) * (high - low))), 0.0)


def _sizes(grid: tuple[int, int], area: tuple[float, float], ratio: tuple[float, float]) -> np.ndarray:
  """[_SIZES, 2] int32: (height, width) of the block that each of the equally spaced numbers in [0, 1) gives; official formula."""
  u = np.arange(_SIZES) / _SIZES
  count = np.floor(grid[0] * grid[1] * (area[0] + u * (area[1] - area[0])))
  aspect = ratio[0] + u * (ratio[1] - ratio[0])
  sizes = np.round(np.sqrt(np.stack([count * aspect, count / aspect], 1)))
  return np.clip(sizes, 1, grid).astype(np.int32)
