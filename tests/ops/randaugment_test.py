import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from sslax.ops import randaugment
from sslax.ops.views import RandomViews

H, W = 40, 56  # not square, no multiple of a block of the warp
LEVELS = np.float32([0.0, 3.7, 9.2, 10.0])
SIGNS = np.float32([-1, 1])
FILL = (124, 116, 104)


def _photo():
  """Smooth shapes with some grain and unequal channels [H, W, 3] uint8, of which no operation is the identity."""
  y, x = np.mgrid[:H, :W]
  waves = [np.sin(x / 5 + c) + np.cos(y / (4 + c) - x / 9) + 0.6 * (np.hypot(x - 30, y - 18) < 9 + c) for c in range(3)]
  grain = np.random.default_rng(0).normal(0, 3, (H, W, 3))
  return np.uint8(np.clip(np.stack(waves, -1) * [35, 40, 45] + [125, 120, 110] + grain, 12, 240))


def _smooth():
  """A photo without edges [H, W, 3] uint8."""
  y, x = np.mgrid[:H, :W]
  return np.uint8(128 + np.stack([60 * np.sin(x / 8 + c) * np.cos(y / 9 - c) for c in range(3)], -1))


def _pillow(array, op, level, sign):
  """timm's operation, with the functions of Pillow that it calls."""
  image, level = Image.fromarray(array), float(level)
  signed = float(sign) * level / 10
  factor = max(0.1, 1 + 0.9 * signed)
  warp = dict(resample=Image.Resampling.BICUBIC, fillcolor=FILL)

  def affine(*matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, **warp)

  def posterize():
    bits = 4 - int(level / 10 * 4)
    return ImageOps.posterize(image, bits) if bits else image.point([0] * 768)  # Pillow 13 refuses 0 bits, which are black

  added = [min(255, i + int(level / 10 * 110)) if i < 128 else i for i in range(256)]
  result = {
    'auto_contrast': lambda: ImageOps.autocontrast(image),
    'equalize': lambda: ImageOps.equalize(image),
    'invert': lambda: ImageOps.invert(image),
    'posterize': posterize,
    'solarize': lambda: ImageOps.solarize(image, 256 - int(level / 10 * 256)),
    'solarize_add': lambda: image.point(added * 3),
    'color': lambda: ImageEnhance.Color(image).enhance(factor),
    'contrast': lambda: ImageEnhance.Contrast(image).enhance(factor),
    'brightness': lambda: ImageEnhance.Brightness(image).enhance(factor),
    'sharpness': lambda: ImageEnhance.Sharpness(image).enhance(factor),
    'rotate': lambda: image.rotate(30 * signed, **warp),
    'shear_x': lambda: affine(1, 0.3 * signed, 0, 0, 1, 0),
    'shear_y': lambda: affine(1, 0, 0, 0.3 * signed, 1, 0),
    'translate_x': lambda: affine(1, 0, 0.45 * signed * W, 0, 1, 0),
    'translate_y': lambda: affine(1, 0, 0, 0, 1, 0.45 * signed * H),
    'none': lambda: image,
  }
  return np.float32(result[op]())


@pytest.fixture(scope='module')
def ours():
  """f(images [N, H, W, 3], op [N], level [N], sign [N]) -> [N, H, W, 3], compiled once for N = 8."""
  apply = jax.jit(jax.vmap(randaugment.apply))

  def run(x, op, level, sign):
    return np.asarray(apply(jnp.float32(x), jnp.int32(op), jnp.float32(level), jnp.float32(sign)))

  return run


GRID = [(level, sign) for level in LEVELS for sign in SIGNS]  # 8


@pytest.mark.parametrize('op', [*randaugment.OPS, 'none'])
@pytest.mark.slow
def test_equals_pillow(ours, op):
  """At all levels and both signs; a turn, which interpolates in three steps, on an image without edges and off the borders."""
  array = _smooth() if op == 'rotate' else _photo()
  index = (*randaugment.OPS, 'none').index(op)
  got = ours(np.stack([array] * 8), [index] * 8, *np.transpose(GRID))
  want = np.stack([_pillow(array, op, level, sign) for level, sign in GRID])
  assert np.array_equal(got, np.round(got)) and got.min() >= 0 and got.max() <= 255
  difference = np.abs(got - want)
  if op == 'rotate':
    away = np.stack([_away_from_borders(30 * sign * level / 10) for level, sign in GRID])
    assert away.mean() > 0.5
    assert difference[away].max() <= 2
    assert difference.mean() < 1
  else:
    assert difference.max() <= 1
    assert difference.mean() < 0.05  # rounding is rare
  if op not in ('none', 'shear_x', 'shear_y', 'translate_x', 'translate_y'):
    assert np.abs(want[4:] - array).max() > 8  # the image shows the operation


