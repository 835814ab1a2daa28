"""What a probe gives back."""

from typing import NamedTuple


class Figure(NamedTuple):
  """A picture: PNG bytes, or SVG text."""

  title: str
  data: bytes | str
  kind: str  # 'png' or 'svg'
  caption: str = ''
  alt: str = ''  # what a reader who cannot see it should know; default: the title
