"""A sheet of nearest neighbours."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from sslax.errors import UserError
from sslax.evals.visualisations.colours import OTHER, PAPER, SAME
from sslax.evals.visualisations.sheets import as_rgb, auto_scale, resize, sheet
from sslax.evals.visualisations.text import class_name, font


def neighbours_sheet(
  query_images: np.ndarray,
  query_labels: np.ndarray,
  gallery_images: np.ndarray,
  gallery_labels: np.ndarray,
  neighbour_index: np.ndarray,
  similarity: np.ndarray,
  classes: Sequence[str] | None = None,
) -> Image.Image:
  """One row a query: the image, then its neighbours, nearest first. A tick on green is the query's class, a cross on red another.

  Args:
    query_images: [Q, H, W, 3] uint8; query_labels: [Q] int.
    gallery_images: [G, H, W, 3] uint8; gallery_labels: [G] int.
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
  scale = auto_scale([np.shape(query_images)[1:], np.shape(gallery_images)[1:]])
  rows, hits = [], 0
  for image, label, neighbours, near in zip(query_images, query_labels, index, similarity, strict=True):
    row = [_card(as_rgb(image, 'a query'), scale, '', PAPER)]
    for i, s in zip(neighbours, near, strict=True):
      same = bool(gallery_labels[i] == label)
      hits += same
      row.append(
        _card(as_rgb(gallery_images[i], f'gallery {i}'), scale, f'{"✓" if same else "✗"} {s:.2f}', SAME if same else OTHER)
      )
    rows.append(row)
  k = index.shape[1]
  share = f" ({hits / index.size:.0%} of those shown are of the query's class)" if index.size else ''
  names = [class_name(classes, label) for label in query_labels]
  return sheet(rows, names, ['query', *(str(j + 1) for j in range(k))], f'Nearest neighbours{share}', scale=1)


def _card(image, scale, text, colour):
  """An image in a frame, above a bar of the same colour with a text. uint8 [H, W, 3]."""
  cell, face, edge = resize(image, scale), font(13, bold=True), 4
  width = max(cell.width, math.ceil(face.getlength(text))) + 2 * edge
  page = Image.new('RGB', (width, cell.height + edge + 20), colour)
  page.paste(cell, ((width - cell.width) // 2, edge))
  ImageDraw.Draw(page).text((width / 2, cell.height + edge + 10), text, 'white', face, anchor='mm')
  return np.asarray(page)
