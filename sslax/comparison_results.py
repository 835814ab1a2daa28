"""What a comparison has found so far, read from its folder: the table, results.json and one page with curves and bars."""

import collections
import itertools
import json
import os
import pathlib
import statistics
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from sslax.evals import pictures, report
from sslax.evaluator import PIXELS, RANDOM, report_rows
from sslax.io import atomic
from sslax.io.versions import versions
from sslax.run import config as configs
from sslax.run.faults import read_status

FIGURES = {  # probe: (column, its one figure, None where the data allows none)
  'knn': ('kNN', lambda values: values['top1']),
  'linear': ('linear', lambda values: values['accuracy']),
  'fewshot': ('5 labels a class', lambda values: values.get('5', {}).get('mean')),
}
# A comparison is fair when these do not differ, whether `shared` sets them or all presets agree.
FAIR = ('data.train', 'data.test', 'data.image_size', 'data.eval_resize', 'batch_size', 'num_epochs', 'num_steps', 'eval.knn_k',
        'eval.knn_temperature')  # fmt: skip
FLOORS = 'floors'  # workdir/floors holds the rows that need no training
ENDED = ('done', 'diverged')  # not run again; a failed run is: the disk, the memory or the data may be better now


class Journal:
  """workdir/compare.json of one run: how it ended, its figures, seconds over all sessions, when online accuracy was measured."""

  def __init__(self, workdir: pathlib.Path):
    self.workdir, self.path = workdir, workdir / 'compare.json'
    self.fields: dict[str, Any] = {
      'status': 'not run',
      'reason': '',
      'sessions': [],
      'clock': [],
      'probe_seconds': 0.0,
      'figures': {},
    }
    try:
      self.fields.update(json.loads(self.path.read_text(encoding='utf-8')))
    except (FileNotFoundError, json.JSONDecodeError):
      pass

  def __getitem__(self, key: str) -> Any:
    return self.fields[key]

  def update(self, **fields: Any) -> None:
    self.fields.update(fields)
    atomic.write(self.path, json.dumps(self.fields, indent=1) + '\n')

  def begin(self, start_step: int, compile_seconds: float) -> None:
    """A session of training starts at `start_step`; the one before, if it was killed, ended when status.json was last written."""
    status, sessions = self.workdir / 'status.json', self['sessions']
    if sessions and 'step' not in sessions[-1]:
      killed = status.stat().st_mtime if status.exists() else 0.0
      self.end(max(killed, sessions[-1]['began']))
    sessions.append(
      {'began': time.time(), 'start_step': start_step, 'compile_seconds': round(compile_seconds, 2), 'online_seconds': 0.0}
    )
    # Steps after the last checkpoint are done again, and measured again.
    self.update(status='running', reason='', clock=[[step, t] for step, t in self['clock'] if step <= start_step])

  def end(self, now: float) -> None:
    status, session = read_status(self.workdir), self['sessions'][-1]
    session['seconds'] = round(self._trained(now), 3)
    # What the loop needs before its first step (restoring, initial values, the first batch) counts as compilation.
    session['compile_seconds'] = round(session['compile_seconds'] + status.get('first_step_seconds', 0.0), 2)
    session['step'] = max(session['start_step'], status.get('step', 0))
    self.update()

  def online(self, step: int, began: float) -> None:
    """Online accuracy of `step` was measured from `began` until now: that is not training."""
    self['clock'].append([step, round(sum(s.get('seconds', 0.0) for s in self['sessions']) + self._trained(began), 3)])
    self['sessions'][-1]['online_seconds'] += round(time.time() - began, 3)
    self.update()

  def _trained(self, now):
    """Seconds of the running session without start, compilation and online accuracy."""
    session, first = self['sessions'][-1], read_status(self.workdir).get('first_step_seconds')
    return 0.0 if first is None else max(0.0, now - session['began'] - first - session['online_seconds'])

  def total(self, key: str) -> float:
    return sum(session.get(key, 0.0) for session in self['sessions'])

  def steps(self) -> int:
    """Steps done in the seconds of training, those done twice counted twice."""
    return sum(session['step'] - session['start_step'] for session in self['sessions'] if 'step' in session)


