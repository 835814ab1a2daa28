"""Crops, flips and small warps on device: single images [H, W, 3]; vmap them over a batch."""

import math

import jax
import jax.numpy as jnp

_TRIES = 10  # torchvision's and Inception's number


def random_crop_box(
  rng: jax.Array, h: int, w: int, area: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """A random box of Inception (Szegedy et al. 2015) with torchvision's details (RandomResizedCrop.get_params).

  The first of ten tries that fits is taken, else the largest central crop within `ratio`. The tries are drawn at once: no loop.

  Args:
    rng: key.
    h, w: size of the image in pixels.
    area: bounds of the box's fraction of the image's area, drawn uniformly.
    ratio: bounds of its width / height, drawn log-uniformly.

  Returns:
    ([] top, [] left, [] height, [] width), float32 that hold whole numbers of pixels.
  """
  u = jax.random.uniform(rng, (2 * _TRIES + 2,))  # one draw: each further one costs a threefry to compile and run
  target = h * w * (area[0] + u[:_TRIES] * (area[1] - area[0]))
  aspect = jnp.exp(math.log(ratio[0]) + u[_TRIES:-2] * (math.log(ratio[1]) - math.log(ratio[0])))
  heights, widths = jnp.round(jnp.sqrt(target / aspect)), jnp.round(jnp.sqrt(target * aspect))
  fits = (heights > 0) & (heights <= h) & (widths > 0) & (widths <= w)
  first = jnp.argmax(fits)
  some = fits[first]

  height = jnp.where(some, heights[first], jnp.clip(jnp.round(w / ratio[0]), 1, h))
  width = jnp.where(some, widths[first], jnp.clip(jnp.round(h * ratio[1]), 1, w))
  top = jnp.floor(jnp.where(some, u[-2] * (h - height + 1), (h - height) / 2))
  left = jnp.floor(jnp.where(some, u[-1] * (w - width + 1), (w - width) / 2))
  return top, left, height, width


def crop_and_resize(
  x: jax.Array,
  box: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
  size: int,
  method: str = 'bicubic',
  antialias: bool = True,
  flip: jax.Array | bool = False,
) -> jax.Array:
  """Cut `box` out of an image and resize it to a square, as torchvision's resized_crop (antialiased) does.

  Two matrix multiplications with weights that depend on the box: dense work for a matrix unit instead of gathers. Pixels outside
  the box have weight 0 and those inside are renormalised; `jax.image.scale_and_translate` would let its neighbours in.
  Bicubic is Keys' kernel with a = -0.5, as in PIL; like torchvision's on floats it may leave [0, 1] a little: clip it.

  Args:
    x: [H, W, 3].
    box: (top, left, height, width) in pixels, traced or not.
    size: side of the result in pixels.
    method: 'bicubic' or 'bilinear'.
    antialias: widen the kernel when the box shrinks.
    flip: mirror left to right: free, for it only reverses a matrix.

  Returns:
    [size, size, 3].

  Raises:
    ValueError: unknown `method`.
  """
  top, left, height, width = box
  rows = _resize_matrix(x.shape[0], top, height, size, method, antialias)
  columns = _resize_matrix(x.shape[1], left, width, size, method, antialias, flip)
  return jnp.einsum('sh,hwc,tw->stc', rows, x, columns, precision='high')


def _resize_matrix(n, start, length, size, method, antialias, reverse=False):
  """[size, n]: weights of the pixels in [start, start + length) for each output pixel; each row sums to 1."""
  if method not in ('bicubic', 'bilinear'):
    raise ValueError(f"method must be 'bicubic' or 'bilinear', got {method!r}")
  scale = length / size
  i = jnp.arange(size, dtype=jnp.float32)
  i = jnp.where(reverse, size - 1 - i, i)
  centre = start + (i + 0.5) * scale
  pixel = jnp.arange(n, dtype=jnp.float32)
  distance = (pixel[None, :] + 0.5 - centre[:, None]) / (jnp.maximum(scale, 1) if antialias else 1)
  kernel = _cubic if method == 'bicubic' else _triangle
  inside = (pixel >= start) & (pixel < start + length)
  weights = jnp.where(inside[None, :], kernel(jnp.abs(distance)), 0)
  return weights / jnp.sum(weights, 1, keepdims=True)


def _triangle(t):
  return jnp.maximum(1 - t, 0)


def _cubic(t):
  """Keys 1981, a = -0.5."""
  near = (1.5 * t - 2.5) * t * t + 1
  far = ((-0.5 * t + 2.5) * t - 4) * t + 2
  return jnp.where(t < 1, near, jnp.where(t < 2, far, 0))


def inside(x: jax.Array, box: tuple[jax.Array, jax.Array, jax.Array, jax.Array]) -> jax.Array:
  """[H, W, 1] bool: 1 is inside the box (top, left, height, width) of x [H, W, C]."""
  top, left, height, width = box
  rows, columns = jnp.arange(x.shape[0])[:, None, None], jnp.arange(x.shape[1])[None, :, None]
  return (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)


def flip(x: jax.Array) -> jax.Array:
  """Mirror x [..., H, W, 3] left to right."""
  return x[..., ::-1, :]


def affine(x: jax.Array, angle: jax.Array, shear: jax.Array) -> jax.Array:
  """Turn and shear an image about its centre: bilinear, borders are continued. Gathers: for small images.

  Args:
    x: [H, W, 3].
    angle: degrees, counter-clockwise.
    shear: degrees; rows slide by tan(shear) times their height above the centre, before the turn.

  Returns:
    [H, W, 3].
  """
  h, w, _ = x.shape
  cy, cx = (h - 1) / 2, (w - 1) / 2
  turn = jnp.deg2rad(angle)
  cos, sin, slope = jnp.cos(turn), jnp.sin(turn), jnp.tan(jnp.deg2rad(shear))
  dy, dx = (jnp.arange(h) - cy)[:, None], (jnp.arange(w) - cx)[None, :]
  # Where each output pixel comes from: the inverse turn, then the inverse slide; y grows downwards.
  y = sin * dx + cos * dy
  x_of = cos * dx - sin * dy + slope * y
  y, x_of = jnp.clip(y + cy, 0, h - 1), jnp.clip(x_of + cx, 0, w - 1)
  top, left = jnp.int32(y), jnp.int32(x_of)
  below, right = jnp.minimum(top + 1, h - 1), jnp.minimum(left + 1, w - 1)
  fy, fx = (y - top)[..., None], (x_of - left)[..., None]
  upper = (1 - fx) * x[top, left] + fx * x[top, right]
  lower = (1 - fx) * x[below, left] + fx * x[below, right]
  return (1 - fy) * upper + fy * lower
