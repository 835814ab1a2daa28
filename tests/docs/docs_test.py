"""Every command that the documents and the presets show is given to something that knows it, and every link leads somewhere."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from docs.launchers import Wrong, examine
from docs.shown import DOCS, PRESETS, ROOT, Command, commands

from docs import judge

GCLOUD = """#!/bin/bash
case "$*" in
  *'queued-resources describe'*) echo ACTIVE,pod,v5litepod-16 ;;
  *'tpu-vm describe'*) echo 'READY,10.0.0.1;10.0.0.2' ;;
  *'buckets describe'*) echo US-CENTRAL1 ;;
  *) echo 'PERMISSION_DENIED: gcloud was asked' >&2; exit 1 ;;
esac
"""


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
  'sslax evaluate --workdir=runs/a --probes=knn,liner': 'linear',
  'sslax train --config=simcrl:digits --workdir=runs/a': 'simclr',
  'sslax trian --config=simclr:digits --workdir=runs/a': 'sslax trian',
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
  'bash tests/run.sh tests/methods/mea_test.py': 'mea_test.py',
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
    [sys.executable, judge.__file__], input=json.dumps(asked), cwd=scratch, env=os.environ | {'PYTHONPATH': str(ROOT)},
    capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-3000:]
  answers = dict(zip(asked, json.loads(done.stdout), strict=True))
  for where, several in left.items():
    if several and all(answers[tuple(words)] for words in several):
      said[where] = answers[tuple(several[0])]
  return said


@pytest.mark.parametrize('path', DOCS + PRESETS, ids=lambda p: p.relative_to(ROOT).as_posix())
@pytest.mark.slow
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
  for workdir, config in {(workdir[1], named(config[1])) for workdir, config in pairs if workdir and config}:
    configs.setdefault(workdir, []).append(config)
  assert not {workdir: several for workdir, several in configs.items() if len(several) > 1}


def named(config):
  """'simclr:digits' for configs/simclr.py:digits, too."""
  return config.removeprefix('configs/').replace('.py', '')


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
