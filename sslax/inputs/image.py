"""Images: [S, S, 3] uint8, whole, or random crops that the host cuts from the full-size file."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from sslax.data import decode, host
from sslax.errors import UserError
from sslax.method import Batch, Input, Picture
from sslax.ops.views import Crop

BASELINE_SIZE = 16  # pixels of a thumbnail's longest side


@dataclasses.dataclass(frozen=True)
class Image(Input):
  """What a config says of images: 'image' [S, S, 3] uint8 of the field `image` of a record, an encoded file or pixels.

  Small images travel whole, the shorter side resized to S and cut to a square, and the device cuts random crops from that
  (crop_on='device'). Of photos the host cuts the crops from the full-size file (crop_on='host'), and 'crops' [V, s, s, 3]
  travels instead, 'crops_1', ... for further sizes. Probes always see the whole image: its central square.

  Attributes:
    size: S, pixels; 0 is that of the method's views.
    resize: in evaluation, the shorter side before the central square of `size` is cut; 0 is `size`.
    crop_on: 'device' or 'host'.
    max_pixels: larger images are bad records; read from the header, before anything is decoded.
  """

  size: int = 0
  resize: int = 0
  crop_on: str = 'device'
  max_pixels: int = 100_000_000

  baseline_name: ClassVar[str] = 'raw pixels'

  def __post_init__(self) -> None:
    if self.size < 0 or self.resize < 0 or self.max_pixels < 1:
      raise ValueError(f'size={self.size}, resize={self.resize} must be 0 or more and max_pixels={self.max_pixels} at least 1')
    if self.crop_on not in ('device', 'host'):
      raise ValueError(f"crop_on={self.crop_on!r} is neither 'device' nor 'host'")
    if self.size and self.resize and self.resize < self.size:
      raise ValueError(f'resize={self.resize} is smaller than size={self.size}, the square that is cut from it')

  def of_views(self, crops: tuple[Crop, ...]) -> Input:
    """The input of a method whose views are these crops."""
    image = self if self.size else dataclasses.replace(self, size=crops[0].size)
    return HostCrops(image, tuple(crops)) if self.crop_on == 'host' else image

  def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    if self.crop_on == 'host':
      raise UserError("crop_on='host', but this method asks for no crops: use 'device'")
    if not self.size:
      raise UserError('this method has no views whose size its images could have: give Image a size')
    return {'image': jax.ShapeDtypeStruct((self.size, self.size, 3), np.uint8)}

  def decode(self, record: Mapping[str, Any]) -> np.ndarray:
    return host.resize_center_crop(self.pixels(record), self.size, self.size)

  def draw(self, decoded: np.ndarray, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
    del rng
    return {'image': decoded}

  def kept_bytes(self) -> int:
    return 3 * self.size**2

  def evaluation(self) -> Input:
    return CentralSquare(dataclasses.replace(self, crop_on='device'))  # who cuts the training crops is no matter of probes

  def describe(self, records: Sequence[Mapping[str, Any]]) -> str:
    heights, widths = zip(*(self.pixels(record).shape[:2] for record in records), strict=True)
    if min(heights) == max(heights) and min(widths) == max(widths):
      return f'{heights[0]}x{widths[0]} pixels'
    return f'{min(heights)}-{max(heights)} x {min(widths)}-{max(widths)} pixels'

  def baseline(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
    return raw_pixels(arrays['image'])

  def show(self, arrays: dict[str, np.ndarray]) -> list[Picture]:
    return list(np.asarray(arrays['image']))

  def pixels(self, record: Mapping[str, Any]) -> np.ndarray:
    """[H, W, 3] uint8 in full size."""
    if 'image' not in record:
      raise decode.DecodeError(f'no image: the record has {", ".join(map(str, record)) or "nothing"}')
    return decode.decode(record['image'], max_pixels=self.max_pixels)


@dataclasses.dataclass(frozen=True)
class CentralSquare(Input):
  """Images as probes see them: the shorter side to `image.resize`, then the central square of `image.size`."""

  image: Image

  baseline_name: ClassVar[str] = Image.baseline_name

  def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    return {'image': jax.ShapeDtypeStruct((self.image.size, self.image.size, 3), np.uint8)}

  def decode(self, record: Mapping[str, Any]) -> np.ndarray:
    return host.resize_center_crop(self.image.pixels(record), self.image.resize or self.image.size, self.image.size)

  def draw(self, decoded: np.ndarray, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
    del rng
    return {'image': decoded}

  def baseline(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
    return self.image.baseline(arrays)

  def show(self, arrays: dict[str, np.ndarray]) -> list[Picture]:
    return self.image.show(arrays)


@dataclasses.dataclass(frozen=True)
class HostCrops(Input):
  """Random resized crops: 'crops' [V, s, s, 3] uint8 of the first kind, 'crops_1', ... of further ones."""

  image: Image
  crops: tuple[Crop, ...]

  def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    shape = lambda crop: (crop.count, crop.size, crop.size, 3)
    return {crops_key(g): jax.ShapeDtypeStruct(shape(crop), np.uint8) for g, crop in enumerate(self.crops)}

  def decode(self, record: Mapping[str, Any]) -> np.ndarray:
    return self.image.pixels(record)

  def draw(self, decoded: np.ndarray, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
    assert rng is not None, 'crops are random: what evaluation reads is `evaluation()`'

    def cut(crop):
      return np.stack([host.random_resized_crop(rng, decoded, crop.size, crop.area, crop.ratio) for _ in range(crop.count)])

    return {crops_key(g): cut(crop) for g, crop in enumerate(self.crops)}  # ORDER MATTERS: all crops draw from one generator

  def evaluation(self) -> Input:
    return self.image.evaluation()

  def evaluated(self, batch: Batch) -> Batch:
    """The first crop stands for the image, which has not travelled."""
    return {'image': batch['crops'][:, 0]}

  def describe(self, records: Sequence[Mapping[str, Any]]) -> str:
    return self.image.describe(records)


def image_settings(inputs: Mapping[str, Input]) -> Image | None:
  """What the config says of the images among a method's inputs; None where it sees none."""
  for value in inputs.values():
    if isinstance(value, Image):
      return value
    if isinstance(value, HostCrops):
      return value.image
  return None


