"""A sheet of what a method sees."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from sslax.errors import UserError
from sslax.evals.visualisations.sheets import sheet


def views_sheet(
  originals: np.ndarray,
  views: Sequence[np.ndarray],
  mean: Sequence[float],
  std: Sequence[float],
  labels: Sequence[str] | None = None,
) -> Image.Image:
  """What a method sees: one row an image, the original and then its views, with the normalisation undone.

  Args:
    originals: [N, H, W, 3] uint8.
    views: arrays [N, V, S, S, 3] of normalised floats; V and S may differ (global and local crops).
    mean, std: [3], in units of [0, 1] intensities: a view is (image / 255 - mean) / std.
    labels: [N] names of the rows.

  Returns:
    RGB image. Values outside [0, 255] are clipped; pixels that are not finite are magenta.

  Raises:
    UserError: shapes that do not match.
  """
  originals, views = np.asarray(originals), [np.asarray(v, np.float32) for v in views]
  for v in views:
    if v.ndim != 5 or len(v) != len(originals):
      raise UserError(
        f'views_sheet: views of shape {list(v.shape)} for {len(originals)} originals: they must be [N, V, S, S, 3].'
      )
  shown = [_denormalise(v, mean, std) for v in views]
  rows = [[image, *(view for v in shown for view in v[n])] for n, image in enumerate(originals)]
  count = sum(v.shape[1] for v in views)
  return sheet(rows, labels, ['original', *(f'view {i + 1}' for i in range(count))])


def _denormalise(views, mean, std):
  pixels = (views * np.asarray(std, np.float32) + np.asarray(mean, np.float32)) * 255
  shown = np.rint(np.clip(np.nan_to_num(pixels), 0, 255)).astype(np.uint8)
  shown[~np.isfinite(pixels).all(-1)] = (255, 0, 255)
  return shown
