import math
import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sslax.ops import geometry

ATOL = 2e-6  # float32 rounding of values in [0, 1]
CROPS = [
  f'crop_{box}_{method}' for method in ('bilinear', 'bicubic') for box in ('top3_left7_h21_w30_to16', 'top5_left4_h12_w10_to24')
]


@pytest.fixture(scope='module')
def reference(golden):
  with np.load(golden / 'image_ops.npz') as file:
    return dict(file)


@pytest.mark.parametrize('name', CROPS)
def test_crop_equals_torchvision(reference, name):
  *box, size = (int(n) for n in re.findall(r'\d+', name))
  method = name.rpartition('_')[2]
  got = jax.jit(geometry.crop_and_resize, static_argnums=(2, 3))(reference['image'], tuple(map(float, box)), size, method)
  np.testing.assert_allclose(got, reference[name], rtol=0, atol=ATOL)


def test_flip_equals_torchvision(reference):
  np.testing.assert_array_equal(geometry.flip(jnp.array(reference['image'])), reference['hflip'])


@pytest.mark.parametrize('method', ['bilinear', 'bicubic'])
@pytest.mark.slow
def test_crop_equals_pil_on_random_boxes(method):
  """PIL's float mode does not round. Boxes smaller and larger than the result, down to one pixel, under vmap."""
  x = np.random.default_rng(0).random((37, 53, 3), np.float32)
  boxes = jax.vmap(lambda k: geometry.random_crop_box(k, 37, 53, (0.001, 1.0), (0.2, 5.0)))(
    jax.random.split(jax.random.key(0), 30)
  )
  boxes = tuple(jnp.append(b, extra) for b, extra in zip(boxes, (36.0, 52.0, 1.0, 1.0), strict=True))
  flips = jnp.arange(31) % 2 == 1
  crop = jax.jit(jax.vmap(lambda box, flip: geometry.crop_and_resize(x, box, 16, method, flip=flip)))
  resample = {'bilinear': Image.BILINEAR, 'bicubic': Image.BICUBIC}[method]
  for got, t, l, h, w, flip in zip(crop(boxes, flips), *boxes, flips, strict=True):
    planes = [Image.fromarray(x[..., c]).crop((l, t, l + w, t + h)).resize((16, 16), resample) for c in range(3)]
    want = np.stack([np.asarray(p) for p in planes], -1)
    np.testing.assert_allclose(got, want[:, ::-1] if flip else want, rtol=0, atol=ATOL)


def test_crop_sees_nothing_outside_the_box():
  x = np.random.default_rng(0).random((20, 20, 3), np.float32)
  y = np.full_like(x, 1e3)
  y[4:13, 6:17] = x[4:13, 6:17]
  box = (4.0, 6.0, 9.0, 11.0)
  crop = jax.jit(geometry.crop_and_resize, static_argnums=2)
  for size in (5, 30):
    np.testing.assert_array_equal(crop(y, box, size), crop(x, box, size))


def test_crop_without_antialias_samples_points():
  x = np.random.default_rng(0).random((30, 40, 3), np.float32)
  got = jax.jit(lambda x: geometry.crop_and_resize(x, (2.0, 3.0, 24.0, 32.0), 8, 'bilinear', antialias=False))(x)
  rows, columns = (jnp.arange(8) + 0.5) * 3 - 0.5, (jnp.arange(8) + 0.5) * 4 - 0.5
  crop = x[2:26, 3:35]
  at = jnp.meshgrid(rows, columns, indexing='ij')
  want = _sample(crop, at)
  np.testing.assert_allclose(got, want, rtol=0, atol=ATOL)


def test_crop_refuses_an_unknown_method():
  with pytest.raises(ValueError, match='method'):
    geometry.crop_and_resize(jnp.zeros((4, 4, 3)), (0, 0, 4, 4), 2, 'lanczos')


@pytest.mark.parametrize('shape', [(60, 40), (30, 90)])
def test_boxes_are_distributed_as_torchvisions(shape):
  h, w = shape
  area, ratio, n = (0.08, 1.0), (3 / 4, 4 / 3), 6000
  got = np.stack(_boxes(n, h, w, area, ratio), 1).astype(np.float64)  # ties must compare equal to the loop's
  np.testing.assert_array_equal(got, np.round(got))
  assert (got[:, :2] >= 0).all() and (got[:, 2:] >= 1).all()
  assert (got[:, 0] + got[:, 2] <= h).all() and (got[:, 1] + got[:, 3] <= w).all()
  draw = random.Random(0)
  want = np.array([_torchvision_box(draw, h, w, area, ratio) for _ in range(n)])
  for quantity in (
    lambda b: b[:, 2] * b[:, 3],
    lambda b: np.log(b[:, 3] / b[:, 2]),
    lambda b: b[:, 0] / np.maximum(h - b[:, 2], 1),
    lambda b: b[:, 1] / np.maximum(w - b[:, 3], 1),
  ):
    assert _ks(quantity(got), quantity(want)) < 0.04  # two samples of 6000: p = 0.0001


