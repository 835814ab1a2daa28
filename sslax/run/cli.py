"""How a binary starts and ends: flags read, user errors in one message, exit codes that launchers rely on."""

import logging
import os
import pathlib
import re
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from sslax import errors
from sslax.errors import UserError, suggest
from sslax.io import cache

MISSING = '--config is missing: a config and its preset, for example --config=simclr:digits'
LAST = 2.0  # seconds that process 0 stays longer than the others after an error

COORDINATOR = flags.DEFINE_string(
  'coordinator', '', 'HOST:PORT of process 0, for several processes without a scheduler. SLURM, Open MPI, TPU pods are found.'
)
NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', 0, '... their number; 1: by itself, whatever is found; alone, on a TPU pod: that many must be found.',
  lower_bound=0,
)  # fmt: skip
PROCESS_ID = flags.DEFINE_integer('process_id', -1, '... the number of this one, from 0.', lower_bound=-1)


def define_config(required: bool = True) -> None:
  """--config=FILE.py[:preset], and --config.any.leaf=value."""
  config_flags.DEFINE_config_file(
    'config',
    None,
    'A config and its preset, simclr:digits, or a file of your own, FILE.py:PRESET. Any leaf is a flag: --config.seed=1.',
    lock_config=True,
  )
  if required:
    flags.register_validator('config', lambda config: config is not None, message=MISSING)


def run(main: Callable[[], int | None]) -> None:
  """Reads the flags, calls `main`, exits. Nothing a user can get wrong ends in a traceback."""
  logging.basicConfig(level=logging.WARNING, format='%(levelname)s: %(message)s', stream=sys.stderr)
  logging.getLogger('absl').setLevel(logging.WARNING)
  code = _run(main)
  sys.stdout.flush()
  sys.stderr.flush()
  _leave(code)


def _leave(code: int) -> None:
  jax = sys.modules.get('jax')
  if jax is None or not jax.distributed.is_initialized():
    sys.exit(code)
  if code in (errors.DONE, errors.INTERRUPTED):
    try:
      jax.distributed.shutdown()  # waits until all are here, which they will be soon: they stop at the same step
    except Exception as error:  # one of them died meanwhile; what this one has to say stays true
      print(f'the other processes did not end in order: {_shorten(str(error))}', file=sys.stderr, flush=True)
      os._exit(code)
    sys.exit(code)
  # The others may never come: a wait for them would hide what happened here. The end of process 0 ends them, though, whatever
  # they were about to say: it leaves last where all have something to say.
  if jax.process_index() == 0:
    time.sleep(LAST)
  os._exit(code)


def _run(main: Callable[[], int | None]) -> int:
  try:
    _parse(sys.argv)
    return main() or errors.DONE
  except UserError as error:
    return _say(f'error: {error}', errors.USER_ERROR)
  except errors.Diverged as error:
    return _say(f'diverged: {error}', errors.DIVERGED)
  except errors.Interrupted as error:
    return _say(f'interrupted: {error}', errors.INTERRUPTED)
  except KeyboardInterrupt:
    return _say('interrupted before there was a state to save', 130)
  except PermissionError as error:
    return _say(f'error: no permission: {error}', errors.USER_ERROR)
  except Exception as error:
    traceback.print_exc()
    if 'jax' in sys.modules and _peer_lost(error):
      return _say('another process of this run is gone; the same command on all of them goes on', errors.STALLED)
    return 1


def _peer_lost(error: Exception) -> bool:
  import jax

  from sslax.run.cluster import PeerLost

  # What a collective (Gloo, NCCL) or the coordinator's server says when the other end is gone.
  gone = 'Gloo|NCCL|[Cc]onnection|[Ss]ocket|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|heartbeat'
  return isinstance(error, PeerLost) or (
    isinstance(error, jax.errors.JaxRuntimeError) and jax.distributed.is_initialized() and bool(re.search(gone, str(error)))
  )


