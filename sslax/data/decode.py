"""Bytes from anywhere to `[H, W, 3]` uint8: one function, one exception."""

import io

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageOps, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from sslax.errors import BadRecord

# Only these, by their first bytes: each of Pillow's other forty readers is one more parser that a hostile file could reach. The
# classes are called directly because Image.open adds a limit of its own, one for the whole process (89 million pixels: a warning,
# twice that: an error).
_READERS = (
  (b'\xff\xd8\xff', JpegImagePlugin.JpegImageFile),
  (b'\x89PNG\r\n\x1a\n', PngImagePlugin.PngImageFile),
  (b'RIFF', WebPImagePlugin.WebPImageFile),
  (b'GIF8', GifImagePlugin.GifImageFile),
  (b'BM', BmpImagePlugin.BmpImageFile),
)


class DecodeError(BadRecord):
  """Not an image that can be used; the message is one line."""


def decode(data: bytes | np.ndarray, *, max_pixels: int = 100_000_000) -> np.ndarray:
  """Decodes a JPEG, PNG, WebP, GIF or BMP, or brings an array to the same form.

  Rotated as its EXIF says; transparency is laid on white; CMYK becomes RGB; 16 bits become 8 by x / 257, rounded (Pillow cuts
  16-bit RGB to the upper byte, at most 1 away); the first frame of an animation; colour profiles are ignored.

  Args:
    data: an encoded image, or pixels `[H, W]`, `[H, W, 1]`, `[H, W, 3]`, `[H, W, 4]` of uint8 or uint16.
    max_pixels: the largest H * W, checked in the header before anything is decoded (Pillow stops WebP and GIF at 178 million).

  Returns:
    `[H, W, 3]` uint8.

  Raises:
    DecodeError: anything else, truncated files included. Nothing but this is raised.
  """
  try:
    if isinstance(data, np.ndarray):
      return _from_array(data, max_pixels)
    return _from_bytes(bytes(data), max_pixels)
  except DecodeError:
    raise
  except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, MemoryError, zlib.error, ... on what is damaged
    reason = ' '.join(str(error).split())[:200]
    raise DecodeError(f'{type(error).__name__}: {reason}') from error


def is_image(data: bytes) -> bool:
  """Whether `data` begins like a format that `decode` reads."""
  return any(data.startswith(magic) for magic, _ in _READERS)


def _from_bytes(data, max_pixels):
  if not data:
    raise DecodeError('0 bytes')
  reader = next((reader for magic, reader in _READERS if data.startswith(magic)), None)
  if reader is None:
    raise DecodeError(f'no JPEG, PNG, WebP, GIF or BMP: {len(data)} bytes that begin with {data[:12]!r}')
  with reader(io.BytesIO(data)) as image:
    _check_size(image.width, image.height, max_pixels)
    image.load()
    try:
      ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # an EXIF block that cannot be read is no reason to lose the photo: ImageNet has such
      pass
    if image.mode.startswith('I'):  # 16-bit grey, which convert('RGB') would clip at 255
      return _from_array(np.asarray(image).astype(np.uint16), max_pixels)
    if image.mode in ('LA', 'PA', 'RGBA') or 'transparency' in image.info:
      layer = image.convert('RGBA')
      return np.array(Image.alpha_composite(Image.new('RGBA', layer.size, 'white'), layer).convert('RGB'))
    return np.array(image if image.mode == 'RGB' else image.convert('RGB'))


def _from_array(x, max_pixels):
  """`[H, W]` or `[H, W, C]` -> `[H, W, 3]`."""
  if x.ndim == 2:
    x = x[..., None]
  if x.ndim != 3 or x.shape[-1] not in (1, 3, 4):
    raise DecodeError(f'an array of shape {x.shape}: expected [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]')
  if x.dtype not in (np.uint8, np.uint16):
    raise DecodeError(f'an array of {x.dtype}: expected uint8 or uint16')
  _check_size(x.shape[1], x.shape[0], max_pixels)
  if x.dtype == np.uint16:
    x = ((x.astype(np.uint32) + 128) // 257).astype(np.uint8)  # = round(x / 257)
  if x.shape[-1] == 4:
    colour, alpha = x[..., :3].astype(np.uint32), x[..., 3:].astype(np.uint32)
    x = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
  return np.array(np.broadcast_to(x, (*x.shape[:2], 3)))


def _check_size(width, height, max_pixels):
  if width < 1 or height < 1 or width * height > max_pixels:
    raise DecodeError(f'{width} x {height} pixels: expected 1 to {max_pixels:,} in all')
