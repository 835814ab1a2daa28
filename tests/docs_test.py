"""Every command that the documents and the presets show is given to something that knows it, and every link leads somewhere.

Commands of sslax are given to the binaries themselves, which end before data is read or anything is compiled; launchers run dry,
beside a gcloud and an xpk that answer at once. Of foreign programs (sbatch, sky, docker, papermill), what refers to this project
is checked. A program that nothing here knows is a mistake, too: a new kind of command needs a new check.
"""

import ast
import gc
import importlib
import importlib.util
import json
import os
import pathlib
import pkgutil
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import types
from typing import NamedTuple

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = [ROOT / 'README.md', *sorted(ROOT.glob('docs/*.md'))]
PRESETS = sorted(ROOT.glob('configs/*.py'))
BINARIES = ('sslax.train', 'sslax.evaluate', 'sslax.plan', 'sslax.show', 'sslax.compare')
FOREIGN = ('kill', 'kubectl', 'mkdir', 'xpk')  # nothing in what they are told is ours

BEGINNING = r'(\.venv/bin/)?(python|papermill) |launch/|bash |sbatch |sky '  # of a command among prose
GCLOUD = """#!/bin/bash
case "$*" in
  *'queued-resources describe'*) echo ACTIVE,pod,v5litepod-16 ;;
  *'tpu-vm describe'*) echo 'READY,10.0.0.1;10.0.0.2' ;;
  *'buckets describe'*) echo US-CENTRAL1 ;;
  *) echo 'PERMISSION_DENIED: gcloud was asked' >&2; exit 1 ;;
esac
"""


class Wrong(Exception):
  """What is wrong with a command."""


class Command(NamedTuple):
  line: int
  text: str
  prose: bool  # between backquotes in a sentence, where a name may stand alone


# What is shown


def commands(path):
  """All commands of a document, or of the docstrings of a file of presets."""
  text = path.read_text(encoding='utf-8')
  if path.suffix == '.py':
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Module | ast.FunctionDef)]
    shown = [(node.body[0].lineno, (ast.get_docstring(node, clean=False) or '').splitlines()) for node in nodes]
    found = [
      Command(first + n - 1, line, False) for first, lines in shown for n, line in joined(lines) if re.match(BEGINNING, line)
    ]
    return sorted(found)
  language, fenced, found = None, [], []
  for n, line in enumerate(text.splitlines(), 1):
    if line.startswith('```'):
      language, line = (None if language is not None else line[3:]), ''
    fenced.append(line if language == 'bash' else '')
    codes = re.findall(r'`([^`]+)`', line) if language is None else []
    found += [Command(n, code, True) for code in codes if re.match(rf'{BEGINNING}|--config\.', code)]
  return sorted([*found, *(Command(n, line, False) for n, line in joined(fenced))])


def joined(lines):
  """(number of its first line, text) of each command; a backslash continues a line."""
  text, first = '', 0
  for n, line in enumerate(lines, 1):
    first = first if text else n
    text += line.strip()
    if text.endswith('\\'):
      text = text[:-1]
    else:
      if text and not text.startswith('#'):
        yield first, text
      text = ''


# Who knows what


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
    case 'python', ['launch/gke/render.py', *_]:
      said = run([sys.executable, *rest], scratch)
      if output:
        output.write_text(said)
      return [training(*flags)] if flags else []
    case 'python', ['launch/local_multiprocess.py', *arguments]:
      return local_multiprocess(arguments)
    case 'bash', [script]:
      run(['bash', '-n', exists(script)], scratch)
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


# The binaries themselves, in a process of its own


def judge(asked):
  """What each command of sslax says when it ends badly, or ''; each is run by a fork, which ends where data would be read."""
  from sslax import comparison, evaluator, protocols  # noqa: F401
  from sslax.data import pipeline, sources
  from sslax.errors import UserError
  from sslax.evals import online, pretext, prompts  # noqa: F401
  from sslax.run import cli, loop, planning, topology
  from sslax.run import config as configs
  from sslax.spec import build

  def good():
    os._exit(0)

  def open_source(uri):
    if uri.partition(':')[0] not in sources.names():
      raise UserError(f'no such scheme: {uri}')
    return types.SimpleNamespace(num_classes=10)

  def prepare(config, _=None, devices=1):
    configs.check(config, devices)
    loop.build_method(config)
    build(config.optim, 'config.optim')
    for uri in filter(None, (config.data.train, config.data.test)):
      open_source(uri)
    good()

  def study(config, topologies, **_):
    for place in topologies:
      devices = place.chips * topology.CHIPS[place.chip].devices if place else 1
      slices = place.slices if place else 1
      if devices % (config.mesh.fsdp * slices):
        raise UserError(f'{devices} devices are not a multiple of config.mesh.fsdp={config.mesh.fsdp} x {slices} slices')
      configs.check(config, devices)
    prepare(config, devices=devices)

  def evaluation(_, templates, **__):
    if templates and templates not in prompts.TEMPLATES:
      raise UserError(f'--templates={templates}')
    good()

  cli.start_jax = lambda: None
  loop.prepare, planning.study, evaluator.Evaluation = prepare, study, evaluation
  comparison.plan.open_source = sources.open_source = open_source
  comparison.run.prepare = prepare
  pipeline.check = lambda *_: good()
  methods = importlib.import_module('sslax.methods')
  for module in pkgutil.iter_modules(methods.__path__):  # once, not in each fork
    importlib.import_module(f'sslax.methods.{module.name}')
  gc.collect()
  gc.freeze()  # so that a fork shares what it only reads
  return [forked(words) for words in asked]