def _say(message, code):
  print(message, file=sys.stderr)
  return code


def _parse(argv: list[str]) -> None:
  app.define_help_flags()
  try:
    argv[1:] = _renamed(_found(argv[1:]))
    rest = flags.FLAGS(argv)
  except SystemExit:  # --help has printed; absl ends it with 1
    raise SystemExit(errors.DONE) from None
  except UserError as error:
    raise UserError(str(error) if str(error).startswith('--config') else f'--config: {error}') from None
  except flags.UnrecognizedFlagError as error:
    name = error.flagname.removeprefix('no')
    hint = suggest(error.flagname, _flag_names())
    raise UserError(f'unknown flag --{error.flagname}.{hint if "Did" in hint else suggest(name, _flag_names())}') from None
  except (AttributeError, KeyError) as error:
    raise UserError(f'unknown config key: {_unknown_key(argv, error)}') from None
  except (flags.Error, ValueError, TypeError, SyntaxError) as error:
    raise UserError(_shorten(MISSING if MISSING in str(error) else str(error))) from None
  except (FileNotFoundError, IsADirectoryError) as error:
    raise UserError(str(error)) from None
  except Exception as error:  # the config file is Python of the user's: its own traceback helps, ours does not
    last = traceback.extract_tb(error.__traceback__)[-1]
    raise UserError(f'--config: {last.filename}:{last.lineno}: {type(error).__name__}: {error}') from error
  if len(rest) > 1:
    stray = rest[1]
    hint = f' Did you mean --{stray}?' if '=' in stray else suggest(stray, [f'--{name}' for name in _flag_names()])
    raise UserError(f'stray argument {stray!r}: arguments are flags (--name=value).{hint}')


def _found(words: list[str]) -> list[str]:
  """The words with --config naming a file that exists, in whatever way it was written."""
  found = list(words)
  for place, word in enumerate(words):
    if word == '--config' and place + 1 < len(words):
      found[place + 1] = config_file(words[place + 1])
    elif word.startswith('--config='):
      found[place] = f'--config={config_file(word.removeprefix("--config="))}'
  return found


def config_file(value: str) -> str:
  """'/path/to/simclr.py:digits' for what --config says: a file, or the name of one that comes with sslax, from any folder.

  Args:
    value: 'FILE.py', 'FILE.py:PRESET', 'simclr:digits', 'simclr.py:digits', 'simclr', 'configs/simclr.py:digits'.

  Raises:
    UserError: there is no such file here and none of that name comes with sslax.
  """
  split = re.fullmatch(r'(?P<file>.*?\.py)(:(?P<preset>.*))?|(?P<name>[^:/]+)(:(?P<rest>.*))?', value, re.DOTALL)
  file = (split['file'] or f'{split["name"]}.py') if split else value
  preset = (split['preset'] if split['file'] else split['rest']) if split else None
  ours, path = configs_folder(), pathlib.Path(file).expanduser()
  shipped = ours / path.name
  if not path.is_file():  # beside the project it is a path, elsewhere a name
    if path.parent.as_posix() not in ('.', 'configs') or not shipped.is_file():
      here = path.parent if path.parent.is_dir() and path.parent.as_posix() != '.' else ours
      beside = sorted(p.as_posix() if here is not ours else p.stem for p in here.glob('*.py'))
      raise UserError(
        f'--config={value}: there is no file {path}.{suggest(path.as_posix() if here is not ours else path.stem, beside)}'
      )
    path = shipped
  return f'{path}:{preset}' if preset else str(path)


def configs_folder() -> pathlib.Path:
  """The config files that come with sslax: inside the package where it was installed, beside it in a checkout."""
  package = pathlib.Path(__file__).resolve().parents[1]
  return next((folder for folder in (package / 'configs', package.parent / 'configs') if folder.is_dir()), package / 'configs')


