"""Which runs a comparison has, and the config of each."""

import difflib
import functools
import json
import pathlib
import re
import traceback
from collections.abc import Iterable
from typing import Any

import jax
import ml_collections

from sslax.comparison import fair, shared
from sslax.data.sources import open_source
from sslax.errors import UserError, suggest
from sslax.evals.probe import Probe
from sslax.evaluation import picks
from sslax.run import config as configs
from sslax.run.prepare import build_method
from sslax.spec import find

FLOORS = 'floors'  # workdir/floors holds the rows that need no training

# `shared` may differ in these when a comparison goes on: they change no number of the table but the seconds.
HARMLESS = ('log.', 'checkpoint.', 'mesh.', 'data.threads', 'data.workers', 'data.prefetch', 'data.cache')

# A method: FILE.py, where a folder's name may hold spaces, :PRESET, and overrides.
METHOD = re.compile(r'(?P<file>\S.*?\.py)(?::(?P<preset>\S*))?(?P<overrides>(?:\s.*)?)', re.DOTALL)


class Plan:
  """The runs of a config of `compare`, each a method and a seed.

  Attributes:
    workdir: of the comparison.
    config: with the methods and seeds of earlier calls.
    methods: {name: 'FILE.py:PRESET and overrides'}.
    probes: {name: probe}, with the settings that all runs share.
    todo: (name, seed) of the runs of this call.
  """

  def __init__(self, config: ml_collections.ConfigDict, file: pathlib.Path, workdir: pathlib.Path, only: Iterable[str] = ()):
    """Reads the list of methods, and what the workdir has of an earlier call.

    Args:
      file: the config file; files of methods are looked for beside it, in its parent folder, then in the current folder.
      only: names of the methods to run now; all when empty.

    Raises:
      UserError: the list cannot be read, a name is unknown, or the workdir is of another comparison.
    """
    self.folders = [file.absolute().parent, file.absolute().parent.parent, pathlib.Path.cwd()]
    self.workdir, self.config, self.methods, self.probes = workdir, config, _methods(config), _probes(config)
    for name in only:
      if name not in self.methods:
        raise UserError(f'--methods={name}: no such method in config.methods.{suggest(name, self.methods)}')
    self.todo = [(name, seed) for seed in config.seeds for name in self.methods if not only or name in only]
    self._join_former()

  def folder(self, name: str, seed: int) -> pathlib.Path:
    """The workdir of a run."""
    return self.workdir / name / f'seed_{seed}'

  @functools.cached_property
  def baseline(self) -> str:
    """What needs no method, by its name: 'raw pixels'; '' where the inputs have no baseline."""
    name, seed = next(iter(self.methods)), self.config.seeds[0]
    method = build_method(self.resolve(name, seed))
    return method.inputs()[method.feature_inputs('pooled')[0]].evaluation().baseline_name

  def _join_former(self) -> None:
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
    changes = difflib.unified_diff(lines[0], lines[1], n=0, lineterm='')
    diff = [line for line in changes if not line.startswith(('---', '+++', '@@'))]
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

  def resolve(self, name: str, seed: int) -> ml_collections.ConfigDict:
    """The config of one run: the method's preset, then `shared`, then the overrides of its own.

    Raises:
      UserError: a file, preset or key that does not exist, or an override of what all runs share.
    """
    method = METHOD.fullmatch(self.methods[name])
    assert method, '_methods has checked them'
    config = self._load(method['file'], method['preset'])
    common = self.config.shared.copy_and_resolve_references()
    replacing = shared.nodes(common, config)
    for key, node in replacing.items():
      with common.unlocked():
        del common[key]
      if not shared.replace(config.method, key, node):
        raise UserError(f'its method has no node `{key}` for config.shared.{key} to replace')
    if common.get('num_epochs', 0.0) and not common.get('num_steps', 0):
      config.num_steps = 0
    if common.get('num_steps', 0) and not common.get('num_epochs', 0.0):
      config.num_epochs = 0.0
    shared.merge(config, common)
    fixed = {'seed', *configs.flat(common)} | ({'num_epochs', 'num_steps'} & {*common})
    for override in method['overrides'].split():
      shared.override(config, override, fixed, replacing)
    config.seed = seed
    return config

  def _load(self, file: str, preset: str | None) -> ml_collections.ConfigDict:
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

  def check(self) -> dict[tuple[str, int], ml_collections.ConfigDict]:
    """What can be found by reading, of all runs of this call: {(name, seed): its config}.

    Raises:
      UserError: all that is wrong with any of them, or makes their comparison unfair.
    """
    wrong, resolved, seen, probes = [], {}, {}, {}
    for name, seed in self.todo:
      try:
        config = self.resolve(name, seed)
        configs.check(config, jax.device_count())
        configs.refuse_other(config, self.folder(name, seed))
        probes[name] = picks.pick(self.config.probes, config.eval.probes)
        seen[name] = fair.seen_by_probes(build_method(config))
        resolved[name, seed] = config
      except UserError as error:
        wrong.append(f'{name} ({self.methods[name]}): {error}')
    known = {name: config for (name, _), config in resolved.items()}
    wrong += fair.unfair(known, {name: seen[name] for name in known}, {name: probes[name] for name in known})
    unlabelled = not any(probe.needs().labels for probe in self.probes.values())
    for key, uri in sorted({(key, config.data[key]) for config in resolved.values() for key in ('train', 'test')}):
      try:
        usable = uri and (open_source(uri).num_classes or unlabelled)
      except UserError as error:
        wrong.append(f'config.shared.data.{key}: {error}')
        continue
      if not usable:
        wrong.append(f'config.shared.data.{key}={uri!r}: the probes need {"" if unlabelled else "labelled "}data')
    if wrong:
      raise UserError('\n'.join(dict.fromkeys(wrong)))
    return resolved


def _methods(config: ml_collections.ConfigDict) -> dict[str, str]:
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
  try:
    _probes(config)
  except UserError as error:
    wrong.append(f'config.probes: {error}')
  if wrong:
    raise UserError('\n'.join(wrong))
  return found


def _probes(config: ml_collections.ConfigDict) -> dict[str, Probe]:
  return picks.pick(config.probes, config.shared.get('eval', {}).get('probes', {}))


def _compared(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The leaves that must stay the same when a comparison goes on, as JSON would have them."""
  plain = json.loads(config.to_json())
  return configs.flat({key: plain[key] for key in ('probes', 'shared')})
