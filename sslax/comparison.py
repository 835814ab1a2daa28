"""The room behind `compare`: which runs, with what in common; each trained and probed once; one table and one page of all."""

import ast
import collections
import contextlib
import difflib
import gc
import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from sslax import errors
from sslax.data.sources import open_source
from sslax.errors import Diverged, Interrupted, UserError, suggest
from sslax.evals import pictures, report
from sslax.evals.online import online_knn
from sslax.evaluator import PIXELS, RANDOM, Evaluation, report_rows
from sslax.run import config as configs
from sslax.run import loop
from sslax.run.checkpoint import Reader
from sslax.run.faults import StopRequest, read_status, write_atomically
from sslax.spec import find
from sslax.step import jit_step

FIGURES = {  # probe: (column, its one figure, None where the data allows none)
  'knn': ('kNN', lambda values: values['top1']),
  'linear': ('linear', lambda values: values['accuracy']),
  'fewshot': ('5 labels a class', lambda values: values.get('5', {}).get('mean')),
}
# A comparison is fair when these do not differ, whether `shared` sets them or all presets agree.
FAIR = ('data.train', 'data.test', 'data.image_size', 'data.eval_resize', 'batch_size', 'num_epochs', 'num_steps', 'eval.knn_k',
        'eval.knn_temperature')  # fmt: skip
# `shared` may differ in these when a comparison goes on: they change no number of the table but the seconds.
HARMLESS = ('log.', 'checkpoint.', 'mesh.', 'data.threads', 'data.workers', 'data.prefetch', 'data.cache')
FLOORS = 'floors'  # workdir/floors holds the rows that need no training
ENDED = ('done', 'diverged')  # not run again; a failed run is: the disk, the memory or the data may be better now


class Stop(StopRequest):
  """A signal while the loop trains is for the loop, which saves first. At any other time it ends the process at once: files are
  written whole or not at all, so nothing can be lost.

  No exception from the handler: where it falls into a callback of the garbage collector, Python drops it (seen).
  """

  def __init__(self, early: str = ''):
    super().__init__()
    self.signal, self.training, self.place, self.workdir = early, False, 'the checks', pathlib.Path()

  def _handle(self, number, frame):
    super()._handle(number, frame)
    if not self.training:
      with contextlib.suppress(RuntimeError):  # the signal may have come in the middle of a print
        sys.stdout.flush()
      os.write(2, f'\ninterrupted: {self.message()}\n'.encode())
      os._exit(errors.INTERRUPTED)

  def message(self, cause: str = '') -> str:
    return (
      f'{self.signal or cause} in {self.place}; everything done so far is saved in {self.workdir}, and the same command goes on:'
      f'\n  {_command()}'
    )

  def check(self) -> None:
    """Raises Interrupted for a signal that came during the imports, or too late for the loop to read it."""
    if self.signal:
      raise Interrupted(self.signal)


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
    write_atomically(self.path, json.dumps(self.fields, indent=1) + '\n')

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


