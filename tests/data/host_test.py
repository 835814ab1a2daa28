import math

import numpy as np
import pytest
from PIL import Image

from sslax.data import host

RATIO = (3 / 4, 4 / 3)


def noise(h, w):
  return np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)


@pytest.mark.parametrize('box, size', [((3, 7, 21, 30), 16), ((5, 4, 12, 10), 24)])
def test_crop_equals_torchvision(golden, monkeypatch, box, size):
  z = np.load(golden / 'image_ops.npz')
  top, left, h, w = box
  monkeypatch.setattr(host, '_box', lambda *_: box)
  half = lambda x: (
    63.75 + 127.5 * x
  )  # away from 0 and 255: Pillow clips what overshoots between its two passes, torchvision does not
  out = host.random_resized_crop(None, np.round(half(z['image'])).astype(np.uint8), size, (0.08, 1), RATIO)
  error = np.abs(out - half(z[f'crop_top{top}_left{left}_h{h}_w{w}_to{size}_bicubic']))
  # 1/2 of the input by two passes of the kernel (sum |weights| <= 1.25), 1/2 between them by one, 1/2 at the end
  assert error.max() < 0.5 * (1.25**2 + 1.25 + 1)
  assert error.mean() < 0.4


def test_box_follows_its_distribution():
  rng = np.random.default_rng(0)
  boxes = np.array([host._box(rng, 1000, 800, (0.1, 0.4), (0.5, 2)) for _ in range(4000)])
  top, left, h, w = boxes.T
  area, ratio = h * w / 800_000, np.log(w / h)
  for x, low, high in [(area, 0.1, 0.4), (ratio, -math.log(2), math.log(2))]:
    assert x.min() > low - 0.01 and x.max() < high + 0.01
    assert abs(x.mean() - (low + high) / 2) < 4 * (high - low) / math.sqrt(12 * 4000)  # 4 standard errors of a uniform variable
    assert abs(x.std() - (high - low) / math.sqrt(12)) < 0.02 * (high - low)
  for start, free in [(top, 1000 - h), (left, 800 - w)]:
    assert start.min() >= 0 and (start <= free).all()
    u = (start + 0.5) / (free + 1)
    assert abs(u.mean() - 0.5) < 4 / math.sqrt(12 * 4000) and u.min() < 0.01 and u.max() > 0.99


@pytest.mark.parametrize('shape, box', [((10, 100), (0, 43, 10, 13)), ((100, 10), (43, 0, 13, 10))])
def test_fallback_is_the_largest_central_box(shape, box):
  top, left, h, w = box
  image = np.zeros((*shape, 3), np.uint8)
  image[top : top + h, left : left + w] = 200
  out = host.random_resized_crop(np.random.default_rng(0), image, 8, (0.9, 1.0), RATIO)
  assert (out == 200).all()  # nothing from beyond the edges of the box either


def test_every_size_gives_a_crop():
  rng = np.random.default_rng(0)
  for shape in [(1, 1), (1, 5000), (5000, 1), (2, 3), (8, 8)]:
    image = np.full((*shape, 3), 200, np.uint8)
    outs = [host.random_resized_crop(rng, image, 8, (0.08, 1.0), ratio) for ratio in (RATIO, (0.1, 0.4), (2.5, 9))]
    for out in (*outs, host.resize_center_crop(image, 9, 8)):
      assert out.shape == (8, 8, 3) and out.dtype == np.uint8 and (out == 200).all()  # Pillow turns an empty box into black


def test_crop_depends_on_the_generator_alone():
  image = noise(50, 60)
  crop = lambda seed: host.random_resized_crop(np.random.default_rng(seed), image, 16, (0.08, 1.0), RATIO)
  np.testing.assert_array_equal(crop(1), crop(1))
  assert (crop(1) != crop(2)).any()


@pytest.mark.parametrize(
  'shape, resize, size, resized, corner',
  [
    ((333, 500), 256, 224, (256, 384), (16, 80)),  # 256 * 500 / 333 = 384.4
    ((500, 333), 256, 224, (384, 256), (80, 16)),
    ((300, 599), 100, 95, (100, 199), (2, 52)),  # 199.67 is cut off; 2.5 is rounded to the even 2
    ((40, 40), 35, 32, (35, 35), (2, 2)),  # 1.5 is rounded to the even 2
    ((32, 40), 32, 32, (32, 40), (0, 4)),  # cropped only
  ],
)
def test_resize_center_crop_rounds_as_torchvision(shape, resize, size, resized, corner):
  image = noise(*shape)
  want = np.asarray(Image.fromarray(image).resize(resized[::-1], Image.Resampling.BICUBIC))
  want = want[corner[0] : corner[0] + size, corner[1] : corner[1] + size]
  np.testing.assert_array_equal(host.resize_center_crop(image, resize, size), want)


def test_right_size_is_untouched():
  image = noise(32, 32)
  assert host.resize_center_crop(image, 32, 32) is image


def test_strip_is_not_resized_whole(monkeypatch):
  sizes = []
  resize = host._resize
  monkeypatch.setattr(host, '_resize', lambda image, h, w: sizes.append((h, w)) or resize(image, h, w))
  image = np.zeros((1, 100_000, 3), np.uint8)
  image[:, 49_992:50_008] = 200
  assert (host.resize_center_crop(image, 64, 32) == 200).all() and sizes == [(64, 1024)]
  assert (host.resize_center_crop(image.transpose(1, 0, 2), 64, 32) == 200).all() and sizes[1:] == [(1024, 64)]


def test_crop_larger_than_image_is_refused():
  with pytest.raises(ValueError, match='larger'):
    host.resize_center_crop(noise(32, 32), 32, 64)
