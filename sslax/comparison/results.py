"""What a comparison has found so far, read from its folder: its rows, the table, results.json."""

import collections
import itertools
import json
import os
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import jax

from sslax.comparison.journal import ENDED, Journal
from sslax.comparison.plan import FLOORS, Plan
from sslax.comparison.probes import caption, column, shown
from sslax.evals.probe import RANDOM, Score
from sslax.evaluation import results as evaluated
from sslax.evaluation.page import Table, text_table
from sslax.io import atomic
from sslax.io.versions import versions
from sslax.run.faults import read_status


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
    """Of all seeds, in words."""
    if not self.seeds:
      return 'no training'
    if len(set(self.seeds.values())) == 1:
      return next(iter(self.seeds.values()))
    return '; '.join(f'seed {seed}: {status}' for seed, status in self.seeds.items())


class Results:
  """The rows of a comparison, as its folders have them; trains nothing.

  Attributes:
    plan: all runs, those of earlier calls too.
    commands_file: a line for each command that has worked on it.
  """

  def __init__(self, plan: Plan):
    self.plan = plan
    self.commands_file = plan.workdir / 'commands.txt'

  def commands(self) -> list[str]:
    """The commands that have worked on it."""
    if not self.commands_file.exists():
      return []
    return self.commands_file.read_text(encoding='utf-8', errors='surrogateescape').splitlines()

  def journals(self) -> dict[tuple[str, int], Journal]:
    """{(name, seed): what the run says of itself} of all methods and seeds."""
    return {key: Journal(self.plan.folder(*key)) for key in itertools.product(self.plan.methods, self.plan.config.seeds)}

  def floor(self, features: str) -> dict[str, list[float]]:
    """{probe: a value a seed} of the baseline ('raw pixels') or the random encoder."""
    found = self._floor_scores(features)
    return {probe: [s.value for s in scores if s is not None] for probe, scores in found.items() if None not in scores}

  def _floor_scores(self, features: str) -> dict[str, list[Score | None]]:
    found = collections.defaultdict(list)
    for seed in self.plan.config.seeds:
      for row in evaluated.Results(self.plan.folder(FLOORS, seed)).rows:
        if row.features == features and row.probe in self.plan.config.probes:
          found[row.probe].append(shown(row.probe, row.scores))
    return found

  def more_is_better(self) -> dict[str, bool | None]:
    """{probe: True, False, or None for neither}."""
    found: dict[str, bool | None] = {probe: True for probe in self.plan.config.probes}
    for scores in (self._floor_scores(name) for name in (self.plan.baseline, RANDOM)):
      found |= {probe: score.more_is_better for probe, each in scores.items() for score in each if score is not None}
    for journal in self.journals().values():
      found |= {probe: better for probe, better in journal['more_is_better'].items() if probe in found}
    return found

  def rows(self) -> list[Row]:
    """The floors, which have no seeds, then every method of the list."""
    rows = [Row(features, '', {}, self.floor(features)) for features in (self.plan.baseline, RANDOM) if features]
    for name, source in self.plan.methods.items():
      seeds, figures, journals = {}, collections.defaultdict(list), []
      for seed in self.plan.config.seeds:
        journal = Journal(self.plan.folder(name, seed))
        seeds[seed] = _status(journal)
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

  def table(self, *, short: bool = False) -> Table:
    """One line a method; long reasons are cut (the notes of the page have all). `short`: without the caption."""
    probes = self.plan.config.probes
    columns = ['method', 'seeds', *(column(probe) for probe in probes), 'status']
    columns += ['images/s', 'encoder', 'all parameters', 'training, s', 'compiling, s']
    cells = []
    for row in self.rows():
      count, status = max(map(len, row.figures.values()), default=0), row.status()
      cells.append(
        [
          row.name,
          str(count) if count == len(row.seeds) or not row.seeds else f'{count} of {len(row.seeds)}',
          *(_mean(row.figures.get(probe, ())) for probe in probes),
          status if len(status) <= 60 else f'{status[:57]}...',
          *(None if v is None else f'{v:,.0f}' for v in row[4:]),
        ]
      )
    order, better = {True: 'max', False: 'min', None: ''}, self.more_is_better()
    best = ['', '', *(order[better[probe]] for probe in probes), '', 'max', '', '', '', '']
    return Table('Comparison', columns, cells, '' if short else self._caption(), best)

  def _caption(self):
    parts = []
    if len(self.plan.config.seeds) > 1:
      parts.append('Mean ± sample standard deviation over the seeds.')
    parts += filter(None, (caption(name, probe) for name, probe in self.plan.probes.items()))
    parts.append('All on the test set, features of the encoder alone; the random encoder is that of the first method at step 0.')
    parts.append('Parameters: of the encoder, and of all that is trained.')
    parts.append('images/s and training: without compilation, start-up, online accuracy and probes.')
    return ' '.join(parts)

  def write(self) -> None:
    """results.json and table.md."""
    results = {
      'complete': all(journal['status'] in (*ENDED, 'failed') for journal in self.journals().values()),
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
        for row in self.rows()
      ],
      'versions': versions(),
      'hardware': hardware(),
      'commands': self.commands(),
      'config': json.loads(self.plan.config.to_json()),
    }
    atomic.write(self.plan.workdir / 'results.json', json.dumps(results, indent=1) + '\n')
    atomic.write(self.plan.workdir / 'table.md', text_table(self.table()) + '\n')


def hardware() -> str:
  """What this process runs on."""
  device = jax.devices()[0]
  return f'{jax.device_count()} x {device.device_kind} ({device.platform}), {os.cpu_count()} CPU cores'


def duration(seconds: float) -> str:
  """'84 s', '38 min', '2.5 h'."""
  if seconds < 100:
    return f'{seconds:.0f} s'
  return f'{seconds / 60:.0f} min' if seconds < 6000 else f'{seconds / 3600:.1f} h'


def _status(journal: Journal) -> str:
  status, reason = journal['status'], ' '.join(journal['reason'].split())
  if status == 'running':
    at = read_status(journal.workdir)
    return f'stopped at step {at["step"]} of {at["total_steps"]}' if 'step' in at else 'not run'
  if status == 'diverged':
    return f'diverged at {reason.split(";")[0]}'
  return f'failed: {reason}' if status == 'failed' else f'{status} ({reason})' if reason else status


def _mean(values: Sequence[float]) -> str | None:
  if not values:
    return None
  std = f' ± {statistics.stdev(values):.3f}' if len(values) > 1 else ''
  return f'{statistics.mean(values):.3f}{std}'
