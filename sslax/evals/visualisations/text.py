"""Words in pictures: what can be drawn of them, in which font, cut or wrapped to a width."""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import ImageFont

from sslax.io import extras

# No text in UTF-8 or in XML: half a surrogate pair (os.fsdecode makes them of bytes that are no UTF-8), control characters but
# for tab and the ends of lines, and two that are no characters.
_UNPRINTABLE = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]')


def printable(text: Any) -> str:
  """`str(text)` as it can be drawn, encoded and put into XML: the replacement character stands for what cannot.

  >>> ascii(printable('caf\\udce9'))
  "'caf\\\\ufffd'"
  """
  return _UNPRINTABLE.sub('\ufffd', str(text))


def one_line(text: Any) -> str:
  """`printable`, with a single space for any stretch of white space: PIL measures no text of several lines."""
  return ' '.join(printable(text).split())


def class_name(classes: Sequence[str] | None, label: int) -> str:
  """The name of a class, or its number where it has none."""
  return one_line(classes[label] if classes is not None and 0 <= label < len(classes) else label)


def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
  """DejaVu, which comes with matplotlib and knows Greek, Cyrillic and the ticks; Pillow's own font knows Latin."""
  matplotlib = extras.need('matplotlib', 'eval')
  return ImageFont.truetype(f'{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans{"-Bold" if bold else ""}.ttf', size)


def shorten(text: Any, face: ImageFont.FreeTypeFont, width: float) -> str:
  """One line of at most `width` px; what is cut ends in '…'."""
  text = one_line(text)
  if face.getlength(text) <= width:
    return text
  while text and face.getlength(text + '…') > width:
    text = text[:-1]
  return text + '…'


def wrap(text: Any, face: ImageFont.FreeTypeFont, width: float, most: int) -> list[str]:
  """At most `most` lines of at most `width` px. Ends of lines stay; words that are too long are broken; a text that is too long
  ends in '…'.
  """
  lines = list(itertools.islice(_lines(text, face, width), most + 1))
  if len(lines) > most:
    lines = lines[:most]
    while lines[-1] and face.getlength(lines[-1] + '…') > width:
      lines[-1] = lines[-1][:-1]
    lines[-1] += '…'
  return lines


def _lines(text: Any, face: ImageFont.FreeTypeFont, width: float) -> Iterator[str]:
  for paragraph in printable(text).splitlines():
    line = ''
    for word in paragraph.split():
      if line and face.getlength(f'{line} {word}') <= width:
        line = f'{line} {word}'
        continue
      if line:
        yield line
      while face.getlength(word) > width and len(word) > 1:
        fits = 1
        while face.getlength(word[: fits + 1]) <= width:
          fits += 1
        yield word[:fits]
        word = word[fits:]
      line = word
    yield line
