"""Features that need no training. A representation that does not beat them under the same probe has learned nothing.

`knn.accuracy(k=5)` of these on CIFAR-10 (first 10,000 train, first 2,000 test): pixels 0.381, colours 0.310.
"""

import numpy as np

from sslax.errors import UserError


def raw_pixels(images: np.ndarray, *, size: int = 16) -> np.ndarray:
  """Small thumbnails with each image's mean brightness taken off, so that the cosine of two is the correlation of their pixels.

  With it, pixels in 0..1 all point the same way and the floor is lower than it is (CIFAR-10: 0.330 instead of 0.381).

  Args:
    images: [N, H, W, C] uint8.
    size: the longest side of the thumbnail, by area averaging; images that are smaller stay as they are.

  Returns:
    [N, h * w * C] float32 in -1..1.

  Raises:
    UserError: not [N, H, W, C] uint8.
  """
  n, height, width, channels = _checked(images).shape
  scale = max(height, width, size) / size
  rows, columns = _area(height, max(round(height / scale), 1)), _area(width, max(round(width / scale), 1))
  out = np.empty((n, len(rows), len(columns), channels), np.float32)
  for i in range(0, n, 1024):  # float32 copies of 1024 images at a time
    part = np.float32(images[i : i + 1024]) / 255
    out[i : i + 1024] = np.einsum('hH,wW,nHWc->nhwc', rows, columns, part, optimize=True)
  out = out.reshape(n, -1)
  return out - out.mean(1, keepdims=True)


def colour_histogram(images: np.ndarray, *, bins: int = 4) -> np.ndarray:
  """Square root of the joint colour histogram: the cosine of two is the Bhattacharyya coefficient of their colours.

  Args:
    images: [N, H, W, 3] uint8.
    bins: a channel; 4 is the published floor, 8 is a stricter one (CIFAR-10: 0.328 instead of 0.310).

  Returns:
    [N, bins ** 3] float32, unit rows, red slowest.

  Raises:
    UserError: not [N, H, W, 3] uint8, or bins outside 1..256.
  """
  if _checked(images).shape[3] != 3 or not 1 <= bins <= 256:
    raise UserError(f'colour_histogram: needs 3 channels ({images.shape[3]}) and 1 to 256 bins ({bins}).')
  out = np.empty((len(images), bins**3), np.float32)
  for i, image in enumerate(images):
    r, g, b = (image.reshape(-1, 3).astype(np.int32) * bins // 256).T
    out[i] = np.bincount((r * bins + g) * bins + b, minlength=bins**3)
  return np.sqrt(out / (images.shape[1] * images.shape[2]))


def _checked(images):
  if not isinstance(images, np.ndarray) or images.ndim != 4 or images.dtype != np.uint8 or not images.size:
    raise UserError(f'floors: need images [N, H, W, C] uint8, got {getattr(images, "shape", type(images))}.')
  return images


def _area(old, new):
  """[new, old] weights: each output pixel is the mean of the stretch that it covers, also where new does not divide old."""
  edges = np.arange(new + 1) * old / new
  pixels = np.arange(old)
  overlap = np.minimum(edges[1:, None], pixels[None] + 1) - np.maximum(edges[:-1, None], pixels[None])
  return np.float32(np.maximum(overlap, 0) * new / old)
