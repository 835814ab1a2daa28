"""Fixed tables of positions."""

import numpy as np


def sincos(h: int, w: int, width: int, order: str) -> np.ndarray:
  """Fixed 2-D sin-cos positions [h, w, width] float32: half of the channels for the column, half for the row.

  Each half is [sin(p f), cos(p f)] with f_i = 10000^(-4i / width), i < width / 4. In MAE's official code (`sincos_mae`) the
  first half is the column's; in MoCo v3's (`sincos_moco`) it is the row's, although the variable there is called w.
  """
  f = 10000.0 ** (-np.arange(width // 4) / (width // 4))

  def half(n):  # [n, width / 2]
    angle = np.arange(n)[:, None] * f[None]
    return np.concatenate([np.sin(angle), np.cos(angle)], 1)

  row = np.broadcast_to(half(h)[:, None], (h, w, width // 2))
  column = np.broadcast_to(half(w)[None], (h, w, width // 2))
  return np.concatenate([column, row] if order == 'sincos_mae' else [row, column], -1).astype(np.float32)
