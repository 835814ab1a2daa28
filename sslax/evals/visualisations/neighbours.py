"""A sheet of nearest neighbours."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from sslax.errors import UserError
from sslax.evals.visualisations.colours import FAINT, OTHER, PAPER, SAME
from sslax.evals.visualisations.sheets import as_rgb, auto_scale, resize, sheet, text_cell
from sslax.evals.visualisations.text import class_name, font
from sslax.method import Picture

_TEXT = (144, 96)  # px: of a text in a card


def neighbours_sheet(
  query_images: Sequence[Picture],
  query_labels: np.ndarray,
  gallery_images: Sequence[Picture],
  gallery_labels: np.ndarray,
  neighbour_index: np.ndarray,
  similarity: np.ndarray,
  classes: Sequence[str] | None = None,
) -> Image.Image:
  """One row a query: the image, then its neighbours, nearest first. A tick on green is the query's class, a cross on red another;
  where one of the two has no label (-1), there is neither.

  Args:
    query_images: Q images [H, W, 3] uint8, or texts; query_labels: [Q] int.
    gallery_images: G of them; gallery_labels: [G] int.
    neighbour_index: [Q, k] rows of the gallery.
    similarity: [Q, k], printed under each neighbour.
    classes: names of the classes; default: their numbers.

  Returns:
    RGB image.

  Raises:
    UserError: `neighbour_index` and `similarity` do not fit the queries or the gallery.
  """
  index, similarity = np.asarray(neighbour_index), np.asarray(similarity, np.float32)
  if index.ndim != 2 or index.shape != similarity.shape or len(index) != len(query_images):
    raise UserError(
      f'neighbours_sheet: neighbour_index {list(index.shape)}, similarity {list(similarity.shape)}, {len(query_images)} queries: '
      'the first two must be [Q, k].'
    )
  if index.size and not (0 <= index.min() and index.max() < len(gallery_images)):
    raise UserError(f'neighbours_sheet: neighbour_index must lie in [0, {len(gallery_images)}), the rows of the gallery.')
  scale = auto_scale([np.shape(picture) for picture in (*query_images, *gallery_images) if not isinstance(picture, str)])
  rows, hits = [], []
  for image, label, neighbours, near in zip(query_images, query_labels, index, similarity, strict=True):
    row = [_card(image, 'a query', scale, '', PAPER)]
    for i, s in zip(neighbours, near, strict=True):
      mark, colour = '', FAINT
      if label >= 0 and gallery_labels[i] >= 0:
        hits.append(bool(gallery_labels[i] == label))
        mark, colour = ('✓ ', SAME) if hits[-1] else ('✗ ', OTHER)
      row.append(_card(gallery_images[i], f'gallery {i}', scale, f'{mark}{s:.2f}', colour))
    rows.append(row)
  k = index.shape[1]
  share = f" ({np.mean(hits):.0%} of those shown are of the query's class)" if hits else ''
  names = [class_name(classes, label) if label >= 0 else '' for label in query_labels]
  return sheet(rows, names, ['query', *(str(j + 1) for j in range(k))], f'Nearest neighbours{share}', scale=1)


def _card(picture, where, scale, text, colour):
  """An image or a text in a frame, above a bar of the same colour with a few words. uint8 [H, W, 3]."""
  cell = text_cell(picture, *_TEXT) if isinstance(picture, str) else resize(as_rgb(picture, where), scale)
  face, edge = font(13, bold=True), 4
  width = max(cell.width, math.ceil(face.getlength(text))) + 2 * edge
  page = Image.new('RGB', (width, cell.height + edge + 20), colour)
  page.paste(cell, ((width - cell.width) // 2, edge))
  ImageDraw.Draw(page).text((width / 2, cell.height + edge + 10), text, 'white', face, anchor='mm')
  return np.asarray(page)
