"""Fixed tables of positions, for grids of any rank."""

import math
from collections.abc import Callable

import numpy as np

from sslax.models.norm import one_of

Table = Callable[[tuple[int, ...], int], np.ndarray]  # (grid, width) -> [*grid, width]
KINDS = ('sincos_mae', 'sincos_moco', 'sincos_line')


def check(kind: str | Table, known: tuple[str, ...] = KINDS) -> None:
  """Raises ValueError unless it is one of the kinds, or a table of one's own; for the field `positions` of modules."""
  if not callable(kind):
    one_of('positions', kind, known)


def table(grid: tuple[int, ...], width: int, kind: str | Table) -> np.ndarray:
  """Positions [*grid, width] float32: `sincos` of a grid of two axes; 'sincos_line', `line` over all places row by row; or what a
  function of one's own gives for this grid, which must be hashable as every field of a module: a frozen dataclass, say.

  Raises:
    ValueError: this kind has no table for a grid of this rank; a table of one's own has another shape.
  """
  if callable(kind):
    own = np.asarray(kind(grid, width), np.float32)
    if own.shape != (*grid, width):
      raise ValueError(f'positions={kind!r} gave {list(own.shape)} for the grid {grid}, and not {[*grid, width]}')
    return own
  if kind == 'sincos_line':
    return line(math.prod(grid), width).reshape(*grid, width)
  if len(grid) != 2:
    raise ValueError(f'positions={kind!r} are for two axes, and the grid is {grid}: take sincos_line or learnt')
  return sincos(*grid, width, kind)


def line(n: int, width: int) -> np.ndarray:
  """Vaswani et al. 2017, section 3.5: sine in the even channels and cosine in the odd ones, [n, width] float32."""
  angle = np.arange(n)[:, None] / 10000.0 ** (2 * (np.arange(width) // 2) / width)[None]
  angle[:, 0::2], angle[:, 1::2] = np.sin(angle[:, 0::2]), np.cos(angle[:, 1::2])
  return angle.astype(np.float32)


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
