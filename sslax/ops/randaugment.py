"""RandAugment on device: single images [H, W, 3]; vmap it over a batch."""

import math

import jax
import jax.numpy as jnp

# timm's 'increasing' operations, in groups that share one pass over the image. The last entry of all, len(OPS), does nothing.
TABLES = ('auto_contrast', 'equalize', 'invert', 'posterize', 'solarize', 'solarize_add')
BLENDS = ('color', 'contrast', 'brightness', 'sharpness')
WARPS = ('rotate', 'shear_x', 'shear_y', 'translate_x', 'translate_y')
OPS = TABLES + BLENDS + WARPS

_FILL = (124, 116, 104)  # ImageNet's mean of 0..255, which timm fills with
_LARGEST_TURN = math.radians(30)
_BLOCK = 16


def rand_augment(
  rng: jax.Array, x: jax.Array, layers: int = 2, magnitude: float = 9.0, std: float = 0.5, prob: float = 0.5
) -> jax.Array:
  """RandAugment (Cubuk et al. 2020, https://arxiv.org/abs/1909.13719) as timm applies it: 'rand-m9-mstd0.5-inc1'.

  Source: huggingface/pytorch-image-models, timm/data/auto_augment.py. The paper applies each drawn operation with one magnitude;
  timm, whose recipe DeiT and MAE fine-tune with, applies it with probability 0.5 and a magnitude with normal noise, and is taken
  here. No maintained library has it without TensorFlow or PyTorch, so this is our own, after Pillow's arithmetic on 256 levels.

  Under vmap a switch would run all 15 operations. They are three passes instead, of which the drawn operation sets the parameters
  and the others are the identity: a table of 256 levels, a blend, and three shears. None of them gathers pixels.

  Args:
    rng: key.
    x: [H, W, 3] in [0, 1].
    layers: operations in sequence, each drawn from OPS with replacement.
    magnitude: mean of the strength, 0 to 10.
    std: standard deviation of the strength, which is clipped to [0, 10].
    prob: probability that a drawn operation is applied.

  Returns:
    [H, W, 3] in [0, 1], rounded to 256 levels.
  """
  x = jnp.round(255 * x)
  drawn = draw(rng, layers, magnitude, std, prob)
  x, _ = jax.lax.scan(lambda x, layer: (apply(x, *layer), None), x, drawn)  # compiled once for all layers
  return x / 255


def draw(rng: jax.Array, layers: int, magnitude: float, std: float, prob: float) -> tuple[jax.Array, jax.Array, jax.Array]:
  """What `rand_augment` draws: ([L] index in OPS, or len(OPS) for none; [L] magnitudes in [0, 10]; [L] signs -1 or 1)."""
  u_rng, noise_rng = jax.random.split(rng)
  u = jax.random.uniform(u_rng, (3, layers))
  op = jnp.where(u[0] < prob, jnp.int32(u[1] * len(OPS)), len(OPS))
  level = jnp.clip(magnitude + std * jax.random.normal(noise_rng, (layers,)), 0, 10)
  return op, level, jnp.where(u[2] < 0.5, -1.0, 1.0)


