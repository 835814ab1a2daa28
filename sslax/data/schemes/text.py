"""text: plain text, in pieces."""

import concurrent.futures
from typing import Any

import numpy as np

from sslax.data import files
from sslax.errors import UserError

FORM = 'text:PATTERN[?bytes=N]  (plain text files, in pieces of about N bytes; 1024 where none is given)'
SUFFIX = '.txt'


def open_container(rest: str, split: str, *, bytes: str = '1024') -> 'Text':
  if not (bytes.isascii() and bytes.isdecimal() and len(bytes) < 19 and int(bytes)):
    raise UserError(f'?bytes={bytes} is no number of bytes: write ?bytes=1024')
  return Text(files.expand(rest, SUFFIX, split), int(bytes))


class Text:
  """Text files in their order, each cut at the multiples of `size` bytes: the pieces of a file joined are the file.

  A cut that would go through a character of UTF-8 is made before it, so a piece has at most `size` + 3 bytes (and where `size` is
  below 4, it may have none). What is no UTF-8 is handed over as it is. A record is {'text': bytes}.
  """

  def __init__(self, paths: list[str], size: int):
    self.classes: tuple[str, ...] = ()
    self.num_classes = 0
    self._paths, self._size = paths, size
    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # remote files are slow to answer
      self._lengths = list(pool.map(files.size, paths))
    self._stops = np.cumsum([-(-length // size) for length in self._lengths], dtype=np.int64)
    if not len(self):
      raise UserError(f'{paths[0]!r}{f" and {len(paths) - 1} more" if len(paths) > 1 else ""}: no text, the files are empty')

  def __len__(self) -> int:
    return int(self._stops[-1])

  def read(self, i: int) -> dict[str, Any]:
    f, start = self._place(i)
    length = self._lengths[f]
    stop = min(start + self._size, length)
    first, last = max(start - 3, 0), min(stop + 1, length)  # what `_cut` looks at, of both cuts
    (data,) = files.read(self._paths[f], [(first, last - first)])
    if len(data) != last - first:
      raise OSError(f'{self._paths[f]} has become shorter than {length} bytes')
    return {'text': data[_cut(data, start - first) : _cut(data, stop - first)]}

  def where(self, i: int) -> str:
    """The multiple of the size, up to 3 bytes behind the cut: to find the cut, the file would have to be read."""
    f, start = self._place(i)
    return f'{self._paths[f]} byte {start}'

  def _place(self, i):
    f = int(np.searchsorted(self._stops, i, side='right'))
    return f, (i - (int(self._stops[f - 1]) if f else 0)) * self._size


def _cut(data: bytes, at: int) -> int:
  """`at`, or where the character begins whose bytes lie on both sides of it; looks at data[at - 3 : at + 1].

  Both neighbours of a cut ask for it, with other bytes around: it must not depend on any more than these.
  """
  if at == len(data) or data[at] & 0xC0 != 0x80:  # the end, or no continuation byte
    return at
  for lead in range(at - 1, max(at - 4, -1), -1):
    if data[lead] & 0xC0 != 0x80:
      long = 4 if data[lead] >= 0xF0 else 3 if data[lead] >= 0xE0 else 2 if data[lead] >= 0xC0 else 1
      return lead if lead + long > at else at
  return at