def forked(words):
  read, write = os.pipe()
  if pid := os.fork():
    os.close(write)
    with open(read, encoding='utf-8') as pipe:
      said = pipe.read()
    return (said or 'no word') if os.waitpid(pid, 0)[1] else ''
  try:
    signal.alarm(60)
    os.dup2(write, 1), os.dup2(write, 2)
    dry = ['--dry_run'] if words[0] in ('sslax.train', 'sslax.compare') else []  # they make the workdir otherwise
    sys.argv = [*words, *dry]
    runpy.run_module(words[0], run_name='__main__')
  except SystemExit as stop:
    sys.stdout.flush()
    os._exit(stop.code)
  finally:
    os._exit(1)


if __name__ == '__main__':
  print(json.dumps(judge(json.load(sys.stdin))))


# The tests


@pytest.fixture(scope='module')
def scratch(tmp_path_factory):
  """A folder to run commands in: nothing that they write, and no earlier run, is in the project."""
  folder = tmp_path_factory.mktemp('docs')
  shutil.copytree(ROOT / 'launch', folder / 'launch', ignore=shutil.ignore_patterns('__pycache__'))
  shutil.copy(ROOT / 'requirements.txt', folder)
  for words in (('init', '-q'), ('add', '-A')):  # launch/tpu sends what git tracks
    subprocess.run(['git', *words], cwd=folder, check=True)
  (folder / 'configs').symlink_to(ROOT / 'configs')
  for name, text in (('gcloud', GCLOUD), ('xpk', '#!/bin/bash\n')):
    (folder / 'bin').mkdir(exist_ok=True)
    (folder / 'bin' / name).write_text(text)
    (folder / 'bin' / name).chmod(0o755)
  (folder / 'home' / 'tpu' / 'pod').mkdir(parents=True)
  (folder / 'home' / 'tpu' / 'pod' / 'pod').write_text('zone=us-central1-a\ntype=v5litepod-16\nspot=1\n')
  (folder / 'FILE').touch(mode=0o600)
  return folder


# What is wrong, and a word that must say so.
PLANTED = {
  'python -m sslax.train --config=configs/simclr.py:digits --workdri=runs/a': 'workdir',
  'python -m sslax.train --config=configs/simclr.py:digist --workdir=runs/a': 'digits',
  'python -m sslax.train --config=configs/simcrl.py:digits --workdir=runs/a': 'configs/simclr.py',
  'python -m sslax.train --config=configs/simclr.py:digits': '--workdir is missing',
  'python -m sslax.train --config=configs/simclr.py:digits --workdir=runs/a --config.method.temprature=0.2': 'temperature',
  'python -m sslax.train --config=configs/simclr.py:digits --workdir=runs/a --config.batch_size=many': 'batch_size',
  'python -m sslax.train --config=configs/simclr.py:digits --workdir=runs/a --config.microbatches=7': 'microbatches=7',
  'python -m sslax.train --config=configs/simclr.py:digits --workdir=runs/a --config.data.train=foldr:/data': 'foldr',
  'python -m sslax.evaluate --workdir=runs/a --probes=knn,liner': 'linear',
  'python -m sslax.plan --config=configs/mae.py:imagenet --topology=v5:4x4': 'v5e:4x4',
  'python -m sslax.plan --config=configs/mae.py:imagenet --topology=v5e:4x4 --config.mesh.fsdp=32': 'mesh.fsdp',
  'python -m sslax.compare --config=configs/compare.py:digits --workdir=runs/a --methods=simcrl': 'simcrl',
  'python -m sslax.shwo --config=configs/simclr.py:digits': 'sslax.shwo',
  'python launch/local_multiprocess.py --proceses=2 -- --config=configs/simclr.py:digits --workdir=runs/a': 'refuses',
  'python launch/local_multiprocess.py -- --config=configs/simclr.py:digist --workdir=runs/a': 'digits',
  'python launch/gke/render.py --name=r1 --type=v5e:4x5 --image=a:1 --bucket=my-b -- --config=configs/simclr.py:digits': 'v5e',
  'launch/gke/xpk.sh --name=r1 --clutser=c --type=v5p-8 --image=a:1 --workdir=/r -- --config=configs/mae.py:digits': '--cluster',
  'launch/tpu create --name=pod --zone=us-central1-a --type=v5litepod-16 --spto': '--spot',
  'launch/tpu crate --name=pod': 'create',
  'launch/tpu logs --lines=few': '--lines=few',
  'launch/tpu run --run_id=r1 --workdir=gs://B/r1 -- --config=configs/simclr.py:imagent': 'imagenet',
  'launch/tup status': 'launch/tup',
  'bash tests/runn.sh': 'tests/runn.sh',
  'SSLAX_JX=cpu bash tests/run.sh': 'SSLAX_JX',
  'sbatch --nodes=4 launch/slurm/slax.sbatch --config=configs/simclr.py:digits': 'slax.sbatch',
  'sbatch --node=4 launch/slurm/sslax.sbatch --config=configs/simclr.py:digits': '--node',
  'sky jobs launch launch/sky/sslax.yaml --env RUN=r1 --env BUKET=gs://b': 'BUCKET',
  'docker build -f launch/docker/Dockerfile --build-arg JX=jax -t a:1 .': 'JAX',
  'docker run --rm a:1 sslax.train --config=configs/simclr.py:digist --workdir=/runs': 'digits',
  'papermill launch/colab/sslax.ipynb out.ipynb -p METOD mae': 'METOD',
  'papermill launch/colab/sslax.ipynb out.ipynb -p METHOD mea': 'configs/mae.py',
  'helm install sslax': 'helm',
  'kill "$(cat pid)': 'bash',
  '--config.method.temprature=0.1': 'temperature',
}


