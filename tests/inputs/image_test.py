"""Images as an input: what needs no training."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sslax import errors
from sslax.evals import knn
from sslax.inputs import image


def images(n=5, h=32, w=32, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (n, h, w, 3), dtype=np.uint8)


def test_pixels_are_area_means_without_the_image_mean():
  x = images()
  got = image.raw_pixels(x)
  want = (x / 255.0).reshape(5, 16, 2, 16, 2, 3).mean((2, 4)).reshape(5, -1)
  np.testing.assert_allclose(got, want - want.mean(1, keepdims=True), atol=1e-6)
  assert got.dtype == np.float32


@pytest.mark.parametrize(('h', 'w', 'shape'), [(8, 8, (8, 8)), (64, 32, (16, 8)), (28, 28, (16, 16)), (320, 3, (16, 1))])
def test_pixels_of_other_sizes_agree_with_pillow(h, w, shape):
  x = images(2, h, w)
  got = image.raw_pixels(x).reshape(2, *shape, 3)
  want = np.stack([np.asarray(Image.fromarray(i).resize(shape[::-1], Image.Resampling.BOX)) for i in x]) / 255.0
  want -= want.mean((1, 2, 3), keepdims=True)
  if h != 28:  # Pillow's box takes whole pixels only; ours splits them
    np.testing.assert_allclose(got, want, atol=1 / 255)
  np.testing.assert_allclose(got.mean((1, 2, 3)), 0, atol=1e-6)


def test_fractional_areas_keep_the_mean_and_cover_evenly():
  for old, new in ((28, 16), (37, 16), (5, 3)):
    a = image._area(old, new)
    np.testing.assert_allclose(a.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(a.sum(0), new / old, rtol=1e-5)
  np.testing.assert_allclose(image._area(3, 2), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]], rtol=1e-5)


def test_brightness_is_forgotten():
  x = images() // 2
  np.testing.assert_allclose(image.raw_pixels(x), image.raw_pixels(x + 100), atol=1e-6)


def test_refuses():
  for bad in (np.zeros((2, 4, 4, 3), np.float32), np.zeros((4, 4, 3), np.uint8), [1]):
    with pytest.raises(errors.UserError, match='uint8'):
      image.raw_pixels(bad)


@pytest.mark.slow
def test_raw_pixels_of_cifar10(real_data):
  """The published figure, .387: 5 neighbours, 10,000 train, 2,000 test."""

  def load(split, n):
    table = pq.read_table(real_data / 'cifar10' / f'{split}-00000-of-00001.parquet').slice(0, n)
    opened = [Image.open(io.BytesIO(row['bytes'])).convert('RGB') for row in table['image'].to_pylist()]
    return np.stack([np.asarray(i) for i in opened]), np.array(table['label'].to_pylist())

  (x, y), (test_x, test_y) = load('train', 10_000), load('test', 2_000)
  ask = lambda f: knn.accuracy(f(x), y, f(test_x), test_y, k=5, num_classes=10)
  assert ask(image.raw_pixels) == pytest.approx(0.387, abs=0.01)