def test_box_falls_back_to_the_central_crop():
  """Nine tenths of a long image never fit into these ratios."""
  for h, w, want in [(100, 12, (42, 0, 16, 12)), (10, 90, (0, 38, 10, 13)), (1, 1, (0, 0, 1, 1))]:
    ratio = (4.0, 5.0) if h == 1 else (3 / 4, 4 / 3)
    np.testing.assert_array_equal(np.stack(_boxes(20, h, w, (0.9, 1.0), ratio), 1), np.broadcast_to(want, (20, 4)))


def test_inside():
  got = geometry.inside(jnp.zeros((4, 6, 3)), (1.0, 2.0, 2.0, 3.0))
  want = np.zeros((4, 6, 1), bool)
  want[1:3, 2:5] = True
  np.testing.assert_array_equal(got, want)


def test_affine():
  affine = jax.jit(geometry.affine)
  x = np.random.default_rng(0).random((9, 9, 3), np.float32)
  np.testing.assert_allclose(affine(x, 0.0, 0.0), x, atol=ATOL)
  np.testing.assert_allclose(affine(x, 90.0, 0.0), np.rot90(x), atol=1e-5)  # counter-clockwise
  # Shear by 45 degrees: the row k above the centre slides k pixels to the right, and its left border is continued.
  slid = np.stack([x[r][np.clip(np.arange(9) - (4 - r), 0, 8)] for r in range(9)])
  np.testing.assert_allclose(affine(x, 0.0, 45.0), slid, atol=1e-5)
  # Shear comes before the turn, and half-way samples are means of neighbours.
  np.testing.assert_allclose(affine(x, 90.0, 45.0), np.rot90(slid), atol=1e-5)
  half = affine(x, 0.0, math.degrees(math.atan(0.5)))[3]
  np.testing.assert_allclose(half[1:], (x[3, 1:] + x[3, :-1]) / 2, atol=1e-5)


def test_affine_equals_map_coordinates():
  x = np.random.default_rng(0).random((11, 14, 3), np.float32)
  turn, slope = math.radians(33), math.tan(math.radians(-12))
  dy, dx = np.meshgrid(np.arange(11) - 5.0, np.arange(14) - 6.5, indexing='ij')
  y = math.sin(turn) * dx + math.cos(turn) * dy
  at = np.float32([y + 5, math.cos(turn) * dx - math.sin(turn) * dy + slope * y + 6.5])
  want = _sample(x, list(at))
  np.testing.assert_allclose(jax.jit(geometry.affine)(x, 33.0, -12.0), want, atol=1e-5)


@jax.jit
def _sample(x, at):
  return jnp.stack([jax.scipy.ndimage.map_coordinates(x[..., c], at, order=1, mode='nearest') for c in range(3)], -1)


def _boxes(n, h, w, area, ratio):
  return jax.jit(jax.vmap(lambda k: geometry.random_crop_box(k, h, w, area, ratio)))(jax.random.split(jax.random.key(3), n))


def _torchvision_box(draw, h, w, area, ratio):
  """RandomResizedCrop.get_params, with its loop."""
  for _ in range(10):
    target = h * w * draw.uniform(*area)
    aspect = math.exp(draw.uniform(math.log(ratio[0]), math.log(ratio[1])))
    cw, ch = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
    if 0 < cw <= w and 0 < ch <= h:
      return draw.randint(0, h - ch), draw.randint(0, w - cw), ch, cw
  if w / h < ratio[0]:
    cw, ch = w, round(w / ratio[0])
  elif w / h > ratio[1]:
    ch, cw = h, round(h * ratio[1])
  else:
    ch, cw = h, w
  return (h - ch) // 2, (w - cw) // 2, ch, cw


def _ks(a, b):
  """Largest distance between two empirical distribution functions."""
  at = np.union1d(a, b)
  return np.abs(np.searchsorted(np.sort(a), at, 'right') / len(a) - np.searchsorted(np.sort(b), at, 'right') / len(b)).max()