class Row(NamedTuple):
  """One line of the table. Means over the seeds that have a value."""

  name: str
  source: str  # FILE.py:PRESET and overrides
  seeds: dict[int, str]  # seed -> status
  figures: dict[str, list[float]]  # probe -> a value a seed
  images_per_second: float | None = None
  encoder_parameters: int | None = None
  parameters: int | None = None
  seconds: float | None = None  # training alone
  compile_seconds: float | None = None

  def status(self) -> str:
    if not self.seeds:
      return 'no training'
    if len(set(self.seeds.values())) == 1:
      return next(iter(self.seeds.values()))
    return '; '.join(f'seed {seed}: {status}' for seed, status in self.seeds.items())


class Results:
  """The rows of a comparison and how they are shown; trains nothing."""

  def __init__(self, workdir: pathlib.Path, config: ml_collections.ConfigDict, methods: dict[str, str]):
    """
    Args:
      methods: {name: 'FILE.py:PRESET and overrides'}.
    """
    self.workdir, self.config, self.methods = workdir, config, methods

  def folder(self, name: str, seed: int) -> pathlib.Path:
    return self.workdir / name / f'seed_{seed}'

  def floor(self, features: str) -> dict[str, list[float]]:
    """{probe: a value a seed} of raw pixels or the random encoder."""
    found = collections.defaultdict(list)
    for seed in self.config.seeds:
      for row in report_rows(self.folder(FLOORS, seed)):
        if row['features'] == features and row['probe'] in self.config.probes:
          found[row['probe']].append(FIGURES[row['probe']][1](row['values']))
    return {probe: values for probe, values in found.items() if None not in values}

  def rows(self) -> list[Row]:
    """The two floors, then every method of the list."""
    rows = [Row(features, '', {}, self.floor(features)) for features in (PIXELS, RANDOM)]
    for name, source in self.methods.items():
      seeds, figures, journals = {}, collections.defaultdict(list), []
      for seed in self.config.seeds:
        folder = self.folder(name, seed)
        journal = Journal(folder)
        seeds[seed] = _status(journal, folder)
        if journal['sessions']:
          journals.append(journal)
        if journal['status'] == 'done':
          for probe, value in journal['figures'].items():
            figures[probe].append(value)
      seconds = sum(journal.total('seconds') for journal in journals)
      images = sum(journal.steps() * journal['batch_size'] for journal in journals)
      rows.append(
        Row(
          name,
          source,
          seeds,
          figures,
          images / seconds if seconds and images else None,
          journals[0]['encoder_parameters'] if journals else None,
          journals[0]['parameters'] if journals else None,
          seconds / len(journals) if journals else None,
          sum(journal.total('compile_seconds') for journal in journals) / len(journals) if journals else None,
        )
      )
    return rows

  def table(self, *, short: bool = False) -> report.Table:
    """One line a method; long reasons are cut (the notes of the page have all). `short`: without the caption."""
    columns = ['method', 'seeds', *(FIGURES[p][0] for p in self.config.probes), 'status']
    columns += ['images/s', 'encoder', 'all parameters', 'training, s', 'compiling, s']
    cells = []
    for row in self.rows():
      count, status = max(map(len, row.figures.values()), default=0), row.status()
      cells.append(
        [
          row.name,
          str(count) if count == len(row.seeds) or not row.seeds else f'{count} of {len(row.seeds)}',
          *(_mean(row.figures.get(probe, ())) for probe in self.config.probes),
          status if len(status) <= 60 else f'{status[:57]}...',
          *(None if v is None else f'{v:,.0f}' for v in row[4:]),
        ]
      )
    best = ['', '', *('max' for _ in self.config.probes), '', 'max', '', '', '', '']
    return report.Table('Comparison', columns, cells, '' if short else self._caption(), best)

  def _caption(self):
    parts = []
    if len(self.config.seeds) > 1:
      parts.append('Mean ± sample standard deviation over the seeds.')
    explained = {
      'knn': 'kNN: weighted vote on all labels of the training set.',
      'linear': 'linear: logistic regression on all labels, its strength chosen on a tenth of the training set.',
      'fewshot': '5 labels a class: nearest centroid, mean of 10 draws of the labels.',
    }
    parts += [explained[probe] for probe in self.config.probes]
    parts.append('All on the test set, features of the encoder alone; the random encoder is that of the first method at step 0.')
    parts.append('Parameters: of the encoder, and of all that is trained.')
    parts.append('images/s and training: without compilation, start-up, online accuracy and probes.')
    return ' '.join(parts)

  def write(self) -> None:
    """results.json, table.md, compare.html."""
    rows = self.rows()
    commands = (self.workdir / 'commands.txt').read_text(encoding='utf-8').splitlines()
    device = jax.devices()[0]
    hardware = f'{jax.device_count()} x {device.device_kind} ({device.platform}), {os.cpu_count()} CPU cores'
    runs = itertools.product(self.methods, self.config.seeds)
    ended = [Journal(self.folder(*key))['status'] in (*ENDED, 'failed') for key in runs]
    results = {
      'complete': all(ended),
      'rows': [
        {
          **row._asdict(),
          'status': row.status(),
          'figures': {
            probe: {'mean': statistics.mean(v), 'std': statistics.stdev(v) if len(v) > 1 else None, 'values': v}
            for probe, v in row.figures.items()
            if v
          },
        }
        for row in rows
      ],
      'versions': versions(),
      'hardware': hardware,
      'commands': commands,
      'config': json.loads(self.config.to_json()),
    }  # fmt: skip
    atomic.write(self.workdir / 'results.json', json.dumps(results, indent=1) + '\n')
    atomic.write(self.workdir / 'table.md', report.text_table(self.table()) + '\n')
    self._page(rows, commands, hardware)

  def _page(self, rows: list[Row], commands: list[str], hardware: str) -> None:
    floors, trained, figures = rows[:2], [row for row in rows[2:] if any(row.figures.values())], []

    def add(title, data, caption, alt):
      figures.append(report.Figure(title, data, 'svg', caption, alt))

    for probe in self.config.probes:
      column = FIGURES[probe][0]
      lines = {row.name: statistics.mean(row.figures[probe]) for row in floors if row.figures.get(probe)}
      ranked = sorted((row for row in trained if row.figures.get(probe)), key=lambda r: statistics.mean(r.figures[probe]))
      if ranked:
        error = ' Thin lines: standard deviation over the seeds.' if any(len(r.figures[probe]) > 1 for r in ranked) else ''
        add(f'Accuracy: {column}', _bars({r.name: r.figures[probe] for r in ranked}, lines, f'accuracy ({column})'),
            f'Best on top; dashed: what needs no training.{error}', f'bars of {column} by method')  # fmt: skip
    curves = {row.name: self._curves(row) for row in rows[2:]}
    kept = {name: parts for name, parts in curves.items() if parts['knn']}
    if kept:  # best first: the first colours are the easiest to tell apart
      ranked = sorted(kept.items(), key=lambda item: -np.mean([y[-1] for _, y, _ in item[1]['knn']]))
      dashes = ('', ' (dashed)', ' (dotted)', ' (dash-dotted)')  # a legend is too narrow to see them
      kept = {name + dashes[i // len(pictures.PALETTE) % 4]: parts for i, (name, parts) in enumerate(ranked)}
      by_images = {name: _mean_curve([(x, y) for x, y, _ in parts['knn']]) for name, parts in kept.items()}
      by_time = {name: _mean_curve([(t, y) for _, y, t in parts['knn']]) for name, parts in kept.items()}
      what = 'kNN accuracy during training, on a part of the images (so it is not the figure of the table)'
      seeds = '; mean of the seeds' if len(self.config.seeds) > 1 else ''
      add('While training: by images seen', pictures.curves(by_images, 'images seen', 'online kNN', smooth=0.0),
          f'{what}{seeds}; best first.', 'online kNN against images seen')  # fmt: skip
      add('While training: by time', pictures.curves(by_time, 'seconds of training', 'online kNN', smooth=0.0),
          f'{what}, against the seconds of training on {hardware}{seeds}.', 'online kNN against time')  # fmt: skip
    losses = {name: parts['loss'] for name, parts in curves.items() if parts['loss']}
    if losses:
      add('Losses', _small_multiples(losses), 'Each method has a loss of its own: shapes can be compared, heights cannot.',
          'loss curves')  # fmt: skip
    statuses = [status for row in rows[2:] for status in row.seeds.values()]
    first = self.folder(next(iter(self.methods)), self.config.seeds[0])
    closer = f'python -m sslax.evaluate --workdir={first} --probes=knn,linear,fewshot,collapse'
    config = {'commands': commands, 'a closer look at one run': closer, 'comparison': json.loads(self.config.to_json())}
    for name in self.methods:
      path = next((p for p in (self.folder(name, s) / 'config.json' for s in self.config.seeds) if p.exists()), None)
      if path:
        config[name] = json.loads(path.read_text(encoding='utf-8'))
    shared, table = self.config.shared, self.table()
    at = table.columns.index('status')
    names, costs = table.columns[:at], table.columns[at + 1 :]
    total = sum(spent(Journal(self.folder(*key))) for key in itertools.product(self.methods, self.config.seeds))
    report.write(
      self.workdir / 'compare.html',
      title=f'{len(self.methods)} methods on {configs.get(shared, "data.train")}'
      if 'data' in shared
      else 'Comparison of methods',
      summary={
        'seeds': ', '.join(map(str, self.config.seeds)),
        'runs done': f'{sum(s.startswith("done") for s in statuses)} of {len(statuses)}',
        **{key.replace('_', ' '): f'{shared[key]:g}' for key in ('num_epochs', 'num_steps', 'batch_size') if shared.get(key, 0)},
        'time of all runs': clock(total),
        'written': time.strftime('%Y-%m-%d %H:%M'),
      },
      tables=[
        _columns(table, 'Accuracy', [*names, 'status']),
        _columns(table._replace(rows=table.rows[2:]), 'Cost', ['method', *costs], 'Means over the seeds.'),
      ],
      figures=figures,
      config_json=json.dumps(config, indent=1),
      versions={**versions(), 'hardware': hardware},
      notes=self._notes(rows),
    )

  def _notes(self, rows: list[Row]) -> list[str]:
    same = ', '.join(f'{k} {v}' for k, v in configs.flat(self.config.shared).items() if k in FAIR and v)
    sizes = {f'{row.encoder_parameters:,}' for row in rows if row.encoder_parameters}
    if 'encoder' in self.config.shared:
      same += f', encoder {self.config.shared.encoder.make.split(":")[-1]} with {" or ".join(sorted(sizes))} parameters'
    notes = [f'The same for every row: {same}. Loss, heads, views and optimizer are those of each method.']
    for floor in rows[:2]:
      for probe in self.config.probes:
        below = [
          row.name for row in rows[2:]
          if row.figures.get(probe) and floor.figures.get(probe)
          and statistics.mean(row.figures[probe]) <= statistics.mean(floor.figures[probe])
        ]  # fmt: skip
        if below:
          notes.append(f'Not better than {floor.name} by {FIGURES[probe][0]}: {", ".join(below)}.')
    for name, seed in itertools.product(self.methods, self.config.seeds):
      journal = Journal(self.folder(name, seed))
      if journal['reason']:
        again = ' The next call tries it again.' if journal['status'] == 'failed' else ''
        notes.append(f'{name}, seed {seed}, {journal["status"]}: {journal["reason"]}.{again}')
    return notes

  def _curves(self, row: Row) -> dict[str, list]:
    """{'knn': [(images [N], accuracy [N], seconds [N]) a seed], 'loss': [(images, loss) a seed]}"""
    found = {'knn': [], 'loss': []}
    for seed in row.seeds:
      folder = self.folder(row.name, seed)
      if not (folder / 'metrics.jsonl').exists():
        continue
      metrics, journal = report.read_jsonl(folder / 'metrics.jsonl'), Journal(folder)
      clock, size = dict(journal['clock']), journal['batch_size']
      online = [(m['step'] * size, m['knn'], clock[m['step']]) for m in metrics if 'knn' in m and m['step'] in clock]
      if online:
        found['knn'].append(tuple(np.array(column, float) for column in zip(*online, strict=True)))
      if metrics:
        found['loss'].append(
          (np.array([m['step'] * size for m in metrics], float), np.array([m['loss'] for m in metrics], float))
        )
    return found


def _status(journal: Journal, folder: pathlib.Path) -> str:
  status, reason = journal['status'], ' '.join(journal['reason'].split())
  if status == 'running':
    at = read_status(folder)
    return f'stopped at step {at["step"]} of {at["total_steps"]}' if 'step' in at else 'not run'
  if status == 'diverged':
    return f'diverged at {reason.split(";")[0]}'
  return f'failed: {reason}' if status == 'failed' else f'{status} ({reason})' if reason else status


def spent(journal: Journal) -> float:
  """Seconds of a run: training, compilation, online accuracy, probes."""
  return sum(journal.total(key) for key in ('seconds', 'compile_seconds', 'online_seconds')) + journal['probe_seconds']


# Numbers and pictures


def _columns(table: report.Table, title: str, names: Iterable[str], caption: str | None = None) -> report.Table:
  """A part of a table: all of it is too wide for a page."""
  places = [table.columns.index(name) for name in names]
  rows = [[row[j] for j in places] for row in table.rows]
  return report.Table(title, list(names), rows, table.caption if caption is None else caption, [table.best[j] for j in places])


def _mean(values) -> str | None:
  if not values:
    return None
  std = f' ± {statistics.stdev(values):.3f}' if len(values) > 1 else ''
  return f'{statistics.mean(values):.3f}{std}'


def clock(seconds: float) -> str:
  """'84 s', '38 min', '2.5 h'."""
  if seconds < 100:
    return f'{seconds:.0f} s'
  return f'{seconds / 60:.0f} min' if seconds < 6000 else f'{seconds / 3600:.1f} h'


def _mean_curve(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
  """The mean of both coordinates over the points that all curves have."""
  n = min(len(x) for x, _ in parts)
  return tuple(np.mean([part[i][:n] for part in parts], axis=0) for i in (0, 1))


def _bars(values: dict[str, list[float]], lines: dict[str, float], xlabel: str) -> str:
  """Horizontal bars, the last on top, with vertical lines for the floors."""
  means = [statistics.mean(v) for v in values.values()]
  stds = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values.values()]
  top = 1.03 * max(m + std for m, std in zip([*means, *lines.values()], [*stds, *[0.0] * len(lines)], strict=True))
  with pictures._figure(7.2, 1.3 + 0.34 * len(values)) as (figure, axes):
    axes.barh(range(len(values)), means, 0.66, color=pictures.PALETTE[0])
    for i, (mean, std) in enumerate(zip(means, stds, strict=True)):
      if std:
        axes.errorbar(mean, i, xerr=std, fmt='none', ecolor='#1f2328', elinewidth=1, capsize=3)
      style = {'textcoords': 'offset points', 'va': 'center', 'fontsize': 9}  # at the foot of the bar, where no line crosses it
      if mean > 0.15 * top:
        axes.annotate(f'{mean:.3f}', (0, i), (5, 0), color='white', fontweight='bold', **style)
      else:
        axes.annotate(f'{mean:.3f}', (mean + std, i), (5, 0), **style)
    for i, (name, value) in enumerate(lines.items()):
      axes.axvline(value, color=pictures.PALETTE[1 + i], linestyle='--', linewidth=1.4, label=f'{name} {value:.3f}')
    axes.set_yticks(range(len(values)), list(values), parse_math=False)
    axes.tick_params(axis='y', length=0)
    axes.set_xlim(0, max(top, 1e-3))
    axes.set_xlabel(xlabel, parse_math=False)
    axes.grid(True, axis='x')
    if lines:
      figure.legend(loc='outside lower left', ncols=2, fontsize=9)
    return pictures._save(figure, 'svg')


def _small_multiples(losses: dict[str, list[tuple[np.ndarray, np.ndarray]]], columns: int = 4) -> str:
  """A small picture for each method's loss; a line a seed."""
  columns = min(columns, len(losses))
  lines = -(-len(losses) // columns)
  with pictures._figure(7.2, 0.4 + 1.5 * lines) as (figure, axes):
    axes.remove()
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in grid:
      axes.set_axis_off()
    for axes, (name, curves) in zip(grid, losses.items(), strict=False):
      axes.set_axis_on()
      for i, (x, y) in enumerate(curves):
        good = np.isfinite(y)
        smooth = pictures._running_mean(y[good], max(1, int(0.02 * good.sum())) | 1)
        axes.plot(*pictures._thin(x[good], smooth, 300), color=pictures.PALETTE[i % len(pictures.PALETTE)], linewidth=1.2)
      axes.set_title(name, fontsize=9, parse_math=False)
      axes.tick_params(labelsize=7)
      axes.xaxis.set_major_formatter('{x:.0f}')
      axes.locator_params(axis='x', nbins=3)
      axes.locator_params(axis='y', nbins=4)
      axes.grid(True, axis='y')
    figure.supxlabel('images seen', fontsize=9)
    return pictures._save(figure, 'svg')
