"""What a record of any source may hold, and under which suffixes files hold it.

A record is a dict of

  image  encoded bytes; or pixels, [H, W, 3] or [H, W] uint8
  video  the bytes of a file, with its sound if it has any; or a sequence of encoded images, one a frame; or [T, H, W, 3] uint8
  audio  the bytes of a file; or samples, [N] or [N, channels] int16 or float32, and then `rate` in Hz beside it
  text   str, bytes of UTF-8, or a list of str
  label  int; absent where the source has no classes, -1 where only this record has none

and of what a URI asks for besides (`?fields=npy,ply`), under the name that it is asked for by. What there is not is absent.
"""

import os

import numpy as np

from sslax.errors import BadRecord, UserError

SUFFIXES = {
  'image': ('jpg', 'jpeg', 'png', 'webp', 'gif', 'bmp'),
  'video': ('mp4', 'webm', 'avi', 'mov', 'mkv', 'm4v'),
  'audio': ('flac', 'wav', 'ogg', 'mp3', 'opus'),
}
PLURALS = {'image': 'images', 'video': 'videos', 'audio': 'sounds'}
OWN = (*SUFFIXES, 'rate', 'text', 'label')  # names that no other field may have

_MEDIUM = {suffix: medium for medium, suffixes in SUFFIXES.items() for suffix in suffixes}


def medium_of_suffix(suffix: str) -> str:
  """'image', 'video' or 'audio'; '' if files with this suffix ('jpg') are none."""
  return _MEDIUM.get(suffix.lower(), '')


def medium_of_file(name: str) -> str:
  """'image', 'video' or 'audio'; '' if the file is none."""
  return medium_of_suffix(os.path.splitext(name)[1].removeprefix('.'))


def fields(option: str) -> tuple[str, ...]:
  """The names in an option `?fields=A,B`, each once.

  Raises:
    UserError: none is there, or one has a name that means something else in a record.
  """
  names = tuple(dict.fromkeys(name.strip() for name in option.split(',') if name.strip()))
  if not names:
    raise UserError(f'?fields={option} names nothing: write ?fields=npy,ply')
  for name in names:
    if name in OWN:
      raise UserError(f'?fields={option}: {name!r} is what a record has anyway, or a name that it uses for something else')
  return names


def samples(values: np.ndarray) -> np.ndarray:
  """[N] or [N, channels] numbers as records hold sound: int16, or float32.

  Raises:
    BadRecord: integers beyond 16 bits, of which nobody can say what full volume is.
  """
  if np.issubdtype(values.dtype, np.floating):
    return values.astype(np.float32, copy=False)
  if values.size and not -(2**15) <= values.min() <= values.max() < 2**15:
    raise BadRecord(f'samples from {values.min()} to {values.max()}: expected 16 bits, or floating point')
  return values.astype(np.int16, copy=False)