@pytest.fixture(scope='module')
def verdicts(scratch):
  """{(file, command): what is wrong with it, or ''} of all files at once: jax is imported once."""
  shown = [(path, command) for path in DOCS + PRESETS for command in commands(path)]
  shown += [(None, Command(0, text, text.startswith('--config.'))) for text in PLANTED]
  said, left = {}, {}
  for where in shown:
    try:
      left[where] = examine(where[1], scratch)
      said[where] = ''
    except Wrong as wrong:
      said[where] = str(wrong)
  asked = list(dict.fromkeys(tuple(words) for several in left.values() for words in several))
  done = subprocess.run(
    [sys.executable, __file__], input=json.dumps(asked), cwd=scratch, env=os.environ | {'PYTHONPATH': str(ROOT)},
    capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-3000:]
  answers = dict(zip(asked, json.loads(done.stdout), strict=True))
  for where, several in left.items():
    if several and all(answers[tuple(words)] for words in several):
      said[where] = answers[tuple(several[0])]
  return said


@pytest.mark.parametrize('path', DOCS + PRESETS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_command_is_right(path, verdicts):
  wrong = [
    f'{path.relative_to(ROOT)}:{command.line}: {command.text}\n  {verdicts[path, command].strip()}'
    for command in commands(path)
    if verdicts[path, command]
  ]
  assert not wrong, '\n'.join(wrong)


def test_presets_show_commands():
  assert all(len(commands(path)) >= 2 for path in PRESETS) and sum(len(commands(path)) for path in DOCS) >= 60


@pytest.mark.parametrize('text', PLANTED)
def test_mistakes_are_found(text, verdicts):
  (said,) = (said for (path, command), said in verdicts.items() if path is None and command.text == text)
  assert PLANTED[text] in said, said


def test_a_workdir_has_one_config():
  """Another one would be refused there."""
  shown = [command.text for path in DOCS + PRESETS for command in commands(path)]
  pairs = [(re.search(r'--workdir=(\S+)', text), re.search(r'--config=(\S+)', text)) for text in shown]
  configs = {}
  for workdir, config in {(workdir[1], config[1]) for workdir, config in pairs if workdir and config}:
    configs.setdefault(workdir, []).append(config)
  assert not {workdir: several for workdir, several in configs.items() if len(several) > 1}


def dead(path, text):
  """Links and names of files in a document that lead nowhere; x is any name."""
  links = [(path.parent, link.partition('#')[0]) for link in re.findall(r'\]\(([^)\s]+)\)', text) if '://' not in link]
  names = re.findall(r'`((?:sslax|configs|launch|docs|tests|benchmarks)/[\w./-]*\w)`', text)
  places = [*links, *((ROOT, name) for name in names if not re.search(r'/x(_test)?\.py$', name))]
  return [place for folder, place in places if place and not (folder / place).exists()]


@pytest.mark.parametrize('path', [*DOCS, ROOT / 'benchmarks' / 'RESULTS.md'], ids=lambda p: p.name)
def test_links(path):
  assert dead(path, path.read_text(encoding='utf-8')) == []


def test_dead_links_are_found():
  text = '[a](docs/scaling.md#mesh) [b](docs/scalling.md) `launch/tpu` `launch/tup` [c](https://example.org/x)'
  assert dead(ROOT / 'README.md', text) == ['docs/scalling.md', 'launch/tup']
