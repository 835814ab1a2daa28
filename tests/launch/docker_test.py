"""The Dockerfile by rules of our own (there is no engine here), and its command in a folder with only what it copies."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / 'launch' / 'docker' / 'Dockerfile'


def instructions(text):
  """[(INSTRUCTION, arguments)], continued lines joined, comments left out."""
  lines = [line for line in text.splitlines() if line.strip() and not line.startswith('#')]
  return [tuple(line.split(None, 1)) for line in '\n'.join(lines).replace('\\\n', ' ').splitlines()]


def lint(text, ignored):
  """What is wrong, a line each."""
  steps, wrong = instructions(text), []
  words = [word for word, _ in steps]
  for word, rest in steps:
    if word == 'FROM' and (':' not in rest or ':latest' in rest):
      wrong.append(f'{rest} has no version')
    if word in ('ENTRYPOINT', 'CMD'):
      try:
        if json.loads(rest)[0].rpartition('/')[2] in ('sh', 'bash'):
          wrong.append(f'{word} starts a shell')
      except ValueError:
        wrong.append(f'{word} is not in exec form: SIGTERM would go to a shell')
    if word == 'ADD':
      wrong.append('ADD unpacks and downloads: COPY')
    if word == 'RUN' and 'pip install' in rest and '--no-cache-dir' not in rest:
      wrong.append('pip leaves its cache in the image')
    if word == 'RUN' and 'apt-get install' in rest and 'rm -rf /var/lib/apt/lists' not in rest:
      wrong.append('apt leaves its lists in the image')
    if word in ('ENV', 'ARG') and any(secret in rest.upper() for secret in ('TOKEN', 'KEY', 'PASSWORD', 'SECRET')):
      wrong.append(f'a secret would stay in the image: {rest}')
    if word == 'COPY':
      for source in rest.split()[:-1]:
        if not (ROOT / source).exists():
          wrong.append(f'COPY {source}: no such file')
        if f'!{source}' not in ignored.splitlines():
          wrong.append(f'COPY {source}: .dockerignore keeps it away')
  users = [rest for word, rest in steps if word == 'USER']
  if not users or not users[-1].isdigit() or users[-1] == '0' or words.index('USER') > words.index('ENTRYPOINT'):
    wrong.append('the container runs as root')
  if 'ENTRYPOINT' not in words:
    wrong.append('no ENTRYPOINT')
  install = next((i for i, (word, rest) in enumerate(steps) if word == 'RUN' and '-r requirements.txt' in rest), None)
  if install is None:
    wrong.append('requirements.txt is not what is installed')
  elif any(word == 'COPY' and 'sslax' in rest.split() for word, rest in steps[:install]):
    wrong.append('each change of the code would install everything again')
  if ignored.splitlines()[1] != '*':
    wrong.append('.dockerignore must begin with everything')
  return wrong


def files():
  ignore = DOCKERFILE.with_name('Dockerfile.dockerignore')  # BuildKit reads this name beside the Dockerfile
  return DOCKERFILE.read_text(encoding='utf-8'), ignore.read_text(encoding='utf-8')


def test_the_dockerfile_is_clean():
  assert lint(*files()) == []
  if checker := shutil.which('hadolint'):
    done = subprocess.run([checker, str(DOCKERFILE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
  'old, new',
  [
    ('3.12-slim-bookworm', 'latest'),
    ('ENTRYPOINT ["python", "-m"]', 'ENTRYPOINT python -m'),
    ('ENTRYPOINT ["python", "-m"]', 'ENTRYPOINT ["bash", "-c"]'),
    ('USER 1000', 'USER root'),
    ('USER 1000\n', ''),
    ('--no-cache-dir ', ''),
    ('-r requirements.txt', 'sslax'),
    ('COPY requirements.txt ./', 'COPY requirements.txt sslax ./sslax'),
    ('COPY configs ./configs', 'COPY presets ./configs'),
    ('COPY configs ./configs', 'COPY tests ./tests'),
    ('COPY configs', 'ADD configs'),
    ('PYTHONUNBUFFERED=1', 'HF_TOKEN=x'),
  ],
)
def test_the_rules_catch(old, new):
  text, ignored = files()
  assert old in text and lint(text.replace(old, new), ignored)


def container(folder):
  """The image's /sslax, and the command in front of which Docker puts nothing."""
  steps = instructions(files()[0])
  for word, rest in steps:
    if word == 'COPY':
      *sources, target = rest.split()
      for source in sources:
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, folder / target)
  entry = json.loads(next(rest for word, rest in steps if word == 'ENTRYPOINT'))
  assert entry[0] == 'python'
  return [sys.executable, *entry[1:]], json.loads(next(rest for word, rest in steps if word == 'CMD'))


def test_what_is_copied_is_enough(tmp_path):
  entry, command = container(tmp_path)
  env = os.environ | {'PYTHONPATH': str(tmp_path)}
  done = subprocess.run([*entry, *command], cwd=tmp_path, env=env, capture_output=True, text=True)
  assert done.returncode == 0 and '--workdir' in done.stdout, done.stderr


@pytest.mark.slow
def test_process_1_saves_on_sigterm(tmp_path):
  """In a process namespace of its own, as in a container: process 1 gets no signal that it does not handle."""
  if subprocess.run(['unshare', '--pid', '--fork', 'true'], capture_output=True).returncode:
    pytest.skip('this user may not make process namespaces')
  entry, _ = container(tmp_path)
  workdir = tmp_path / 'runs'
  env = {key: value for key, value in os.environ.items() if key != 'XLA_FLAGS'} | {
    'PYTHONPATH': str(tmp_path),
    'JAX_PLATFORMS': 'cpu',
  }
  train = ['sslax.train', '--config=configs/simclr.py:digits', f'--workdir={workdir}', '--config.online.every_steps=0']
  with (tmp_path / 'log').open('w') as log:
    outer = subprocess.Popen(['unshare', '--pid', '--fork', *entry, *train], cwd=tmp_path, env=env, stdout=log, stderr=log)
  try:
    deadline = time.time() + 300
    while not (workdir / 'metrics.jsonl').exists() or not (workdir / 'metrics.jsonl').read_text():
      assert outer.poll() is None and time.time() < deadline, (tmp_path / 'log').read_text()
      time.sleep(0.2)
    (first,) = pathlib.Path(f'/proc/{outer.pid}/task/{outer.pid}/children').read_text().split()
    os.kill(int(first), signal.SIGTERM)
    assert outer.wait(120) == 42, (tmp_path / 'log').read_text()
  finally:
    outer.kill()
  assert json.loads((workdir / 'status.json').read_text())['reason'] == 'interrupted'