def _renamed(words: list[str]) -> list[str]:
  """The words with overrides of config keys of earlier versions under their names of today."""
  from sslax.run import legacy

  keys = [re.match(r'--(?:no)?config\.([^=]+)', word) for word in words]
  if not any(key and (legacy.where_it_went(key[1]) or legacy.gone(key[1])) for key in keys):
    return words
  config, renamed = _config_alone(words), []
  for word, key in zip(words, keys, strict=True):
    if key and config is not None and legacy.where_it_went(key[1]) and not _has(config, key[1]):
      names = legacy.new_keys(key[1], config)
      if not names:
        raise UserError(f'--config.{key[1]}: this config has nothing that it could set; it is {legacy.where_it_went(key[1])} now')
      renamed += [f'--config.{name}{word[key.end() :]}' for name in names]
    elif key and legacy.gone(key[1]):
      raise UserError(f'--config.{key[1]} is gone: {legacy.gone(key[1])}')
    else:
      renamed.append(word)
  return renamed


def _has(config: Any, path: str) -> bool:
  for key in path.split('.'):
    if not hasattr(config, 'keys') or key not in config:
      return False
    config = config[key]
  return True


def _config_alone(words: list[str]) -> Any:
  """The config that --config names, without the overrides; None where there is none."""
  alone = flags.FlagValues()
  config_flags.DEFINE_config_file('config', None, '', lock_config=True, flag_values=alone)
  word = next(
    (
      f'--config={b}' if a == '--config' else a
      for a, b in zip(words, [*words[1:], ''], strict=True)
      if re.match('--config(=|$)', a)
    ),
    '',
  )
  before = sys.argv
  try:
    sys.argv = [before[0], word]  # ml_collections looks there for overrides, whatever it is given
    alone(sys.argv)
  finally:
    sys.argv = before
  return alone.config


def _flag_names():
  return [
    name
    for module, fs in flags.FLAGS.flags_by_module_dict().items()
    if not module.startswith('absl')
    for name in (f.name for f in fs)
  ]


def _unknown_key(argv: list[str], error: Exception) -> str:
  """ml_collections says only the last part of a path that does not exist; find which override it was and what is near."""
  from sslax.run.config import flat

  config = _config_alone(argv[1:])  # as it was before the overrides
  known = list(flat(config)) if config is not None else []
  for word in argv[1:]:
    key = re.match(r'--(?:no)?config\.([^=]+)', word)
    if key and known and key[1] not in known:
      near = _near_tail(key[1], known)
      return f'config.{key[1]}.' + (f' Did you mean {" or ".join(near)}?' if near else suggest(key[1], known))
  return _shorten(str(error))


def _near_tail(key, known):
  """Keys that end in the same word: `temperature` for `method.temperature`."""
  tail = key.split('.')[-1]
  return [k for k in known if k.split('.')[-1] == tail][:3]


def _shorten(text: str) -> str:
  return ' '.join(text.split())[:600]


def start_jax() -> None:
  """Sets the compilation cache and joins the other processes of this run, if there are any (see `cluster.join`).

  Must run before anything asks jax for devices.

  Raises:
    UserError: there is no device, or the flags do not say who the others are.
    PeerLost: the others did not come.
  """
  import jax

  from sslax.run import cluster

  jax.config.update('jax_compilation_cache_dir', os.environ.get('JAX_COMPILATION_CACHE_DIR', str(cache.folder() / 'jax')))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
  said = flags.FLAGS.is_parsed()  # not in a notebook
  cluster.join(
    coordinator=COORDINATOR.value if said else '',
    count=NUM_PROCESSES.value if said else 0,
    index=PROCESS_ID.value if said else -1,
  )
  try:
    jax.devices()
  except RuntimeError as error:
    raise UserError(
      f'jax finds no device: {_shorten(str(error))}. JAX_PLATFORMS={os.environ.get("JAX_PLATFORMS", "")!r}'
    ) from None
