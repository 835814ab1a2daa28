"""Colour operations on device: float images [H, W, 3] in [0, 1]; vmap them over a batch.

Semantics of torchvision.transforms.v2.functional: every result is clipped to [0, 1].
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDERS = np.array(list(itertools.permutations(range(4))))  # [24, 4]: the orders that color_jitter draws from
_SKIP = HUE  # hue is no blend: its row in the table of blends is the identity


def _slots(order):
  """[6] blends: those before hue, then those after it, each padded to three."""
  place = list(order).index(HUE)
  before, after = list(order[:place]), list(order[place + 1 :])
  return before + [_SKIP] * (3 - len(before)) + after + [_SKIP] * (3 - len(after))


_SLOTS = np.array([_slots(order) for order in ORDERS])  # [24, 6]
_SLOTS_NO_HUE = np.array([[op for op in order if op != HUE] for order in ORDERS])  # [24, 3]


def to_float(x: jax.Array) -> jax.Array:
  """float32 in [0, 1]: integers are divided by 255, floats are taken to be in [0, 1] already."""
  return x.astype(jnp.float32) / 255 if jnp.issubdtype(x.dtype, jnp.integer) else x.astype(jnp.float32)


def normalize(x: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
  """(x - mean) / std for each channel of x [..., 3]."""
  shape = (1,) * (x.ndim - 1) + (-1,)
  return (x - jnp.reshape(jnp.array(mean, x.dtype), shape)) / jnp.reshape(jnp.array(std, x.dtype), shape)


def _grey(x):
  """[H, W, 1] luma. Not a dot product: a matrix unit would round it to bfloat16."""
  return 0.2989 * x[..., 0:1] + 0.587 * x[..., 1:2] + 0.114 * x[..., 2:3]


def brightness(x: jax.Array, factor: jax.Array) -> jax.Array:
  """factor * x, clipped: a blend with black."""
  return jnp.clip(factor * x, 0, 1)


def contrast(x: jax.Array, factor: jax.Array) -> jax.Array:
  """Blend with the mean of the grey image: factor 0 is that grey, 1 is x."""
  return jnp.clip(factor * x + (1 - factor) * jnp.mean(_grey(x)), 0, 1)


def saturation(x: jax.Array, factor: jax.Array) -> jax.Array:
  """Blend with the grey image: factor 0 is grey, 1 is x."""
  return jnp.clip(factor * x + (1 - factor) * _grey(x), 0, 1)


def hue(x: jax.Array, delta: jax.Array) -> jax.Array:
  """Turn the hue of HSV by `delta` in [-0.5, 0.5] of a full circle.

  With hue in sixths of a circle, k = (n + hue) mod 6 and n = 5, 3, 1 for red, green, blue, a channel of HSV -> RGB is
  max - (max - min) * clip(min(k, 4 - k), 0, 1): torchvision's table without its branches.
  """
  r, g, b = x[..., 0], x[..., 1], x[..., 2]
  high, low = jnp.maximum(jnp.maximum(r, g), b), jnp.minimum(jnp.minimum(r, g), b)
  span = high - low
  inverse = 1 / jnp.where(span > 0, span, 1)
  h = jnp.where(high == r, (g - b) * inverse, jnp.where(high == g, 2 + (b - r) * inverse, 4 + (r - g) * inverse))
  h = h + 6 * delta  # in [-4, 8]

  def channel(n):
    k = h + n
    k = k - 6 * jnp.floor(k / 6)
    return high - span * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

  return jnp.clip(jnp.stack([channel(5), channel(3), channel(1)], -1), 0, 1)


def grayscale(x: jax.Array) -> jax.Array:
  """Luma .2989 R + .587 G + .114 B, repeated in three channels."""
  return jnp.broadcast_to(_grey(x), x.shape)


def solarize(x: jax.Array, threshold: float) -> jax.Array:
  """Invert the values that are at least `threshold`."""
  return jnp.where(x >= threshold, 1 - x, x)


def gaussian_blur(x: jax.Array, sigma: jax.Array, kernel_size: int) -> jax.Array:
  """Gaussian blur with `kernel_size` taps (odd, static) and reflected borders; `sigma` in pixels may be traced.

  Two banded matrix multiplications: under vmap each example has its own sigma at no further cost, where a convolution with a
  kernel for each example is twenty times slower (CPU, 32 and 224 pixels).

  Args:
    x: [H, W, 3].
    sigma: [] standard deviation in pixels, positive.
    kernel_size: taps; half of it must be less than H and W.

  Raises:
    ValueError: `kernel_size` is even, or too large for the image.
  """
  if kernel_size < 1 or kernel_size % 2 == 0 or kernel_size // 2 >= min(x.shape[:2]):
    raise ValueError(f'kernel_size must be odd and less than twice the side of the image, got {kernel_size} for {x.shape[:2]}')
  rows, columns = (_blur_matrix(n, sigma, kernel_size // 2) for n in x.shape[:2])
  return jnp.einsum('sh,hwc,tw->stc', rows, x, columns, precision='high')


def _blur_matrix(n, sigma, radius):
  """[n, n]: row i holds the taps around i; those beyond a border are added where they are reflected to."""
  i, j = np.arange(n)[:, None], np.arange(n)[None, :]
  # Distance to pixel j itself and to its images behind the two mirrors; 0 and n - 1 lie on a mirror and have one image less.
  far = n + radius
  distances = [i - j, np.where(j > 0, i + j, far), np.where(j < n - 1, 2 * (n - 1) - i - j, far)]
  taps = sum(jnp.where(np.abs(d) <= radius, jnp.exp(-0.5 * jnp.square(d / sigma)), 0) for d in distances)
  return taps / jnp.sum(taps, 1, keepdims=True)


_turn_hue = hue  # color_jitter has an argument of that name


def color_jitter(
  rng: jax.Array,
  x: jax.Array,
  brightness: float,
  contrast: float,
  saturation: float,
  hue: float,
  impl: str = 'v2',
) -> jax.Array:
  """Brightness, contrast, saturation and hue in a random order, clipped after each (torchvision ColorJitter).

  SimCLR's own code (google-research/simclr data_util.py) has the same order and clipping, but takes contrast around the mean of
  each channel and saturation in HSV; torchvision's, which most reproductions use, are taken here. Its choice of brightness is
  kept (random_brightness, impl='simclrv1' | 'simclrv2'): 'v2' multiplies by U(max(0, 1 - s), 1 + s), 'v1' adds U(-s, s).

  Exact for each example of a vmapped batch without a switch, which would run 4 x 4 operations: the first three are
  clip(gain * x + offset) with offset a constant, a multiple of the mean grey, or of the grey image, so one blend with drawn
  coefficients is any of them. Three such slots before hue and three after it hold every order; the unused ones are the identity.

  Args:
    rng: key.
    x: [H, W, 3] in [0, 1].
    brightness, contrast, saturation: strengths s; the factor is U(max(0, 1 - s), 1 + s).
    hue: largest shift, at most 0.5 of the circle.
    impl: 'v2' or 'v1', see above.

  Returns:
    [H, W, 3] in [0, 1].

  Raises:
    ValueError: unknown `impl`.
  """
  order, factors, delta = jitter_parameters(rng, brightness, contrast, saturation, hue, impl)
  b, c, s = factors[0], factors[1], factors[2]
  of_brightness = (
    (1.0, b, 0.0, 0.0) if impl == 'v1' else (b, 0.0, 0.0, 0.0)
  )  # gain, constant, of the mean grey, of the grey image
  blends = jnp.array([of_brightness, (c, 0.0, 1 - c, 0.0), (s, 0.0, 0.0, 1 - s), (1.0, 0.0, 0.0, 0.0)])  # [4, 4]
  slots = blends[jnp.array(_SLOTS if hue else _SLOTS_NO_HUE)[order]]  # [6 or 3, 4]
  for slot in slots[:3]:
    x = _blend(x, slot)
  if hue:
    x = _turn_hue(x, delta)
    for slot in slots[3:]:
      x = _blend(x, slot)
  return x


def jitter_parameters(
  rng: jax.Array, brightness: float, contrast: float, saturation: float, hue: float, impl: str = 'v2'
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """What `color_jitter` draws: ([] row of ORDERS, [3] factors of brightness (v1: addend), contrast, saturation, [] hue shift)."""
  if impl not in ('v1', 'v2'):
    raise ValueError(f"impl must be 'v2' or 'v1', got {impl!r}")
  s = np.array([brightness, contrast, saturation, hue])
  low, high = np.where(np.arange(4) == HUE, -s, np.maximum(0, 1 - s)), np.where(np.arange(4) == HUE, s, 1 + s)
  if impl == 'v1':
    low[BRIGHTNESS], high[BRIGHTNESS] = -brightness, brightness
  u = jax.random.uniform(rng, (5,))
  drawn = jnp.float32(low) + u[:4] * jnp.float32(high - low)
  return jnp.int32(u[4] * len(ORDERS)), drawn[:HUE], drawn[HUE]


def _blend(x, coefficients):
  gain, constant, of_mean, of_grey = coefficients
  grey = _grey(x)
  return jnp.clip(gain * x + constant + of_mean * jnp.mean(grey) + of_grey * grey, 0, 1)