def apply(x: jax.Array, op: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
  """One operation.

  Args:
    x: [H, W, 3] whole numbers 0..255, float32.
    op: [] index in OPS; len(OPS): the image as it is.
    level: [] magnitude in [0, 10].
    sign: [] -1 or 1: which way to turn, shear, translate, or enhance.

  Returns:
    [H, W, 3] whole numbers 0..255, float32.
  """
  x = _tabulate(x, op, level / 10)
  x = _blend(x, op, 1 + 0.9 * sign * level / 10)
  return _warp(x, op, sign * level / 10)


def _tabulate(x, op, level):
  """Look each channel up in a table of 256 levels (ImageOps of Pillow)."""
  # One-hots of the two halves of the byte: histogram and look-up are matrix products of ones and whole numbers below 256, exact
  # in bfloat16, where a scatter and a gather would be slow on a TPU.
  byte = jnp.int32(x).reshape(-1, 3)
  high, low = jax.nn.one_hot(byte // 16, 16), jax.nn.one_hot(byte % 16, 16)  # [N, 3, 16]
  histogram = jnp.int32(jnp.einsum('nci,ncj->cij', high, low)).reshape(3, 256)

  i = jnp.broadcast_to(jnp.arange(256), (3, 256))
  least, most = jnp.min(byte, 0)[:, None], jnp.max(byte, 0)[:, None]
  auto_contrast = jnp.where(most > least, jnp.clip((i - least) * 255 // jnp.maximum(most - least, 1), 0, 255), i)
  step = (byte.shape[0] - jnp.take_along_axis(histogram, most, 1)) // 255
  below = jnp.cumsum(histogram, 1) - histogram
  equalize = jnp.where(step > 0, jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255), i)
  dropped = 4 + jnp.int32(4 * level)  # bits
  posterize = (i >> dropped) << dropped
  solarize = jnp.where(i < 256 - jnp.int32(256 * level), i, 255 - i)
  solarize_add = jnp.where(i < 128, jnp.minimum(i + jnp.int32(110 * level), 255), i)
  tables = jnp.stack([auto_contrast, equalize, 255 - i, posterize, solarize, solarize_add, i])  # in the order of TABLES

  table = jnp.float32(tables[jnp.minimum(op, len(TABLES))]).reshape(3, 16, 16)
  return jnp.sum(jnp.einsum('nci,cij->ncj', high, table) * low, -1).reshape(x.shape)


def _blend(x, op, factor):
  """Blend with a degenerate image (ImageEnhance of Pillow): factor 0 is that, 1 is x, and 2 as far beyond x."""
  r, g, b = (jnp.int32(x[..., c : c + 1]) for c in range(3))
  grey = jnp.float32((19595 * r + 38470 * g + 7471 * b + 32768) >> 16)  # [H, W, 1]
  around = sum(x[i : i + x.shape[0] - 2, j : j + x.shape[1] - 2] for i in range(3) for j in range(3))
  smooth = jnp.floor((around + 4 * x[1:-1, 1:-1] + 6) / 13)
  smooth = x.at[1:-1, 1:-1].set(smooth)  # borders are as they were
  is_op = [op == OPS.index(name) for name in BLENDS]
  degenerate = jnp.where(is_op[0], grey, jnp.where(is_op[3], smooth, jnp.where(is_op[1], jnp.floor(jnp.mean(grey) + 0.5), 0)))
  factor = jnp.where(sum(is_op), jnp.maximum(factor, 0.1), 1)
  return jnp.floor(jnp.clip(degenerate + factor * (x - degenerate), 0, 255))


def _warp(x, op, level):
  """Turn, shear or translate: each output pixel whose origin lies outside the image gets the fill colour.

  A shear slides each line as a whole, which needs no gather. A turn is three shears (Paeth 1986), so that it interpolates in
  three steps where Pillow interpolates once: on a photo of 64 x 48 pixels the two differ by 1.2 levels on average and by 24 at
  most. The other four operations are one shear and differ by at most one level, which is rounding.
  """
  h, w, _ = x.shape
  turn, shear_x, shear_y, move_x, move_y = (
    jnp.where(op == OPS.index(name), level * most, 0.0)
    for name, most in zip(WARPS, (_LARGEST_TURN, 0.3, 0.3, 0.45 * w, 0.45 * h), strict=True)
  )
  half = -jnp.tan(turn / 2)

  # Where output pixel (row, column) comes from, in pixels from the centre: first to (row, middle), then (v, middle), then (v, u).
  # Pillow turns about the centre and shears about the top left corner.
  def first_u(v):
    return (half + shear_x) * v + shear_x * h / 2 + move_x

  def second_v(middle):
    return (jnp.sin(turn) + shear_y) * middle + shear_y * w / 2 + move_y

  margin, side = 4, math.ceil(math.tan(_LARGEST_TURN / 2) * h / 2) + 4  # what later steps read beyond the borders
  row, column = jnp.arange(h) + 0.5 - h / 2, jnp.arange(w) + 0.5 - w / 2
  rows, columns = jnp.arange(-margin, h + margin) + 0.5 - h / 2, jnp.arange(-side, w + side) + 0.5 - w / 2
  y = jnp.pad(x, ((margin, margin), (side, side), (0, 0)), 'edge')
  y = _slide(y, first_u(rows))
  y = _slide(y.swapaxes(0, 1), second_v(columns)).swapaxes(0, 1)
  y = _slide(y, half * rows)
  y = jnp.floor(jnp.clip(y[margin:-margin, side:-side], 0, 255) + 1e-3)  # Pillow drops fractions; not those of our rounding

  middle = column[None, :] + half * row[:, None]
  v = row[:, None] + second_v(middle)
  u = middle + first_u(v)
  inside = (u >= -w / 2) & (u < w / 2) & (v >= -h / 2) & (v < h / 2)
  return jnp.where(inside[..., None], y, jnp.array(_FILL, x.dtype)[None, None])


def _slide(x, shift):
  """x [H, W, C]: row i is read `shift[i]` pixels to the right, cubic, around the end.

  Whole blocks of 16 pixels with a small permutation of blocks for each row, then 19 taps: a chain of rolls compiles for minutes.
  """
  h, n, c = x.shape
  x = jnp.pad(x, ((0, 0), (0, -n % _BLOCK), (0, 0)), 'edge')
  count = x.shape[1] // _BLOCK
  blocks = jnp.int32(jnp.floor(shift / _BLOCK))
  order = jax.nn.one_hot((jnp.arange(count)[None, :] + blocks[:, None]) % count, count)  # [H, to, from]
  x = jnp.einsum('htf,hfk->htk', order, x.reshape(h, count, -1), precision='highest').reshape(h, -1, c)

  rest = shift - blocks * _BLOCK  # in [0, 16)
  x = jnp.pad(x, ((0, 0), (1, _BLOCK + 1), (0, 0)), 'wrap')
  taps = (_cubic(jnp.abs(k - rest))[:, None, None] * x[:, k + 1 : k + 1 + n] for k in range(-1, _BLOCK + 2))
  return sum(taps)


def _cubic(t):
  """Keys 1981, a = -1: Pillow's for warps, unlike that of its resize (a = -0.5, geometry.py)."""
  near = (t - 2) * t * t + 1
  far = ((5 - t) * t - 8) * t + 4
  return jnp.where(t < 1, near, jnp.where(t < 2, far, 0))
