"""What every config has, how it is checked before anything expensive starts, and how two configs are compared."""

import difflib
import json
import pathlib
from typing import Any

import ml_collections

from sslax.errors import UserError, suggest
from sslax.io import atomic
from sslax.method import Facts
from sslax.ops.schedules import duration
from sslax.run import legacy
from sslax.spec import complete

# A run may go on with other values of these: they change neither the numbers nor what is compared.
HARMLESS = (
  'log.',
  'checkpoint.',
  'mesh.',
  'online.',
  'eval.',
  'stall_timeout',
  'data.threads',
  'data.workers',
  'data.prefetch',
  'data.cache',
  'data.test',
)
# `log.every_steps` and `online.` do change which lines metrics.jsonl gets, but not the state.


def base_config() -> ml_collections.ConfigDict:
  """The keys that every config has, with their defaults. A config file sets `method`, `optim` and what it wants to differ."""
  return ml_collections.ConfigDict(
    dict(
      seed=0,
      batch_size=256,  # global: examples per update over all devices
      microbatches=1,  # networks run batch_size / microbatches examples at a time
      num_epochs=0.0,  # the length of the run: either this ...
      num_steps=0,  # ... or this
      stall_timeout=900.0,  # seconds without a step that end the run, to be started anew (exit code 170); 0: never
      graft=(),  # parts of the state that come from other runs or from weights, as strings; see sslax/run/graft.py
      data=dict(
        train='digits:@train',  # a URI; see sslax/data/sources.py
        test='digits:@test',  # '' when there is none
        max_bad_fraction=0.01,  # more records that cannot be used than this stop the run
        threads=0,  # decoding threads; 0: one a core
        workers=0,  # decoding processes beside the threads
        prefetch=2,  # batches
        cache='auto',  # decoded records in memory: 'on', 'off', 'auto' (when they take less than 256 MiB)
      ),
      # devices = data x fsdp, -1: what is left; slices: TPU slices that only the data centre's network joins
      mesh=dict(data=-1, fsdp=1, slices=1),
      checkpoint=dict(every_steps=1000, keep=3, keep_every=0),  # the newest `keep`, and every `keep_every`-th step for good
      log=dict(every_steps=1),
      online=dict(every_steps=0, knn_k=20, knn_temperature=0.1, max_train=5000, max_test=1000),  # kNN during training; 0: never
      eval=dict(batch_size=256, probes=dict()),  # the evaluator's; probes: {'knn': spec(KNN, k=20)} where not the defaults
    )
  )


def unknown_preset(preset: str, presets: Any) -> UserError:
  """The error of a config file that was asked for a preset it does not have."""
  return UserError(f'no preset {preset!r}.{suggest(preset, presets)}')


def check(config: ml_collections.ConfigDict, devices: int) -> None:
  """Values that cannot work, before anything compiles.

  Raises:
    UserError: all that is wrong, a line each.
  """
  wrong = []
  for key in ('method', 'optim'):
    if key not in config:
      wrong.append(f'config.{key} is missing: the config file must set it')
  for key in (
    'batch_size',
    'microbatches',
    'checkpoint.every_steps',
    'checkpoint.keep',
    'log.every_steps',
    'eval.batch_size',
  ):
    if get(config, key) < 1:
      wrong.append(f'config.{key}={get(config, key)} must be at least 1')
  for key in (
    'num_steps',
    'num_epochs',
    'data.threads',
    'data.workers',
    'checkpoint.keep_every',
    'online.every_steps',
    'stall_timeout',
  ):
    if get(config, key) < 0:
      wrong.append(f'config.{key}={get(config, key)} must not be negative')
  if bool(config.num_steps) == bool(config.num_epochs):
    wrong.append(
      f'set one of config.num_epochs (now {config.num_epochs}) and config.num_steps (now {config.num_steps}), the other to 0'
    )
  if config.batch_size > 0 and config.batch_size % devices:
    near = max(devices, round(config.batch_size / devices) * devices)
    wrong.append(f'config.batch_size={config.batch_size} does not divide over {devices} devices; {near} would')
  if config.microbatches > 0 and config.batch_size % config.microbatches:
    wrong.append(f'config.batch_size={config.batch_size} does not divide into config.microbatches={config.microbatches}')
  if wrong_grafts := [entry for entry in config.graft if not isinstance(entry, str)]:
    wrong.append(f'config.graft holds {wrong_grafts[0]!r}, which is no string')
  if not 0 <= config.data.max_bad_fraction <= 1:
    wrong.append(f'config.data.max_bad_fraction={config.data.max_bad_fraction} must be between 0 and 1')
  if not 0 <= config.seed < 2**32:
    wrong.append(f'config.seed={config.seed} must be between 0 and 2**32 - 1')
  if config.data.cache not in ('auto', 'on', 'off'):
    wrong.append(f'config.data.cache={config.data.cache!r}.{suggest(config.data.cache, ("auto", "on", "off"))}')
  wrong += [f'config.{key}: no such key.{hint}' for key, hint in _strangers(config)]
  if wrong:
    raise UserError('\n'.join(wrong))


