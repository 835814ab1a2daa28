"""Tables of results, for a page and for the terminal, and which of their cells are best."""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from sslax.errors import UserError


class Table(NamedTuple):
  """Results. Cells are strings, numbers or None (shown as '-')."""

  title: str
  columns: Sequence[str]
  rows: Sequence[Sequence[Any]]
  caption: str = ''
  best: Sequence[str] | None = None  # 'max', 'min' or '' a column: which value is bold. None: see `best_cells`


_LOWER = ('loss', 'error', 'perplexity', 'seconds')  # columns with these words are better when lower
_FIRST_NUMBER = re.compile(r'\s*([-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(?:%|$|±|\+-|\+/-)')


def text_table(table: Table) -> str:
  """A table for the terminal, which is also Markdown. Only ASCII, so that no locale refuses it; numbers are right-aligned.

  Other characters, and those that would move the cursor, appear as escapes (`\\xe9`); plus-minus appears as `+-`.
  """
  columns, rows, right = cells_of(table)
  lines = [[_ascii(cell).replace('|', '\\|') for cell in row] for row in [columns, *rows]]
  widths = [max(3, *(len(line[j]) for line in lines)) for j in range(len(columns))]
  aligned = [
    '| ' + ' | '.join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)) + ' |'
    for line in lines
  ]
  aligned.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
  return '\n'.join([*filter(None, [_ascii(table.title)]), *aligned, *filter(None, [_ascii(table.caption)])])


def best_cells(table: Table) -> set[tuple[int, int]]:
  """(row, column) of each best value: those that are bold.

  `table.best` says for each column whether the highest ('max'), the lowest ('min') or no ('') value is best. Without it, columns
  whose numbers have decimals count as scores, the highest being best, or the lowest where the name of the column has 'loss',
  'error', 'perplexity' or 'seconds' in it; whole numbers (steps, k, sizes) are no scores. Values that look the same as printed
  are equally good, and a column of one number or of equal ones has no best.

  Raises:
    UserError: `best` has another word, or not one for each column.
  """
  columns, cells, _ = cells_of(table)
  if table.best is not None and (len(table.best) != len(columns) or not {*table.best} <= {'max', 'min', ''}):
    raise UserError(f"Table '{table.title}': best={table.best} must give 'max', 'min' or '' for each of {len(columns)} columns.")
  best = set()
  for j, name in enumerate(columns):
    values = {i: v for i, row in enumerate(cells) if (v := _value(row[j])) is not None and math.isfinite(v)}
    if table.best is not None:
      order = table.best[j]
    elif j and any('.' in str(_plain(table.rows[i][j])) or isinstance(_plain(table.rows[i][j]), float) for i in values):
      order = 'min' if any(word in name.lower() for word in _LOWER) else 'max'
    else:
      order = ''
    if order and len(set(values.values())) > 1:
      top = (max if order == 'max' else min)(values.values())
      best |= {(i, j) for i, v in values.items() if v == top}
  return best


def cells_of(table: Table) -> tuple[list[str], list[list[str]], list[bool]]:
  """(columns, rows of text, whether each column is of numbers).

  Raises:
    UserError: a row has not one cell for each column.
  """
  columns = [str(c) for c in table.columns]
  for i, row in enumerate(table.rows):
    if len(row) != len(columns):
      raise UserError(f"Table '{table.title}': row {i} has {len(row)} cells for {len(columns)} columns.")
  decimals = [_decimals([row[j] for row in table.rows]) for j in range(len(columns))]
  rows = [[text_of(cell, d) for cell, d in zip(row, decimals, strict=True)] for row in table.rows]
  filled = [[row[j] for row in rows if row[j] not in ('', '-')] for j in range(len(columns))]
  return columns, rows, [bool(cells) and all(_value(cell) is not None for cell in cells) for cells in filled]


def text_of(value: Any, decimals: int | None = None) -> str:
  """What a cell shows: '-' for None, yes and no, four figures of a number or this many decimals."""
  value = _plain(value)
  if value is None:
    return '-'
  if isinstance(value, bool):
    return 'yes' if value else 'no'
  if isinstance(value, float) and (decimals is None or not math.isfinite(value)):
    return f'{value:.4g}'
  if isinstance(value, (int, float)) and decimals is not None:
    return f'{value:.{decimals}f}'
  return str(value)


# Pieces


def _value(cell):
  """The number that a cell holds, such as '93.1', '93.1 %' or '93.1 ± 0.2'; None if it holds none."""
  if cell in ('nan', 'inf', '-inf'):
    return float(cell)
  match = _FIRST_NUMBER.match(cell)
  return float(match[1].replace(',', '')) if match else None


def _plain(value):
  """The Python number in a NumPy or JAX scalar; other values as they are."""
  return value.item() if hasattr(value, 'item') and getattr(value, 'ndim', None) == 0 else value


def _decimals(values):
  """Decimals for one column with floats: three or four figures in its largest value. None where magnitudes differ too much."""
  values = [v for v in map(_plain, values) if isinstance(v, (int, float)) and not isinstance(v, bool)]
  sizes = [abs(v) for v in values if math.isfinite(v) and v]
  if (
    not sizes
    or all(isinstance(v, int) for v in values)
    or max(sizes) >= 1e6
    or min(sizes) < max(sizes) * 1e-3
    or max(sizes) < 1e-4
  ):
    return None
  power = math.floor(math.log10(max(sizes)))
  return max(0, 3 - power) if power >= 0 else 2 - power


def _ascii(text):
  text = str(text).replace('±', '+-')
  return ''.join(c if ' ' <= c <= '~' else c.encode('unicode_escape').decode() for c in text)
