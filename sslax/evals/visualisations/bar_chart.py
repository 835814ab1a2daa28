"""Grouped bars."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sslax.errors import UserError
from sslax.evals.visualisations.canvas import annotate, figure, legend, save
from sslax.evals.visualisations.colours import PALETTE
from sslax.evals.visualisations.text import printable


def bars(
  groups: Sequence[str],
  series: Mapping[str, Sequence[float]],
  errors: Mapping[str, Sequence[float]] | None = None,
  xlabel: str = '',
  ylabel: str = '',
  title: str = '',
  kind: str = 'svg',
) -> str | bytes:
  """Grouped bars with values and error bars, such as label efficiency: accuracy of each encoder at 1, 5, 10, all labels a class.

  Args:
    groups: [G] names along the x axis.
    series: name -> [G] heights; NaN leaves a gap.
    errors: name -> [G] half-lengths of the error bars, for any of the series (the caption says what they are: deviation, ...).
    xlabel, ylabel, title: text.
    kind: 'svg' or 'png'.

  Returns:
    SVG text, or PNG bytes.

  Raises:
    UserError: a series without one value for each group, errors of an unknown series, or another kind.
  """
  errors = errors or {}
  for name, values in (*series.items(), *errors.items()):
    if name not in series or len(values) != len(groups):
      raise UserError(
        f"bars: '{name}' has {len(values)} values for {len(groups)} groups; each of {list(series)} needs one for each group."
      )
  with figure(7.2, 3.8) as (page, axes):
    width = 0.8 / max(len(series), 1)
    for i, (name, values) in enumerate(series.items()):
      x = np.arange(len(groups)) + (i - (len(series) - 1) / 2) * width
      y = np.asarray(values, np.float64)
      e = np.nan_to_num(np.asarray(errors.get(name, np.zeros(len(y))), np.float64))
      hatch = (None, '//', '..')[i // len(PALETTE) % 3]
      axes.bar(x, y, width * 0.92, color=PALETTE[i % len(PALETTE)], hatch=hatch, edgecolor='white', linewidth=0.0, label='-')
      if (e > 0).any():
        axes.errorbar(x[e > 0], y[e > 0], e[e > 0], fmt='none', ecolor='#1f2328', elinewidth=1, capsize=3)
      if len(groups) * len(series) <= 24:
        style: dict[str, Any] = {'ha': 'center', 'fontsize': 8, 'color': '#57606a', 'textcoords': 'offset points'}
        for a, b, c in zip(x, y, e, strict=True):
          if np.isfinite(b):
            up = 1 if b >= 0 else -1
            axes.annotate(f'{b:#.3g}'.rstrip('.'), (a, b + up * c), (0, 3 * up), va='bottom' if up > 0 else 'top', **style)
    axes.axhline(0, color='#8c959f', linewidth=0.8)
    axes.margins(y=0.08)
    axes.grid(True, axis='y')
    axes.tick_params(axis='x', length=0)
    axes.set_xticks(range(len(groups)), [printable(g) for g in groups], parse_math=False)
    annotate(axes, title=title, xlabel=xlabel, ylabel=ylabel)
    legend(page, axes, list(series), loc='outside lower left', ncols=4)
    return save(page, kind)
