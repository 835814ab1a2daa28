"""What is wrong with a command, as far as that can be said without jax.

Launchers run dry, beside a gcloud and an xpk that answer at once. Of foreign programs (sbatch, sky, docker, papermill), what
refers to this project is checked. A program that nothing here knows is a mistake, too: a new kind of command needs a new check.
"""

import importlib.util
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from docs.shown import ROOT

BINARIES = ('sslax.train', 'sslax.evaluate', 'sslax.plan', 'sslax.show', 'sslax.compare')
FOREIGN = ('kill', 'kubectl', 'mkdir', 'pip', 'xpk')  # nothing in what they are told is ours


class Wrong(Exception):
  """What is wrong with a command."""


def examine(command, scratch):
  """Checks a command as far as that takes no jax.

  Returns:
    What it comes to as words after `python -m`, in lists of which one must be right; empty: nothing is left to be checked.

  Raises:
    Wrong: says what is wrong.
  """
  if command.text.startswith('--config.'):  # an override by itself: there must be a preset for it
    return [training(f'--config=configs/{name}.py:imagenet', *shlex.split(command.text)) for name in ('simclr', 'mae', 'clip')]
  if subprocess.run(['bash', '-n'], input=command.text, text=True, capture_output=True).returncode:
    raise Wrong('bash cannot read it')
  words = [word for word in shlex.split(command.text, comments=True) if not word.endswith('=...')]
  output = scratch / words[words.index('>') + 1] if '>' in words else None
  words = words[: words.index('>')] if output else words
  while re.match('[A-Z_]+=', words[0]):
    setting(words.pop(0))
  program, *rest = [words[0].removeprefix('.venv/bin/'), *words[1:]]
  own, flags = split(rest)
  if command.prose and not any(word.startswith('-') and word != '-m' for word in rest):
    return name(program, rest, scratch)
  match program, rest:
    case 'python', ['-c', code]:
      compile(code, 'python -c', 'exec')
    case 'python', ['-m', 'pip', *_]:
      pass
    case 'python', ['-m', module, *_] if module in BINARIES:
      return [rest[1:]]
    case 'python', ['-m', 'sslax.data.train_bpe', *arguments]:
      options(arguments, 'train_bpe', 'data vocab_size out')
    case 'sslax', []:
      pass
    case 'sslax', [subcommand, *arguments] if f'sslax.{subcommand}' in BINARIES:
      return [[f'sslax.{subcommand}', *arguments]]
    case 'python', ['launch/gke/render.py', *_]:
      said = run([sys.executable, *rest], scratch)
      if output:
        output.write_text(said)
      return [training(*flags)] if flags else []
    case 'python', ['launch/local_multiprocess.py', *arguments]:
      return local_multiprocess(arguments)
    case 'bash', [script, *arguments]:
      run(['bash', '-n', exists(script)], scratch)
      if script == 'tests/run.sh':
        _, paths = options(arguments, 'pytest', 'm n')
        [exists(path) for path in paths]
      elif arguments:
        raise Wrong(f'{script} takes nothing')
    case 'launch/tpu', [subcommand, *arguments]:
      run([scratch / program, subcommand, '--dry_run', *arguments], scratch, enough='gcloud was asked')
      return [training(*flags)] if subcommand in ('run', 'watch') else []
    case 'launch/gke/xpk.sh', _:
      run([scratch / program, *rest], scratch)
      return [training(*flags)]
    case 'sbatch', _:
      _, (script, *flags) = options(rest, 'sbatch', 'nodes gres time partition account export')
      exists(script)
      return [training(*flags)] if flags else []
    case 'sky', ['jobs', *arguments]:
      return sky(arguments)
    case 'docker', _:
      return docker(rest)
    case 'papermill', _:
      return papermill(rest)
    case _ if program not in FOREIGN:
      raise Wrong(f'nothing in {pathlib.Path(__file__).name} knows {" ".join(words[:3])}: a new kind of command needs its check')
  return []


def name(program, rest, scratch):
  """A program that a sentence names without its flags."""
  if program == 'launch/tpu' and rest:
    run([scratch / program, *rest, '--help'], scratch)
  elif '/' in program:
    exists(program)
  elif rest[0] == '-m':
    exists(rest[1].replace('.', '/') + '.py')
  else:
    exists(rest[0])
  return []


def setting(text):
  """NAME=value before a command."""
  if not re.search(rf'\b{text.partition("=")[0]}\b', (ROOT / 'launch' / 'env.sh').read_text(encoding='utf-8')):
    raise Wrong(f'launch/env.sh does not read {text}')


