"""All runs of a comparison, one after the other; what is finished is read, the rest is run."""

import collections
import gc
import itertools
import pathlib
import shutil
import statistics
import sys
import traceback
from collections.abc import Iterable

import jax
import ml_collections

from sslax.comparison import page, training
from sslax.comparison.journal import ENDED, Journal
from sslax.comparison.plan import FLOORS, Plan
from sslax.comparison.results import Results, duration
from sslax.comparison.stop import Stop, command
from sslax.data.sources import open_source
from sslax.errors import Diverged, Interrupted, UserError
from sslax.evals.probe import BASELINE, RANDOM, Card, Data
from sslax.evaluation import picks
from sslax.evaluation.evaluation import Evaluation, Settings, check_probes
from sslax.evaluation.page import text_table
from sslax.io import atomic
from sslax.run import config as configs
from sslax.run.faults import read_status
from sslax.run.prepare import prepare


class Comparison:
  """All runs of a config of `compare`: `plan` says which, `results` what they gave."""

  def __init__(self, config: ml_collections.ConfigDict, file: pathlib.Path, workdir: pathlib.Path, only: Iterable[str] = ()):
    """Reads the list of methods, and what the workdir has of an earlier call; see `Plan`.

    Raises:
      UserError: the list cannot be read, a name is unknown, or the workdir is of another comparison.
    """
    self.plan = Plan(config, file, workdir, only)
    self.results = Results(self.plan)

  def check(self) -> None:
    """Prepares and traces every run that is not finished, compiles none.

    Raises:
      UserError: all that is wrong with any of them.
    """
    if jax.process_count() > 1:
      raise UserError('compare runs in one process: start it without SSLAX_NUM_PROCESSES')
    plan, wrong = self.plan, []
    resolved = plan.check()
    for name, seed in {name: seed for name, seed in self._open()}.items():  # seeds have the same shapes
      print(f' {name}', end='', flush=True)
      config = resolved[name, seed]
      try:
        run = prepare(config, plan.folder(name, seed))
        data = Data(run.source, open_source(config.data.test), config.data.train)
        check_probes(picks.pick(plan.config.probes, config.eval.probes), Card(run.method, run.inputs, run.features), data)
      except UserError as error:
        wrong.append(f'{name} ({plan.methods[name]}): {error}')
    print(flush=True)
    if wrong:
      raise UserError('\n'.join(wrong))

  def run(self, stop: Stop, *, dry_run: bool = False) -> None:
    """Runs what is not finished, and writes table and page after each run.

    Raises:
      Interrupted: asked to stop; everything up to here is saved.
      UserError: something is wrong with one of the runs; none has started.
    """
    plan, todo = self.plan, self.plan.todo
    stop.workdir = plan.workdir
    try:
      stop.check()
      print(f'checking {len(todo)} run(s) of {len({n for n, _ in todo})} method(s):', end='', flush=True)
      self.check()
      if dry_run:
        print('\n'.join(f'  {n}, seed {s}: {self._status(n, s)}' for n, s in todo))
        print('dry run: nothing compiled, nothing written')
        return
      _make_folder(plan.workdir)
      configs.save(plan.config, plan.workdir)
      self._note_command()
      stop.place = 'the floors'
      for seed in dict.fromkeys(seed for _, seed in todo):
        self._floors(seed)
      open_runs = self._open()
      for name, seed in open_runs:
        stop.check()
        stop.place = f'run {todo.index((name, seed)) + 1} of {len(todo)} ({name}, seed {seed})'
        left = self.seconds_left()
        print(f'\n=== {stop.place}' + (f'; about {duration(left)} left for all' if left else ''), flush=True)
        self._one(name, seed, stop)
        if (name, seed) != open_runs[-1]:
          self._write()
          print('\n' + text_table(self.results.table(short=True)), flush=True)
      self._write()
      print('\n' + text_table(self.results.table()))
    except Interrupted as error:
      raise Interrupted(stop.message(str(error))) from error
    statuses = [(n, s, self._status(n, s)) for n, s in todo]
    bad = [f'{n} (seed {s}: {status})' for n, s, status in statuses if status != 'done']
    print(f'\ndone: {len(statuses) - len(bad)} of {len(statuses)} runs{", but not " + ", ".join(bad) if bad else ""}')
    print(f'page: {plan.workdir / "compare.html"}')

  def seconds_left(self) -> float | None:
    """From the runs that are done: each method by its own mean, those without one by the mean of all; None before the first."""
    seconds = collections.defaultdict(list)
    for name, seed in itertools.product(self.plan.methods, self.plan.config.seeds):
      journal = Journal(self.plan.folder(name, seed))
      if journal['status'] == 'done':
        seconds[name].append(journal.spent())
    if not seconds:
      return None
    every = statistics.mean(itertools.chain(*seconds.values()))
    waiting = [(name, Journal(self.plan.folder(name, seed))) for name, seed in self._open()]
    return sum(max(0.0, statistics.mean(seconds.get(name, [every])) - journal.spent()) for name, journal in waiting)

  def _status(self, name, seed):
    return Journal(self.plan.folder(name, seed))['status']

  def _open(self):
    """The runs of this call that are not finished."""
    return [(name, seed) for name, seed in self.plan.todo if self._status(name, seed) not in ENDED]

  def _one(self, name: str, seed: int, stop: Stop) -> None:
    """Trains and probes one run. Whatever goes wrong with it becomes its status, and the others go on."""
    config, workdir = self.plan.resolve(name, seed), self.plan.folder(name, seed)
    _make_folder(workdir)
    journal = Journal(workdir)
    try:
      training.train(config, workdir, journal, stop)
      stop.check()
      training.probe(config, workdir, self.plan.config.probes, journal)
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
    folder, probes = self.plan.folder(FLOORS, seed), self.plan.config.probes
    if not (folder / 'config.json').exists():
      _make_folder(folder)
      configs.save(self.plan.resolve(self.plan.todo[0][0], seed), folder)
    evaluation = Evaluation(folder, picks.pick(probes, configs.load(folder).eval.probes), Settings(report=False))
    known = self.results.floor(self.plan.baseline)  # the same for every seed
    if not all(probe in known for probe in probes):
      evaluation.compute([(BASELINE, 0)])
    evaluation.compute([(RANDOM, 0)])
    shutil.rmtree(folder / 'features', ignore_errors=True)
    jax.clear_caches()

  def _write(self):
    self.results.write()
    page.write(self.results)

  def _note_command(self):
    known = self.results.commands()
    if command() not in known:
      # A word of a command line need be no UTF-8: the file has its bytes.
      atomic.write(self.results.commands_file, '\n'.join([*known, command(), '']).encode('utf-8', 'surrogateescape'))


def _make_folder(path: pathlib.Path) -> None:
  try:
    path.mkdir(parents=True, exist_ok=True)
    (path / '.writable').touch()
    (path / '.writable').unlink()
  except OSError as error:
    raise UserError(f'{path} cannot be written: {error.strerror or error}') from None