class Comparison:
  """All runs of a config of `compare`; what is finished is read, the rest is run."""

  def __init__(self, config: ml_collections.ConfigDict, file: pathlib.Path, workdir: pathlib.Path, only: Iterable[str] = ()):
    """Reads the list of methods, and what the workdir has of an earlier call.

    Args:
      file: the config file; files of methods are looked for beside it, in its parent folder, then in the current folder.
      only: names of the methods to run now; all when empty.

    Raises:
      UserError: the list cannot be read, a name is unknown, or the workdir is of another comparison.
    """
    self.folders = [file.absolute().parent, file.absolute().parent.parent, pathlib.Path.cwd()]
    self.workdir, self.config, self.methods = workdir, config, _methods(config)
    for name in only:
      if name not in self.methods:
        raise UserError(f'--methods={name}: no such method in config.methods.{suggest(name, self.methods)}')
    self.todo = [(name, seed) for seed in config.seeds for name in self.methods if not only or name in only]
    self._join_former()

  def _join_former(self):
    """Rows of an earlier call stay in the table; what has changed apart from the lists is refused."""
    if not (self.workdir / 'config.json').exists():
      return
    former = configs.load(self.workdir)
    if 'methods' not in former:
      raise UserError(f'{self.workdir} holds a training run, no comparison: take another --workdir')
    theirs, ours = _methods(former), dict(self.methods)
    both = [name for name in ours if name in theirs]
    lines = [
      [f'methods.{name} = {methods[name]!r}' for name in both]
      + [f'{k} = {v!r}' for k, v in sorted(_compared(config).items()) if not k.removeprefix('shared.').startswith(HARMLESS)]
      for config, methods in ((former, theirs), (self.config, ours))
    ]
    diff = [line for line in difflib.unified_diff(*lines, n=0, lineterm='') if not line.startswith(('---', '+++', '@@'))]
    if diff:
      raise UserError(
        f'{self.workdir} holds another comparison (- that one, + this one):\n'
        + '\n'.join(f'  {line[0]} {line[1:]}' for line in diff)
        + '\nMethods and seeds may be added to it, the budget stays. Take another --workdir, or the same config to go on.'
      )
    self.methods = {**self.methods, **{name: text for name, text in theirs.items() if name not in ours}}
    with self.config.unlocked():
      self.config.methods = tuple(f'{name}={text}' for name, text in self.methods.items())
      self.config.seeds = tuple(dict.fromkeys([*former.seeds, *self.config.seeds]))

  # What is run

  def folder(self, name: str, seed: int) -> pathlib.Path:
    return self.workdir / name / f'seed_{seed}'

  def resolve(self, name: str, seed: int) -> ml_collections.ConfigDict:
    """The config of one run: the method's preset, then `shared`, then the overrides of its own.

    Raises:
      UserError: a file, preset or key that does not exist, or an override of what all runs share.
    """
    source, *overrides = self.methods[name].split()
    path, _, preset = source.partition('.py')
    config = self._load(f'{path}.py', preset.removeprefix(':'))
    shared = self.config.shared.copy_and_resolve_references()
    if 'encoder' in shared:
      encoder = shared.encoder
      with shared.unlocked():
        del shared.encoder
      if not _replace_encoders(config.method, encoder):
        raise UserError('its method has no node `encoder` for config.shared.encoder to replace')
    if 'num_epochs' in shared and shared.num_epochs and not shared.get('num_steps', 0):
      config.num_steps = 0
    if shared.get('num_steps', 0) and not shared.get('num_epochs', 0.0):
      config.num_epochs = 0.0
    _merge(config, shared, 'config.shared')
    fixed = {'seed', *(key for key in configs.flat(shared))} | ({'num_epochs', 'num_steps'} & {*shared})
    for override in overrides:
      _override(config, override, fixed, encoder='encoder' in self.config.shared)
    config.seed = seed
    return config

  def _load(self, file: str, preset: str):
    paths = [folder / file for folder in self.folders]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
      near = [p.relative_to(folder).as_posix() for folder in self.folders for p in (folder / file).parent.glob('*.py')]
      raise UserError(f'there is no file {file} beside {self.folders[0].name}/, nor here.{suggest(file, near)}')
    try:
      return find(f'{path}:get_config')(*[preset] if preset else [])
    except UserError:
      raise
    except Exception as error:  # the file is Python of the user's
      last = traceback.extract_tb(error.__traceback__)[-1]
      raise UserError(f'{last.filename}:{last.lineno}: {type(error).__name__}: {error}') from error

  def check(self) -> None:
    """Prepares and traces every run that is not finished, compiles none.

    Raises:
      UserError: all that is wrong with any of them.
    """
    if jax.process_count() > 1:
      raise UserError('compare runs in one process: start it without SSLAX_NUM_PROCESSES')
    wrong, resolved = [], {}
    for name, seed in self.todo:  # what can be found by reading, of all, before anything is built
      try:
        config = self.resolve(name, seed)
        configs.check(config, jax.device_count())
        configs.refuse_other(config, self.folder(name, seed))
        resolved[name, seed] = config
      except UserError as error:
        wrong.append(f'{name} ({self.methods[name]}): {error}')
    wrong += _unfair({name: config for (name, _), config in resolved.items()})
    for key, uri in sorted({(key, config.data[key]) for config in resolved.values() for key in ('train', 'test')}):
      try:
        labelled = uri and open_source(uri).num_classes
      except UserError as error:
        wrong.append(f'config.shared.data.{key}: {error}')
        continue
      if not labelled:
        wrong.append(f'config.shared.data.{key}={uri!r}: the probes need labelled data')
    if wrong:
      raise UserError('\n'.join(dict.fromkeys(wrong)))
    open_runs = {name: seed for name, seed in self.todo if Journal(self.folder(name, seed))['status'] not in ENDED}
    for name, seed in open_runs.items():  # seeds have the same shapes
      print(f' {name}', end='', flush=True)
      try:
        _trace(loop.prepare(resolved[name, seed], self.folder(name, seed)))
      except UserError as error:
        wrong.append(f'{name} ({self.methods[name]}): {error}')
    print(flush=True)
    if wrong:
      raise UserError('\n'.join(wrong))

  # Running

  def run(self, stop: Stop, *, dry_run: bool = False) -> None:
    """Runs what is not finished, and writes table and page after each run.

    Raises:
      Interrupted: asked to stop; everything up to here is saved.
      UserError: something is wrong with one of the runs; none has started.
    """
    stop.workdir = self.workdir
    try:
      stop.check()
      print(f'checking {len(self.todo)} run(s) of {len({n for n, _ in self.todo})} method(s):', end='', flush=True)
      self.check()
      if dry_run:
        print('\n'.join(f'  {n}, seed {s}: {Journal(self.folder(n, s))["status"]}' for n, s in self.todo))
        print('dry run: nothing compiled, nothing written')
        return
      _make_folder(self.workdir)
      configs.save(self.config, self.workdir)
      self._note_command()
      stop.place = 'the floors'
      for seed in dict.fromkeys(seed for _, seed in self.todo):
        self._floors(seed)
      open_runs = [(n, s) for n, s in self.todo if Journal(self.folder(n, s))['status'] not in ENDED]
      for name, seed in open_runs:
        stop.check()
        stop.place = f'run {self.todo.index((name, seed)) + 1} of {len(self.todo)} ({name}, seed {seed})'
        left = self._seconds_left()
        print(f'\n=== {stop.place}' + (f'; about {_clock(left)} left for all' if left else ''), flush=True)
        self._one(name, seed, stop)
        if (name, seed) != open_runs[-1]:
          self._write()
          print('\n' + report.text_table(self.table(short=True)), flush=True)
      self._write()
      print('\n' + report.text_table(self.table()))
    except Interrupted as error:
      raise Interrupted(stop.message(str(error))) from error
    statuses = [(n, s, Journal(self.folder(n, s))['status']) for n, s in self.todo]
    bad = [f'{n} (seed {s}: {status})' for n, s, status in statuses if status != 'done']
    print(f'\ndone: {len(statuses) - len(bad)} of {len(statuses)} runs{", but not " + ", ".join(bad) if bad else ""}')
    print(f'page: {self.workdir / "compare.html"}')

  def _one(self, name: str, seed: int, stop: Stop) -> None:
    """Trains and probes one run. Whatever goes wrong with it becomes its status, and the others go on."""
    config, workdir = self.resolve(name, seed), self.folder(name, seed)
    _make_folder(workdir)
    journal = Journal(workdir)
    try:
      _train(config, workdir, journal, stop)
      stop.check()
      _probe(workdir, list(self.config.probes), journal)
      warnings = [f'{w["name"]} at step {w["step"]}' for w in read_status(workdir).get('warnings', ())]
      journal.update(status='done', reason=', '.join(warnings))
    except Interrupted:
      raise
    except Diverged as error:
      journal.update(status='diverged', reason=str(error))
      print(f'diverged: {error}', file=sys.stderr)
    except Exception as error:  # out of memory, a bad record too many, a fault in a method: this row's matter only
      if not isinstance(error, UserError):
        traceback.print_exc()
      journal.update(status='failed', reason=str(error) or type(error).__name__)
      print(f'failed: {error}', file=sys.stderr)
    jax.clear_caches()  # compiled steps and probes of this run, and what they hold
    gc.collect()

  def _floors(self, seed: int) -> None:
    """Raw pixels (once) and the encoder as it is initialised with this seed, by the same probes, before anything is trained."""
    folder = self.folder(FLOORS, seed)
    if not (folder / 'config.json').exists():
      _make_folder(folder)
      configs.save(self.resolve(self.todo[0][0], seed), folder)
    evaluation = Evaluation(folder, probes=list(self.config.probes), report=False)
    for features in (PIXELS, RANDOM):
      known = self._floor(features) if features == PIXELS else {p: evaluation._find(RANDOM, 0, p) for p in FIGURES}
      missing = [probe for probe in self.config.probes if not known.get(probe)]
      if missing:
        print(f'{features} ...', file=sys.stderr, flush=True)
        sets = evaluation._features(features, 0)
      for probe in missing:
        row = {'step': 0, 'features': features, 'probe': probe, 'settings': evaluation.settings}
        evaluation._write({**row, 'values': evaluation._probe(probe, sets, features, 0)})
    shutil.rmtree(folder / 'features', ignore_errors=True)
    jax.clear_caches()

  def _seconds_left(self) -> float | None:
    """From the runs that are done: each method by its own mean, those without one by the mean of all; None before the first."""
    spent = collections.defaultdict(list)
    for name, seed in itertools.product(self.methods, self.config.seeds):
      journal = Journal(self.folder(name, seed))
      if journal['status'] == 'done':
        spent[name].append(_spent(journal))
    if not spent:
      return None
    every = statistics.mean(itertools.chain(*spent.values()))
    journals = [(name, Journal(self.folder(name, seed))) for name, seed in self.todo]
    waiting = [(name, journal) for name, journal in journals if journal['status'] not in ENDED]
    return sum(max(0.0, statistics.mean(spent.get(name, [every])) - _spent(journal)) for name, journal in waiting)

  # Results

  def _floor(self, features: str) -> dict[str, list[float]]:
    """{probe: a value a seed} of raw pixels or the random encoder."""
    found = collections.defaultdict(list)
    for seed in self.config.seeds:
      for row in report_rows(self.folder(FLOORS, seed)):
        if row['features'] == features and row['probe'] in self.config.probes:
          found[row['probe']].append(FIGURES[row['probe']][1](row['values']))
    return {probe: values for probe, values in found.items() if None not in values}

  def rows(self) -> list[Row]:
    """The two floors, then every method of the list."""
    rows = [Row(features, '', {}, self._floor(features)) for features in (PIXELS, RANDOM)]
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

  def _note_command(self):
    path = self.workdir / 'commands.txt'
    known = path.read_text(encoding='utf-8').splitlines() if path.exists() else []
    if _command() not in known:
      write_atomically(path, '\n'.join([*known, _command()]) + '\n')

  def _write(self) -> None:
    """results.json, table.md, compare.html."""
    rows = self.rows()
    commands = (self.workdir / 'commands.txt').read_text(encoding='utf-8').splitlines()
    device = jax.devices()[0]
    hardware = f'{jax.device_count()} x {device.device_kind} ({device.platform}), {os.cpu_count()} CPU cores'
    ended = [Journal(self.folder(*key))['status'] in (*ENDED, 'failed') for key in self.todo]
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
      'versions': loop.versions(),
      'hardware': hardware,
      'commands': commands,
      'config': json.loads(self.config.to_json()),
    }  # fmt: skip
    write_atomically(self.workdir / 'results.json', json.dumps(results, indent=1) + '\n')
    write_atomically(self.workdir / 'table.md', report.text_table(self.table()) + '\n')
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
    spent = sum(_spent(Journal(self.folder(*key))) for key in itertools.product(self.methods, self.config.seeds))
    report.write(
      self.workdir / 'compare.html',
      title=f'{len(self.methods)} methods on {configs.get(shared, "data.train")}'
      if 'data' in shared
      else 'Comparison of methods',
      summary={
        'seeds': ', '.join(map(str, self.config.seeds)),
        'runs done': f'{sum(s.startswith("done") for s in statuses)} of {len(statuses)}',
        **{key.replace('_', ' '): f'{shared[key]:g}' for key in ('num_epochs', 'num_steps', 'batch_size') if shared.get(key, 0)},
        'time of all runs': _clock(spent),
        'written': time.strftime('%Y-%m-%d %H:%M'),
      },
      tables=[
        _columns(table, 'Accuracy', [*names, 'status']),
        _columns(table._replace(rows=table.rows[2:]), 'Cost', ['method', *costs], 'Means over the seeds.'),
      ],
      figures=figures,
      config_json=json.dumps(config, indent=1),
      versions={**loop.versions(), 'hardware': hardware},
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


# Configs


def _methods(config) -> dict[str, str]:
  """{name: 'FILE.py:PRESET and overrides'}

  Raises:
    UserError: all that is wrong with the lists.
  """
  keys = ('methods', 'seeds', 'probes', 'shared')
  wrong = [f'config.{key} is missing: is this a config of sslax.compare?' for key in keys if key not in config]
  if wrong:
    raise UserError(wrong[0])
  wrong += [f'config.{key}: no such key.{suggest(key, keys)}' for key in config if key not in keys]
  found = {}
  for text in config.methods:
    name, _, source = str(text).partition('=')
    if not re.fullmatch(r'\w[\w.+-]*', name) or not re.match(r'\S+\.py(:|\s|$)', source):
      wrong.append(f"config.methods: {text!r} is not of the form 'name=FILE.py:PRESET'")
    elif name == FLOORS or name in found:
      wrong.append(f'config.methods: the name {name!r} is taken')
    found[name] = ' '.join(source.split())
  if not found:
    wrong.append('config.methods is empty')
  if not config.seeds or not all(type(seed) is int for seed in config.seeds) or len({*config.seeds}) < len(config.seeds):
    wrong.append(f'config.seeds={config.seeds} must be different whole numbers, such as (0, 1, 2)')
  wrong += [f'config.probes: no probe {p!r} here.{suggest(str(p), FIGURES)}' for p in config.probes if p not in FIGURES]
  if wrong:
    raise UserError('\n'.join(wrong))
  return found


def _compared(config) -> dict[str, Any]:
  """The leaves that must stay the same when a comparison goes on, as JSON would have them."""
  plain = json.loads(config.to_json())
  return configs.flat({key: plain[key] for key in ('probes', 'shared')})


def _merge(config, shared, where: str) -> None:
  """Sets every leaf of `shared`; a node with `make` replaces the whole node."""
  for key, value in shared.items():
    if key not in config:
      raise UserError(f'{where}.{key}: no such key in the config of a run.{suggest(key, config)}')
    if isinstance(value, ml_collections.ConfigDict) and 'make' not in value:
      if not isinstance(config[key], ml_collections.ConfigDict):
        raise UserError(f'{where}.{key} is a node, but in the config of a run it is {config[key]!r}')
      _merge(config[key], value, f'{where}.{key}')
    else:
      _set(config, key, value, f'{where}.{key}')


def _set(config, key, value, where):
  try:
    config[key] = value
  except TypeError as error:
    raise UserError(f'{where}={value!r}: {error}') from None


# Fields of an encoder that belong to a method, not to the backbone: MoCo's ShuffleBN, DINO's drop path, MoCo v3's patches.
METHODS_OWN = ('norm_groups', 'norm_strided', 'drop_path', 'freeze_patch')


def _replace_encoders(node: Any, encoder) -> int:
  """Puts `encoder` in the place of every node of that name, however deep; returns how many there were. What of an encoder belongs
  to the method (`METHODS_OWN`) stays.
  """
  if isinstance(node, (tuple, list)):
    return sum(_replace_encoders(item, encoder) for item in node)
  if not isinstance(node, ml_collections.ConfigDict):
    return 0
  count = 0
  for key, value in node.items():
    if key == 'encoder' and isinstance(value, ml_collections.ConfigDict) and 'make' in value:
      with node.ignore_type():
        node[key] = encoder.copy_and_resolve_references()
      for own in METHODS_OWN:
        if own in value and own in node[key]:
          node[key][own] = value[own]
      count += 1
    else:
      count += _replace_encoders(value, encoder)
  return count


def _encoders(node: Any) -> list[str]:
  """The encoders of a method as JSON."""
  if isinstance(node, (tuple, list)):
    return [e for item in node for e in _encoders(item)]
  if not isinstance(node, ml_collections.ConfigDict):
    return []
  here = []
  if isinstance(node.get('encoder'), ml_collections.ConfigDict):
    same = {k: v for k, v in node.encoder.to_dict().items() if k not in METHODS_OWN}
    here = [json.dumps(same, sort_keys=True)]
  return here + [e for key, value in node.items() if key != 'encoder' for e in _encoders(value)]


def _override(config, text: str, fixed: set[str], *, encoder: bool) -> None:
  """'method.temperature=0.5': one leaf of one method's config."""
  key, equals, value = text.partition('=')
  known = configs.flat(config)
  if not equals or key not in known:
    raise UserError(f'{text!r}: there is no such key.{suggest(key, known)}')
  if key in fixed or (encoder and '.encoder.' in key):
    raise UserError(f'{text!r}: that is the same for all methods: set config.shared, or leave it')
  parent, _, leaf = key.rpartition('.')
  node = configs.get(config, parent) if parent else config
  if not isinstance(node[leaf], str):
    try:
      value = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      raise UserError(f'{text!r}: {value!r} is no value for {node[leaf]!r}') from None
  _set(node, leaf, value, key)


def _unfair(resolved: dict[str, ml_collections.ConfigDict]) -> list[str]:
  """What is not the same in all runs and would make the table compare something else than methods."""
  wrong = []
  values = {key: {name: repr(configs.get(config, key)) for name, config in resolved.items()} for key in FAIR}
  values['encoder'] = {name: ', '.join(sorted({*_encoders(config.method)})) for name, config in resolved.items()}
  for key, found in values.items():
    if len({*found.values()}) > 1:
      told = '; '.join(f'{name}: {value[:200]}' for name, value in found.items())
      wrong.append(f'{key} differs, so the methods cannot be compared: set config.shared.{key}. {told}')
  return wrong


def _trace(run: loop.Run) -> None:
  """Shapes of one step and of the features: what `prepare` does not look at.

  Raises:
    UserError: the step cannot be traced (SSLAX_TRACEBACK=1 shows where).
  """
  size = run.config.data.image_size
  image = jax.ShapeDtypeStruct((run.config.eval.batch_size, size, size, 3), np.uint8)
  try:
    jax.eval_shape(jit_step(run.method, run.tx, 0, None, None), run.abstract_state, run.abstract_batch)
    jax.eval_shape(run.method.features, run.abstract_state.params, run.abstract_state.memory, {'image': image})['pooled']
  except UserError:
    raise
  except Exception as error:
    if 'SSLAX_TRACEBACK' in os.environ:
      raise
    raise UserError(f'its step cannot be traced: {type(error).__name__}: {error} (SSLAX_TRACEBACK=1 shows where)') from error


# One run


class _Compiled(NamedTuple):
  """What `loop.train` calls `lowered`, compiled beforehand so that the seconds are known."""

  compile: Callable[[], Any]


def _train(config, workdir: pathlib.Path, journal: Journal, stop: Stop) -> None:
  """`sslax.train` with a clock, to the end of the run; nothing where it has ended."""
  run = loop.prepare(config, workdir)
  sizes = {key: sum(int(np.prod(a.shape)) for a in jax.tree.leaves(p)) for key, p in run.abstract_state.params.items()}
  journal.update(status='running', reason='', batch_size=config.batch_size)
  journal.update(encoder_parameters=sizes['encoder'], parameters=sum(sizes.values()))
  if loop.finished(workdir, run.total_steps):
    return
  lowered = loop.lower(run)
  print(f'{workdir}\n{loop.summary(run, lowered)}', flush=True)
  started = time.time()
  compiled = lowered.compile()
  compile_seconds = time.time() - started
  accuracy = online_knn(run) if config.online.every_steps else None

  def online(state):
    jax.block_until_ready(state)  # the step itself is training
    began = time.time()
    values = accuracy(state)
    journal.online(int(state.step), began)
    return values

  journal.begin((Reader(workdir).steps() or [0])[-1], compile_seconds)
  stop.training = True
  try:
    loop.train(run, _Compiled(lambda: compiled), workdir, stop, online if accuracy else None)
  finally:
    stop.training = False
    journal.end(time.time())


def _probe(workdir: pathlib.Path, probes: list[str], journal: Journal) -> None:
  """`sslax.evaluate` of the last checkpoint; what is in eval.jsonl is not computed again."""
  started = time.time()
  evaluation = Evaluation(workdir, probes=probes, floors=False, report=False)
  step = evaluation.reader.steps()[-1]
  try:
    evaluation.evaluate(step)
  finally:
    journal.update(probe_seconds=round(journal['probe_seconds'] + time.time() - started, 2))
  key = ('trained', step, evaluation.settings)  # other lines are of somebody who looked closer, with another k for instance
  rows = [row for row in evaluation.rows if (row['features'], row['step'], row['settings']) == key and row['probe'] in probes]
  found = {row['probe']: FIGURES[row['probe']][1](row['values']) for row in rows}
  journal.update(figures={probe: value for probe, value in found.items() if value is not None})
  shutil.rmtree(workdir / 'features', ignore_errors=True)  # a hundred MB a run for large sets, of no more use


def _status(journal: Journal, folder: pathlib.Path) -> str:
  status, reason = journal['status'], ' '.join(journal['reason'].split())
  if status == 'running':
    at = read_status(folder)
    return f'stopped at step {at["step"]} of {at["total_steps"]}' if 'step' in at else 'not run'
  if status == 'diverged':
    return f'diverged at {reason.split(";")[0]}'
  return f'failed: {reason}' if status == 'failed' else f'{status} ({reason})' if reason else status


def _spent(journal: Journal) -> float:
  return sum(journal.total(key) for key in ('seconds', 'compile_seconds', 'online_seconds')) + journal['probe_seconds']


def _make_folder(path: pathlib.Path) -> None:
  try:
    path.mkdir(parents=True, exist_ok=True)
    (path / '.writable').touch()
    (path / '.writable').unlink()
  except OSError as error:
    raise UserError(f'{path} cannot be written: {error.strerror or error}') from None


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


def _clock(seconds: float) -> str:
  if seconds < 100:
    return f'{seconds:.0f} s'
  return f'{seconds / 60:.0f} min' if seconds < 6000 else f'{seconds / 3600:.1f} h'


def _command() -> str:
  return shlex.join(['python', '-m', 'sslax.compare', *sys.argv[1:]])


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
