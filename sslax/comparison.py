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
from sslax.comparison_results import ENDED, FAIR, FIGURES, FLOORS, Journal, Results, clock, spent
from sslax.data.sources import open_source
from sslax.errors import Diverged, Interrupted, UserError, suggest
from sslax.evals import report
from sslax.evals.online import online_knn
from sslax.evaluator import PIXELS, RANDOM, Evaluation
from sslax.io import atomic
from sslax.run import config as configs
from sslax.run import loop
from sslax.run.checkpoint import Reader
from sslax.run.faults import StopRequest, read_status
from sslax.spec import find
from sslax.step import jit_step

# `shared` may differ in these when a comparison goes on: they change no number of the table but the seconds.
HARMLESS = ('log.', 'checkpoint.', 'mesh.', 'data.threads', 'data.workers', 'data.prefetch', 'data.cache')

# A method: FILE.py, where a folder's name may hold spaces, :PRESET, and overrides.
METHOD = re.compile(r'(?P<file>\S.*?\.py)(?::(?P<preset>\S*))?(?P<overrides>(?:\s.*)?)', re.DOTALL)


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
    self.results = Results(workdir, config, self.methods)

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

  def resolve(self, name: str, seed: int) -> ml_collections.ConfigDict:
    """The config of one run: the method's preset, then `shared`, then the overrides of its own.

    Raises:
      UserError: a file, preset or key that does not exist, or an override of what all runs share.
    """
    method = METHOD.fullmatch(self.methods[name])
    config = self._load(method['file'], method['preset'])
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
    for override in method['overrides'].split():
      _override(config, override, fixed, encoder='encoder' in self.config.shared)
    config.seed = seed
    return config

  def _load(self, file: str, preset: str | None):
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
        configs.refuse_other(config, self.results.folder(name, seed))
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
    open_runs = {name: seed for name, seed in self.todo if Journal(self.results.folder(name, seed))['status'] not in ENDED}
    for name, seed in open_runs.items():  # seeds have the same shapes
      print(f' {name}', end='', flush=True)
      try:
        _trace(loop.prepare(resolved[name, seed], self.results.folder(name, seed)))
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
        print('\n'.join(f'  {n}, seed {s}: {Journal(self.results.folder(n, s))["status"]}' for n, s in self.todo))
        print('dry run: nothing compiled, nothing written')
        return
      _make_folder(self.workdir)
      configs.save(self.config, self.workdir)
      self._note_command()
      stop.place = 'the floors'
      for seed in dict.fromkeys(seed for _, seed in self.todo):
        self._floors(seed)
      open_runs = [(n, s) for n, s in self.todo if Journal(self.results.folder(n, s))['status'] not in ENDED]
      for name, seed in open_runs:
        stop.check()
        stop.place = f'run {self.todo.index((name, seed)) + 1} of {len(self.todo)} ({name}, seed {seed})'
        left = self._seconds_left()
        print(f'\n=== {stop.place}' + (f'; about {clock(left)} left for all' if left else ''), flush=True)
        self._one(name, seed, stop)
        if (name, seed) != open_runs[-1]:
          self.results.write()
          print('\n' + report.text_table(self.results.table(short=True)), flush=True)
      self.results.write()
      print('\n' + report.text_table(self.results.table()))
    except Interrupted as error:
      raise Interrupted(stop.message(str(error))) from error
    statuses = [(n, s, Journal(self.results.folder(n, s))['status']) for n, s in self.todo]
    bad = [f'{n} (seed {s}: {status})' for n, s, status in statuses if status != 'done']
    print(f'\ndone: {len(statuses) - len(bad)} of {len(statuses)} runs{", but not " + ", ".join(bad) if bad else ""}')
    print(f'page: {self.workdir / "compare.html"}')

  def _one(self, name: str, seed: int, stop: Stop) -> None:
    """Trains and probes one run. Whatever goes wrong with it becomes its status, and the others go on."""
    config, workdir = self.resolve(name, seed), self.results.folder(name, seed)
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
    folder = self.results.folder(FLOORS, seed)
    if not (folder / 'config.json').exists():
      _make_folder(folder)
      configs.save(self.resolve(self.todo[0][0], seed), folder)
    evaluation = Evaluation(folder, probes=list(self.config.probes), report=False)
    known = self.results.floor(PIXELS)  # the same for every seed
    if not all(probe in known for probe in self.config.probes):
      evaluation.compute([(PIXELS, 0)])
    evaluation.compute([(RANDOM, 0)])
    shutil.rmtree(folder / 'features', ignore_errors=True)
    jax.clear_caches()

  def _seconds_left(self) -> float | None:
    """From the runs that are done: each method by its own mean, those without one by the mean of all; None before the first."""
    seconds = collections.defaultdict(list)
    for name, seed in itertools.product(self.methods, self.config.seeds):
      journal = Journal(self.results.folder(name, seed))
      if journal['status'] == 'done':
        seconds[name].append(spent(journal))
    if not seconds:
      return None
    every = statistics.mean(itertools.chain(*seconds.values()))
    journals = [(name, Journal(self.results.folder(name, seed))) for name, seed in self.todo]
    waiting = [(name, journal) for name, journal in journals if journal['status'] not in ENDED]
    return sum(max(0.0, statistics.mean(seconds.get(name, [every])) - spent(journal)) for name, journal in waiting)

  def _note_command(self):
    path = self.workdir / 'commands.txt'
    known = path.read_text(encoding='utf-8').splitlines() if path.exists() else []
    if _command() not in known:
      atomic.write(path, '\n'.join([*known, _command()]) + '\n')


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
    if not re.fullmatch(r'\w[\w.+-]*', name) or not METHOD.fullmatch(source):
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


def _make_folder(path: pathlib.Path) -> None:
  try:
    path.mkdir(parents=True, exist_ok=True)
    (path / '.writable').touch()
    (path / '.writable').unlink()
  except OSError as error:
    raise UserError(f'{path} cannot be written: {error.strerror or error}') from None


def _command() -> str:
  return shlex.join(['python', '-m', 'sslax.compare', *sys.argv[1:]])
