"""The pictures of a comparison: bars of accuracy, curves while training, losses."""

import statistics
from typing import Any

import numpy as np

from sslax.comparison.journal import Journal
from sslax.comparison.probes import axis, column, title
from sslax.comparison.results import Results, Row, hardware
from sslax.evals.probe import Figure
from sslax.evals.visualisations import PALETTE, curves, figure, running_mean, save, thin
from sslax.evaluation.results import read_jsonl


def of(results: Results, rows: list[Row]) -> list[Figure]:
  """The pictures that there are so far; `rows` of these results."""
  measured = {row.name: _measured(results, row) for row in rows if row.seeds}
  return [*_accuracies(results, rows), *_while_training(results, measured), *_losses(measured)]


def _accuracies(results, rows):
  found = []
  for probe, more in results.more_is_better().items():
    lines = {row.name: statistics.mean(row.figures[probe]) for row in rows if not row.seeds and row.figures.get(probe)}
    ranked = [row for row in rows if row.seeds and row.figures.get(probe)]
    ranked.sort(key=lambda row: statistics.mean(row.figures[probe]), reverse=more is False)
    if ranked:
      error = ' Thin lines: standard deviation over the seeds.' if any(len(r.figures[probe]) > 1 for r in ranked) else ''
      drawn = _bars({r.name: r.figures[probe] for r in ranked}, lines, axis(probe))
      caption = f'Best on top; dashed: what needs no training.{error}'
      found.append(Figure(title(probe), drawn, 'svg', caption, f'bars of {column(probe)} by method'))
  return found


def _while_training(results, measured):
  kept = {name: parts for name, parts in measured.items() if parts['knn']}
  if not kept:
    return []
  # Best first: the first colours are the easiest to tell apart.
  ranked = sorted(kept.items(), key=lambda item: -np.mean([y[-1] for _, y, _ in item[1]['knn']]))
  dashes = ('', ' (dashed)', ' (dotted)', ' (dash-dotted)')  # a legend is too narrow to see them
  kept = {name + dashes[i // len(PALETTE) % 4]: parts for i, (name, parts) in enumerate(ranked)}
  by_images = {name: _mean_curve([(x, y) for x, y, _ in parts['knn']]) for name, parts in kept.items()}
  by_time = {name: _mean_curve([(t, y) for _, y, t in parts['knn']]) for name, parts in kept.items()}
  what = 'kNN accuracy during training, on a part of the images (so it is not the figure of the table)'
  seeds = '; mean of the seeds' if len(results.plan.config.seeds) > 1 else ''
  return [
    Figure(
      'While training: by images seen',
      curves(by_images, 'images seen', 'online kNN', smooth=0.0),
      'svg',
      f'{what}{seeds}; best first.',
      'online kNN against images seen',
    ),
    Figure(
      'While training: by time',
      curves(by_time, 'seconds of training', 'online kNN', smooth=0.0),
      'svg',
      f'{what}, against the seconds of training on {hardware()}{seeds}.',
      'online kNN against time',
    ),
  ]


def _losses(measured):
  losses = {name: parts['loss'] for name, parts in measured.items() if parts['loss']}
  if not losses:
    return []
  caption = 'Each method has a loss of its own: shapes can be compared, heights cannot.'
  return [Figure('Losses', _small_multiples(losses), 'svg', caption, 'loss curves')]


def _measured(results: Results, row: Row) -> dict[str, list[tuple[np.ndarray, ...]]]:
  """{'knn': [(images [N], accuracy [N], seconds [N]) a seed], 'loss': [(images, loss) a seed]}"""
  found: dict[str, list[tuple[np.ndarray, ...]]] = {'knn': [], 'loss': []}
  for seed in row.seeds:
    folder = results.plan.folder(row.name, seed)
    if not (folder / 'metrics.jsonl').exists():
      continue
    metrics, journal = read_jsonl(folder / 'metrics.jsonl'), Journal(folder)
    clock, size = dict(journal['clock']), journal['batch_size']
    online = [(m['step'] * size, m['knn'], clock[m['step']]) for m in metrics if 'knn' in m and m['step'] in clock]
    if online:
      found['knn'].append(tuple(np.array(column, float) for column in zip(*online, strict=True)))
    if metrics:
      found['loss'].append((np.array([m['step'] * size for m in metrics], float), np.array([m['loss'] for m in metrics], float)))
  return found


def _mean_curve(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
  """The mean of both coordinates over the points that all curves have."""
  n = min(len(x) for x, _ in parts)
  x, y = (np.mean([part[i][:n] for part in parts], axis=0) for i in (0, 1))
  return x, y


def _bars(values: dict[str, list[float]], lines: dict[str, float], xlabel: str) -> str:
  """Horizontal bars, the last on top, with vertical lines for the floors."""
  means = [statistics.mean(v) for v in values.values()]
  stds = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values.values()]
  top = 1.03 * max(m + std for m, std in zip([*means, *lines.values()], [*stds, *[0.0] * len(lines)], strict=True))
  with figure(7.2, 1.3 + 0.34 * len(values)) as (page, axes):
    axes.barh(range(len(values)), means, 0.66, color=PALETTE[0])
    for i, (mean, std) in enumerate(zip(means, stds, strict=True)):
      if std:
        axes.errorbar(mean, i, xerr=std, fmt='none', ecolor='#1f2328', elinewidth=1, capsize=3)
      # At the foot of the bar, where no line crosses it.
      style: dict[str, Any] = {'textcoords': 'offset points', 'va': 'center', 'fontsize': 9}
      if mean > 0.15 * top:
        axes.annotate(f'{mean:.3f}', (0, i), (5, 0), color='white', fontweight='bold', **style)
      else:
        axes.annotate(f'{mean:.3f}', (mean + std, i), (5, 0), **style)
    for i, (name, value) in enumerate(lines.items()):
      axes.axvline(value, color=PALETTE[1 + i], linestyle='--', linewidth=1.4, label=f'{name} {value:.3f}')
    axes.set_yticks(range(len(values)), list(values), parse_math=False)
    axes.tick_params(axis='y', length=0)
    axes.set_xlim(0, max(top, 1e-3))
    axes.set_xlabel(xlabel, parse_math=False)
    axes.grid(True, axis='x')
    if lines:
      page.legend(loc='outside lower left', ncols=2, fontsize=9)
    return save(page, 'svg')


def _small_multiples(losses: dict[str, list[tuple[np.ndarray, np.ndarray]]], columns: int = 4) -> str:
  """A small picture for each method's loss; a line a seed."""
  columns = min(columns, len(losses))
  lines = -(-len(losses) // columns)
  with figure(7.2, 0.4 + 1.5 * lines) as (page, axes):
    axes.remove()
    grid = list(page.subplots(lines, columns, squeeze=False).flat)
    for axes in grid:
      axes.set_axis_off()
    for axes, (name, seeds) in zip(grid, losses.items(), strict=False):
      axes.set_axis_on()
      for i, (x, y) in enumerate(seeds):
        good = np.isfinite(y)
        smooth = running_mean(y[good], max(1, int(0.02 * good.sum())) | 1)
        axes.plot(*thin(x[good], smooth, 300), color=PALETTE[i % len(PALETTE)], linewidth=1.2)
      axes.set_title(name, fontsize=9, parse_math=False)
      axes.tick_params(labelsize=7)
      axes.xaxis.set_major_formatter('{x:.0f}')
      axes.locator_params(axis='x', nbins=3)
      axes.locator_params(axis='y', nbins=4)
      axes.grid(True, axis='y')
    page.supxlabel('images seen', fontsize=9)
    return save(page, 'svg')