def _strangers(config: ml_collections.ConfigDict) -> list[tuple[str, str]]:
  """Keys that a config file set and that nobody reads, with what they may have meant."""
  known = {*flat(base_config()), 'method', 'optim', 'eval.probes'}
  owned = ('method.', 'optim.', 'eval.probes.')  # what these nodes may hold, their classes say
  found = [key for key in flat(config) if key not in known and not key.startswith(owned)]
  return [
    (key, f' It is {legacy.where_it_went(key)} now.' if legacy.where_it_went(key) else suggest(key, known)) for key in found
  ]


def get(config: Any, path: str) -> Any:
  """config.a.b for 'a.b'."""
  for key in path.split('.'):
    config = config[key]
  return config


def total_steps(config: ml_collections.ConfigDict, num_examples: int) -> tuple[int, int]:
  """(steps of the run, steps per epoch). An epoch is num_examples // batch_size steps, at least one."""
  steps_per_epoch = max(1, num_examples // config.batch_size)
  if config.num_steps:
    return config.num_steps, steps_per_epoch
  return duration(
    f'{config.num_epochs} epochs', steps_per_epoch=steps_per_epoch, batch_size=config.batch_size, where='config.num_epochs'
  ), steps_per_epoch


def facts(config: ml_collections.ConfigDict, num_records: int, num_classes: int) -> Facts:
  """What a run of this config on a data set of this size knows of itself."""
  total, steps_per_epoch = total_steps(config, num_records)
  return Facts(config.batch_size, total, steps_per_epoch, num_records, num_classes)


def flat(config: Any, prefix: str = '') -> dict[str, Any]:
  """{'a.b': value} for every leaf; nodes inside tuples get their place as a key."""
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  if isinstance(config, (list, tuple)) and any(isinstance(v, (dict, list, tuple)) for v in config):
    config = {str(i): v for i, v in enumerate(config)}
  if not isinstance(config, dict):
    return {prefix.rstrip('.'): list(config) if isinstance(config, tuple) else config}
  leaves = {}
  for key, value in config.items():
    leaves.update(flat(value, f'{prefix}{key}.'))
  return leaves


def save(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """workdir/config.json: everything resolved, which is what evaluate rebuilds the method from."""
  atomic.write(workdir / 'config.json', config.to_json(indent=1, sort_keys=True) + '\n')


def load(workdir: pathlib.Path) -> ml_collections.ConfigDict:
  """The config that a run saved, as this version writes it: keys that are newer than the run have their defaults.

  Raises:
    UserError: there is none, it is damaged, or it is of a version that this one cannot read.
  """
  path = workdir / 'config.json'
  try:
    saved = _tuples(json.loads(path.read_text(encoding='utf-8')))
  except FileNotFoundError:
    raise UserError(f'{path} does not exist: --workdir={workdir} is not the workdir of a run') from None
  except json.JSONDecodeError as error:
    raise UserError(f'{path} is damaged: {error}') from None
  return upgraded(saved, str(path))


def upgraded(saved: dict[str, Any], where: str = 'config') -> ml_collections.ConfigDict:
  """A saved config, of this version or an earlier one, as this version writes it."""
  if 'method' not in saved:  # a comparison's config has other keys
    return ml_collections.ConfigDict(legacy.upgrade(saved))
  saved, config = legacy.upgrade(saved), base_config().to_dict()
  for key, value in saved.items():
    config[key] = {**config[key], **value} if isinstance(config.get(key), dict) else value
  for key in ('method', 'optim'):
    config[key] = complete(config[key], f'{where}: {key}')
  return ml_collections.ConfigDict(config)


def _tuples(value):
  if isinstance(value, dict):
    return {k: _tuples(v) for k, v in value.items()}
  return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def refuse_other(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Raises UserError with a diff when the workdir belongs to a run with another config (harmless keys aside)."""
  if not (workdir / 'config.json').exists():
    return
  here, there = (
    [f'{key} = {value!r}' for key, value in sorted(flat(c).items()) if not key.startswith(HARMLESS)]
    for c in (upgraded(_tuples(json.loads(config.to_json()))), load(workdir))
  )
  diff = [
    line for line in difflib.unified_diff(there, here, n=0, lineterm='') if line[:3] not in ('---', '+++') and line[:2] != '@@'
  ]
  if diff:
    raise UserError(
      f'{workdir} holds a run with another config (- that run, + this one):\n'
      + '\n'.join(f'  {line[0]} {line[1:]}' for line in diff)
      + '\nTake another --workdir, or the same config to go on with that run.'
    )