def crops_key(group: int) -> str:
  """The key of the host's crops of one kind in a batch."""
  return f'crops_{group}' if group else 'crops'


def raw_pixels(images: np.ndarray, *, size: int = BASELINE_SIZE) -> np.ndarray:
  """Small thumbnails with each image's mean brightness taken off, so that the cosine of two is the correlation of their pixels.

  With it, pixels in 0..1 all point the same way and the baseline is lower than it is (CIFAR-10, first 10,000 train and 2,000 test
  images, `knn.accuracy(k=5)`: 0.330 instead of 0.381).

  Args:
    images: [N, H, W, C] uint8.
    size: the longest side of the thumbnail, by area averaging; images that are smaller stay as they are.

  Returns:
    [N, h * w * C] float32 in -1..1.

  Raises:
    UserError: not [N, H, W, C] uint8.
  """
  if not isinstance(images, np.ndarray) or images.ndim != 4 or images.dtype != np.uint8 or not images.size:
    raise UserError(f'raw pixels: need images [N, H, W, C] uint8, got {np.shape(images)}.')
  n, height, width, channels = images.shape
  scale = max(height, width, size) / size
  rows, columns = _area(height, max(round(height / scale), 1)), _area(width, max(round(width / scale), 1))
  out = np.empty((n, len(rows), len(columns), channels), np.float32)
  for i in range(0, n, 1024):  # float32 copies of 1024 images at a time
    part = np.float32(images[i : i + 1024]) / 255
    out[i : i + 1024] = np.einsum('hH,wW,nHWc->nhwc', rows, columns, part, optimize=True)
  rows = out.reshape(n, -1)
  return rows - rows.mean(1, keepdims=True)


def _area(old, new):
  """[new, old] weights: each output pixel is the mean of the stretch that it covers, also where new does not divide old."""
  edges = np.arange(new + 1) * old / new
  pixels = np.arange(old)
  overlap = np.minimum(edges[1:, None], pixels[None] + 1) - np.maximum(edges[:-1, None], pixels[None])
  return np.float32(np.maximum(overlap, 0) * new / old)