def run(command, scratch, enough=''):
  """What a launcher prints; it must end with 0, or say that it came as far as `enough`."""
  env = {key: value for key, value in os.environ.items() if not key.startswith(('SSLAX_', 'CLOUDSDK_'))}
  env |= {'PATH': f'{scratch / "bin"}:{env["PATH"]}', 'SSLAX_HOME': str(scratch / 'home'), 'PYTHONPATH': str(ROOT)}
  done = subprocess.run(command, cwd=scratch, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
  if done.returncode and not (enough and enough in done.stdout + done.stderr):
    raise Wrong((done.stderr or done.stdout).strip()[-600:])
  return done.stdout


def split(words):
  """What stands before and after --."""
  at = words.index('--') if '--' in words else len(words)
  return words[:at], words[at + 1 :]


def training(*flags):
  """The training that a launcher starts with these flags; most add the workdir."""
  return ['sslax.train', *flags, *([] if any(word.startswith('--workdir=') for word in flags) else ['--workdir=/runs/r1'])]


def exists(path):
  if not (ROOT / path).exists():
    raise Wrong(f'there is no {path}')
  return ROOT / path


def options(words, program, known, switches=''):
  """({option: values}, the words behind the options) of a foreign program; one that is not listed must be looked up first."""
  found, words = {option: [] for option in known.split()}, list(words)
  while words and words[0].startswith('-'):
    option, equals, value = words.pop(0).lstrip('-').partition('=')
    if option in found and (equals or words):
      found[option].append(value if equals else words.pop(0))
    elif option not in switches.split():
      raise Wrong(f'{program}: is --{option} an option of it? Then add it in {pathlib.Path(__file__).name}')
  return found, words


def local_multiprocess(words):
  spec = importlib.util.spec_from_file_location('local_multiprocess', ROOT / 'launch' / 'local_multiprocess.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if words == ['--help']:
    return []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, 'argv', ['local_multiprocess.py', *words])
    try:
      return [module._arguments().command[2:]]
    except SystemExit:
      raise Wrong('launch/local_multiprocess.py refuses its flags') from None


def sky(words):
  task = yaml.safe_load((ROOT / 'launch' / 'sky' / 'sslax.yaml').read_text(encoding='utf-8'))
  if words[0] in ('logs', 'cancel'):
    found, rest = options(words[1:], f'sky jobs {words[0]}', 'name')
    if found['name'] != [task['name']] or rest:
      raise Wrong(f'the task is called {task["name"]}')
    return []
  if words[0] != 'launch':
    raise Wrong(f'nothing here knows sky jobs {words[0]}')
  exists(words[1])
  found, rest = options(words[2:], 'sky jobs launch', 'env gpus num-nodes')
  env = dict(pair.split('=', 1) for pair in found['env'])
  wanted = {key for key, value in task['envs'].items() if value is None}
  if rest or env.keys() - task['envs'].keys() or wanted - env.keys():
    raise Wrong(f'the variables of {words[1]} are {", ".join(task["envs"])}; it cannot do without {", ".join(sorted(wanted))}')
  env = task['envs'] | env
  return [training(f'--config={env["CONFIG"]}', *shlex.split(env['FLAGS']))]


def docker(words):
  match words:
    case ['build', *rest]:
      found, place = options(rest, 'docker build', 'f build-arg t')
      text = exists(found['f'][0]).read_text(encoding='utf-8')
      arguments = re.findall(r'^ARG (\w+)', text, re.MULTILINE)
      if wrong := [pair for pair in found['build-arg'] if pair.partition('=')[0] not in arguments]:
        raise Wrong(f'{found["f"][0]} has no ARG for {wrong[0]}; it has {", ".join(arguments)}')
      if place != ['.']:
        raise Wrong('the image is built from the project: .')
    case ['run', *rest]:
      _, (_, *entry) = options(rest, 'docker run', 'name v user e', 'rm')
      return [entry]  # the entry point is `python -m`
    case ['push' | 'stop', *_]:
      pass
    case _:
      raise Wrong(f'nothing here knows docker {words[0]}')
  return []


def papermill(words):
  source, *words = words
  cells = json.loads(exists(source).read_text(encoding='utf-8'))['cells']
  (parameters,) = (cell['source'] for cell in cells if 'parameters' in cell['metadata'].get('tags', []))
  values, given = {}, {}
  exec(''.join(parameters), values)
  while words:
    match words:
      case ['-p', key, value, *words] if key in values:
        given[key] = value
      case ['-p', key, *_]:
        raise Wrong(f'{source} has no parameter {key}')
      case ['--cwd', folder, *words]:
        exists(folder)
      case [out, *words] if not out.startswith('-'):
        pass
      case _:
        raise Wrong(f'nothing here knows papermill {words[0]}')
  values |= given
  steps = [f'--config.num_steps={values["STEPS"]}', '--config.num_epochs=0.0'] if int(values['STEPS']) else []
  return [training(f'--config=configs/{values["METHOD"]}.py:{values["PRESET"]}', *steps, *shlex.split(values['OVERRIDES']))]
