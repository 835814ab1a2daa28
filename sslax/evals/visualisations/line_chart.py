"""Curves over steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sslax.errors import UserError
from sslax.evals.visualisations.canvas import annotate, figure, legend, save
from sslax.evals.visualisations.colours import DASHES, PALETTE

Curve = tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]


def curves(
  series: Mapping[str, Curve],
  xlabel: str = 'step',
  ylabel: str = '',
  title: str = '',
  log_y: bool = False,
  smooth: float = 0.02,
  kind: str = 'svg',
) -> str | bytes:
  """Curves over steps: the raw values faint, their running mean bold.

  Args:
    series: name -> (x, y). Points that are not finite (or not positive, with `log_y`) are skipped, and the legend counts them.
      Each curve is thinned to 2000 points at most; the smallest and largest value of each stretch stay, so no spike is lost.
    xlabel, ylabel, title: text.
    log_y: logarithmic axis.
    smooth: width of the centred running mean, as a fraction of a curve's points; 0 is none. Below 3 points there is none.
    kind: 'svg' or 'png'.

  Returns:
    SVG text, or PNG bytes.

  Raises:
    UserError: x and y of different length, or another kind.
  """
  from matplotlib import ticker

  with figure(7.2, 3.8) as (page, axes):
    names, widest, ends = [], 0, []
    for i, (name, points) in enumerate(series.items()):
      x, y = (np.asarray(values, np.float64) for values in points)
      if x.shape != y.shape or x.ndim != 1:
        raise UserError(f"curves: '{name}' has {x.size} x and {y.size} y: they must be two lists of one length.")
      good = np.isfinite(x) & np.isfinite(y) & ((y > 0) | (not log_y))
      names.append(name + (f' ({(~good).sum():,} of {len(y):,} points cannot be drawn)' if not good.all() else ''))
      order = np.argsort(x[good], kind='stable')
      x, y = x[good][order], y[good][order]
      ends += [*x[:1], *x[-1:]]
      width = int(smooth * len(y)) | 1  # odd: centred
      style: dict[str, Any] = {'color': PALETTE[i % len(PALETTE)], 'linestyle': DASHES[i // len(PALETTE) % len(DASHES)]}
      if width >= 3:
        widest = max(widest, width)
        axes.plot(*thin(x, y), color=style['color'], linewidth=0.8, alpha=0.3)
        y = running_mean(y, width)
      axes.plot(*thin(x, y), **style, linewidth=1.9, marker='o' if len(y) <= 30 else None, markersize=4, label='-')
    if log_y:
      axes.set_yscale('log')
      low, high = axes.get_ylim()
      if high < 100 * low:  # within two decades, powers of ten are too few ticks
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter('{x:g}')
        axes.yaxis.set_minor_formatter('')
    if max(ends, default=0) >= 10_000:
      axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=''))
    elif max(ends, default=0) >= 5:
      axes.xaxis.set_major_locator(ticker.MaxNLocator('auto', integer=True, steps=(1, 2, 5, 10)))  # no half steps
    axes.grid(True, axis='y')
    annotate(axes, title=title, xlabel=xlabel, ylabel=ylabel)
    if widest:
      axes.set_title(f'bold: running mean of {widest:,} points', loc='right', fontsize=8, fontweight='normal', color='#57606a')
    if names != [ylabel]:
      legend(page, axes, names, loc='outside lower left', ncols=1 if max(map(len, names), default=0) > 24 else 3)
    return save(page, kind)


def thin(x: np.ndarray, y: np.ndarray, most: int = 2000) -> tuple[np.ndarray, np.ndarray]:
  """At most `most` of the points [N], [N] of a curve: the first, the last, and the smallest and largest of each stretch."""
  if len(x) <= most:
    return x, y
  edges = np.linspace(0, len(x), (most - 2) // 2 + 1).astype(int)
  keep = [0, len(x) - 1]
  for a, b in zip(edges[:-1], edges[1:], strict=True):
    keep += [a + y[a:b].argmin(), a + y[a:b].argmax()]
  kept = np.unique(keep)
  return x[kept], y[kept]


def running_mean(y: np.ndarray, width: int) -> np.ndarray:
  """[N] means of the `width` (odd) points around each, of those that exist near the ends: unlike an EMA, it does not lag."""
  n, total = np.arange(len(y)), np.concatenate([[0.0], np.cumsum(y)])
  first, last = np.maximum(n - width // 2, 0), np.minimum(n + width // 2 + 1, len(y))
  return (total[last] - total[first]) / (last - first)