def _away_from_borders(degrees, distance=4):
  """[H, W] bool: 1 where the origin is at least `distance` pixels inside or outside the image."""
  inside = Image.fromarray(np.full((H, W), 255, np.uint8)).rotate(degrees, resample=Image.Resampling.NEAREST)
  padded = np.pad(np.asarray(inside) > 0, distance)  # beyond the canvas counts as outside
  windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * distance + 1,) * 2)
  return windows.all((-1, -2)) | ~windows.any((-1, -2))


def test_flat_and_two_level_images_stay_in_range(ours):
  """Where histograms are degenerate: one level, and almost all pixels on one."""
  flat, spike = np.full((H, W, 3), 77, np.uint8), np.full((H, W, 3), 77, np.uint8)
  spike[3, 5] = (9, 80, 200)
  cases = [(x, op) for x in (flat, spike) for op in ('auto_contrast', 'equalize', 'sharpness', 'contrast')]
  got = ours([x for x, _ in cases], [randaugment.OPS.index(op) for _, op in cases], [9.0] * 8, [1.0] * 8)
  for result, (x, op) in zip(got, cases, strict=True):
    np.testing.assert_allclose(result, _pillow(x, op, 9.0, 1.0), rtol=0, atol=1)


def test_draws():
  """Operations evenly, each applied half the time, independent in the layers; magnitudes normal and clipped."""
  rngs = jax.random.split(jax.random.key(0), 16_000)
  op, level, sign = map(np.asarray, jax.jit(jax.vmap(lambda rng: randaugment.draw(rng, 2, 9.0, 0.5, 0.5)))(rngs))
  count = len(randaugment.OPS)
  assert op.min() == 0 and op.max() == count
  for layer in op.T:
    assert abs(np.mean(layer == count) - 0.5) < 0.016  # four standard deviations
    counts = np.bincount(layer[layer < count], minlength=count)
    assert np.sum((counts - counts.mean()) ** 2 / counts.mean()) < 40  # chi-square, 14 degrees of freedom: p = 0.0003
  both = (op < count).all(1)
  assert abs(both.mean() - 0.25) < 0.014
  assert abs(np.mean(op[both, 0] == op[both, 1]) - 1 / count) < 0.016  # with replacement
  assert level.max() == 10 and abs(np.mean(level == 10) - 0.0228) < 0.004
  assert abs(np.median(level) - 9) < 0.02 and abs(np.mean(level < 8.5) - 0.1587) < 0.01
  assert set(np.unique(sign)) == {-1, 1} and abs(sign.mean()) < 0.03
  assert np.abs(np.corrcoef(np.c_[op, level, sign], rowvar=False) - np.eye(6)).max() < 0.04


@pytest.mark.slow
def test_rand_augment_is_its_layers_and_rows_are_independent(ours):
  """Also: the same key, the same result; probability 0 leaves the image."""
  x, rngs = np.stack([_photo(), _smooth()] * 4), jax.random.split(jax.random.key(1), 8)
  run = jax.jit(lambda rngs, x, prob: jax.vmap(lambda r, x: randaugment.rand_augment(r, x, prob=prob))(rngs, x))

  def augment(rngs, x, prob):
    return np.asarray(run(rngs, jnp.float32(x) / 255, prob))

  got = augment(rngs, x, 1.0)
  op, level, sign = jax.vmap(lambda rng: randaugment.draw(rng, 2, 9.0, 0.5, 1.0))(rngs)
  assert len(set(np.asarray(op).ravel())) > 5
  want = ours(ours(x, op[:, 0], level[:, 0], sign[:, 0]), op[:, 1], level[:, 1], sign[:, 1])
  np.testing.assert_allclose(255 * got, want, rtol=0, atol=1)
  np.testing.assert_array_equal(got, augment(rngs, x, 1.0))
  other = x.copy()
  other[1:] = 255 - other[1:]
  np.testing.assert_array_equal(augment(rngs, other, 1.0)[0], got[0])
  assert (augment(rngs, other, 1.0)[1:] != got[1:]).any((1, 2, 3)).all()
  np.testing.assert_allclose(augment(rngs, x, 0.0), x / 255, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_views_are_augmented_before_they_are_normalised():
  mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
  views = RandomViews(
    count=1, size=8, flip=0.0, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0, rand_augment=2, mean=mean, std=std
  )
  crops = np.random.default_rng(0).integers(0, 256, (400, 1, 8, 8, 3), dtype=np.uint8)
  got = 255 * (np.asarray(jax.jit(views)(jax.random.key(0), {'crops': crops})) * std + mean)
  np.testing.assert_allclose(got, np.round(got), rtol=0, atol=1e-3)  # 256 levels
  changed = (np.abs(got - crops) > 0.5).any((1, 2, 3, 4))
  assert 0.6 < changed.mean() < 0.8  # 3/4, less the stretched contrast of crops that have all levels
  with pytest.raises(ValueError, match='rand_augment'):
    RandomViews(rand_augment=-1)
