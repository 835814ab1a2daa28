"""Contact sheets: images and texts in rows and columns."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from sslax.errors import UserError
from sslax.evals.visualisations.colours import FAINT, INK, PAPER
from sslax.evals.visualisations.text import font, one_line, shorten, wrap
from sslax.method import Picture

_SIDE = 96  # px: small images are enlarged to about this
_MOST = 256  # px: large images are shrunk to this
_GAP, _MARGIN = 6, 14  # px
_LINE, _INSET = 16, 3  # px: of the text in a cell


def sheet(
  rows: Sequence[Sequence[Picture]],
  row_labels: Sequence[str] | None = None,
  column_labels: Sequence[str] | None = None,
  title: str = '',
  scale: float | None = None,
) -> Image.Image:
  """A contact sheet. Images keep their relative sizes (multi-crop views differ) and stand in the middle of their cells.

  A cell that is a text is white, with the text wrapped; what does not fit is cut and ends in '…'. It is as wide as the images of
  its column and as high as those of its row. A column of texts alone is 256 px wide, or as the widest image; a row of texts alone
  is as high as the longest one needs, up to 256 px.

  Args:
    rows: images, uint8 [H, W, 3] (or [H, W], [H, W, 1]), and texts; rows may differ in length and images in size.
    row_labels: one a row, cut to 160 px.
    column_labels: one a column; a column is as wide as its label.
    title: one line above all.
    scale: display px per image px. Default: one whole factor, or a reduction, that brings the largest side to about 96 px, and to
      256 px at most. Enlarged pixels stay squares (nearest neighbour).

  Returns:
    RGB image.

  Raises:
    UserError: nothing to show, an image that is not uint8 RGB, or labels that do not match in number.
  """
  if not any(len(row) for row in rows):
    raise UserError('sheet: there are no images to show: give at least one row with one image or text.')
  given = [
    [cell if isinstance(cell, str) else as_rgb(cell, f'row {i}, column {j}') for j, cell in enumerate(row)]
    for i, row in enumerate(rows)
  ]
  for name, labels, want in (('row', row_labels, len(given)), ('column', column_labels, max(map(len, given)))):
    if labels is not None and len(labels) != want:
      raise UserError(f'sheet: {len(labels)} {name} labels for {want} {name}s: give one for each.')
  scale = scale or auto_scale([cell.shape for row in given for cell in row if not isinstance(cell, str)])
  cells = [[cell if isinstance(cell, str) else resize(cell, scale) for cell in row] for row in given]

  face, bold = font(13), font(16, bold=True)
  title = one_line(title)
  left = [shorten(text, face, 160) for text in row_labels or [''] * len(cells)]
  top = [one_line(text) for text in column_labels or [''] * max(map(len, cells))]
  widths = [
    max(math.ceil(face.getlength(text)), _width([row[j] for row in cells if j < len(row)], cells)) for j, text in enumerate(top)
  ]
  drawn = [_with_texts_drawn(row, widths) for row in cells]
  heights = [max([18 if any(left) else 1, *(cell.height for cell in row)]) for row in drawn]
  x0 = _MARGIN + (math.ceil(max(map(face.getlength, left))) + 2 * _GAP if any(left) else 0)
  y0 = _MARGIN + (26 if title else 0) + (22 if any(top) else 0)
  width = max(x0 + sum(widths) + _GAP * (len(widths) - 1), _MARGIN + math.ceil(bold.getlength(title))) + _MARGIN

  page = Image.new('RGB', (width, y0 + sum(heights) + _GAP * (len(heights) - 1) + _MARGIN), PAPER)
  draw = ImageDraw.Draw(page)
  draw.text((_MARGIN, _MARGIN), title, INK, bold, anchor='lt')
  x = x0
  for text, w in zip(top, widths, strict=True):
    draw.text((x + w / 2, y0 - 8), text, FAINT, face, anchor='ms')
    x += w + _GAP
  y = y0
  for text, row, h in zip(left, drawn, heights, strict=True):
    draw.text((x0 - 2 * _GAP, y + h / 2), text, INK, face, anchor='rm')
    x = x0
    for cell, w in zip(row, widths, strict=False):
      page.paste(cell, (x + (w - cell.width) // 2, y + (h - cell.height) // 2))
      x += w + _GAP
    y += h + _GAP
  return page


def png(image: Image.Image) -> bytes:
  """The PNG bytes of a sheet."""
  out = io.BytesIO()
  image.save(out, 'PNG', optimize=True)
  return out.getvalue()


# Pieces


def as_rgb(image: Any, where: str) -> np.ndarray:
  """[H, W, 3] uint8 of an image [H, W, 3], [H, W, 1] or [H, W].

  Raises:
    UserError: it is something else; `where` says which.
  """
  image = np.asarray(image)
  if image.ndim == 2:
    image = image[..., None]
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3) or 0 in image.shape:
    raise UserError(f'sheet: {where} is {image.dtype} {list(image.shape)}: images must be uint8 [H, W, 3].')
  return np.broadcast_to(image, (*image.shape[:2], 3))


def auto_scale(shapes: Sequence[Sequence[int]]) -> float:
  """Display px per image px for images of these shapes (height, width, ...)."""
  side = max((max(shape[:2]) for shape in shapes), default=_SIDE)
  return _MOST / side if side > _MOST else max(1, round(_SIDE / side))


def resize(image: np.ndarray, scale: float) -> Image.Image:
  """[H, W, 3] uint8 as it is displayed."""
  picture = Image.fromarray(np.ascontiguousarray(image))
  size = [max(1, round(n * scale)) for n in picture.size]
  return picture.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)


def _width(column, cells):
  """Of a column, without its label."""
  images = [cell.width for cell in column if not isinstance(cell, str)]
  if images or not column:
    return max(images, default=0)
  return max([_MOST, *(cell.width for row in cells for cell in row if not isinstance(cell, str))])


def _with_texts_drawn(row: Sequence[str | Image.Image], widths: Sequence[int]) -> list[Image.Image]:
  """A row of cells, its texts as images."""
  height = max((cell.height for cell in row if not isinstance(cell, str)), default=0)
  return [text_cell(cell, w, height or None) if isinstance(cell, str) else cell for cell, w in zip(row, widths, strict=False)]


def text_cell(text: str, width: int, height: int | None = None) -> Image.Image:
  """A text, wrapped on white; what does not fit is cut and ends in '…'.

  Args:
    width, height: px; None: as high as it needs, up to 256 px.
  """
  face = font(12)
  lines = wrap(text, face, width - 2 * _INSET, max(1, (height or _MOST) // _LINE))
  cell = Image.new('RGB', (width, height or _LINE * max(1, len(lines))), PAPER)
  draw, top = ImageDraw.Draw(cell), (cell.height - _LINE * len(lines)) // 2  # in the middle, as images are
  for i, line in enumerate(lines):
    draw.text((_INSET, top + _LINE * i + 12), line, INK, face, anchor='ls')
  return cell
