"""What the host does to full-size images before they travel to the device: crops and antialiased resizing with Pillow."""

import math

import numpy as np
from PIL import Image


def random_resized_crop(
  rng: np.random.Generator, image: np.ndarray, size: int, area: tuple[float, float], ratio: tuple[float, float]
) -> np.ndarray:
  """Inception-style crop (Szegedy et al. 2015, arXiv:1409.4842, section 6), as torchvision's bicubic RandomResizedCrop.

  Ten tries at a box whose area and log-ratio are uniform; then the largest central box whose ratio is allowed. Pixels outside
  the box have no influence: it is cut first and then resized, since Image.resize(box=) would look beyond its edges.

  Args:
    rng: what the box is drawn from.
    image: `[H, W, 3]` uint8.
    size: pixels, side of the square that comes out.
    area: smallest and largest fraction of H * W.
    ratio: smallest and largest width / height, drawn log-uniformly.

  Returns:
    `[size, size, 3]` uint8.
  """
  height, width = image.shape[:2]
  top, left, h, w = _box(rng, height, width, area, ratio)
  return _resize(image[top : top + h, left : left + w], size, size)


def resize_center_crop(image: np.ndarray, resize: int, size: int) -> np.ndarray:
  """The usual evaluation transform: shorter side to `resize`, then the central square, both rounded as torchvision does.

  Args:
    image: `[H, W, 3]` uint8.
    resize: pixels, the shorter side after resizing; nothing is resized where it has this length already.
    size: pixels, side of the square, at most `resize`.

  Returns:
    `[size, size, 3]` uint8; the same array where there is nothing to do.

  Raises:
    ValueError: `size` is larger than `resize`.
  """
  if size > resize:
    raise ValueError(f'the central crop ({size}) is larger than the resized image ({resize})')
  h, w = image.shape[:2]
  if max(h, w) > 16 * min(h, w):  # resized whole, a strip of 1 x 1,000,000 pixels would become gigabytes
    long = 16 * min(h, w)
    image = image[max(0, (h - long) // 2) :, max(0, (w - long) // 2) :][:long, :long]
    h, w = image.shape[:2]
  if min(h, w) != resize:
    h, w = (resize, int(resize * w / h)) if h <= w else (int(resize * h / w), resize)  # torchvision cuts the fraction off
    image = _resize(image, h, w)
  if (h, w) == (size, size):
    return image
  top, left = round((h - size) / 2), round((w - size) / 2)
  return image[top : top + size, left : left + size]


def _box(rng, height, width, area, ratio):
  """(top, left, height, width) of a random box, in pixels."""
  for _ in range(10):
    a = height * width * rng.uniform(*area)
    r = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    w, h = round(math.sqrt(a * r)), round(math.sqrt(a / r))
    if 0 < w <= width and 0 < h <= height:
      return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
  r = min(max(width / height, ratio[0]), ratio[1])
  # An image thinner than the ratio allows would round to an empty box: at least one pixel.
  w, h = min(width, max(1, round(height * r))), min(height, max(1, round(width / r)))
  return (height - h) // 2, (width - w) // 2, h, w


def _resize(image, height, width):
  if image.shape[:2] == (height, width):
    return np.ascontiguousarray(image)
  return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BICUBIC))
