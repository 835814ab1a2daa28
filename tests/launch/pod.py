"""A pod in a box: launch/tpu with a gcloud that keeps its hosts in folders, and a Python that only pretends to train."""

import os
import pathlib
import shutil
import subprocess
import time

from launch import fake_gcloud

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUN = ('--run_id=r1', '--workdir=/shared/r1', '--', '--config=configs/simclr.py:digits', '--config.seed=1')

# What the pretended training does is the next line of plan.HOST, or of plan (the last is for ever): an exit code, hang (42 at
# SIGTERM), deaf, or preempt.
PYTHON = """#!/bin/bash
if [ "$1" = - ]; then
  cat "$BOX/versions.$HOST" 2>/dev/null || cat "$BOX/versions" 2>/dev/null || echo 'python 3.12.3, jax 0.10.2'
  exit
fi
[ -s "$BOX/plan.$HOST" ] || cp "$BOX/plan" "$BOX/plan.$HOST"
mapfile -t plan <"$BOX/plan.$HOST"
((${#plan[@]} == 1)) || printf '%s\\n' "${plan[@]:1}" >"$BOX/plan.$HOST"
echo "train $*"; echo 'devices, 2 process(es)'
case "${plan[0]}" in
  hang) trap 'echo saved; exit 42' TERM; sleep 100 & wait ;;
  deaf) trap '' TERM; sleep 100 ;;
  preempt) sleep 0.2; setsid gcloud fake preempt pod; sleep 100 ;;
  *) echo "the last line before ${plan[0]}"; exit "${plan[0]}" ;;
esac
"""

# Time as launch/tpu sees it, whose Python imports this first: a sleep moves it on at once. The little waits of `subprocess` stay.
CLOCK = """import os, pathlib, threading, time

clock, sleep = pathlib.Path(os.environ['BOX'], 'clock'), time.sleep

def moved(seconds):
  if seconds > 0.1:
    new = clock.with_name(f'clock.{threading.get_native_id()}')
    new.write_text(f'{float(clock.read_text()) + seconds:.0f}\\n')
    new.replace(clock)
  sleep(min(seconds, 0.03))

time.time, time.sleep = lambda: float(clock.read_text()), moved
"""
DATE = """#!/bin/bash
[ "$*" = +%s ] || exec /bin/date "$@"
read -r now <"$BOX/clock"; echo "$now"
"""


def script(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)
  return path


class Box:
  """Args:
  folder: where everything is.
  python: an environment for the hosts; none: one that pretends.
  files: what the project holds beside launch/ and requirements.txt.
  """

  def __init__(self, folder, python=None, files=(), real_time=False):
    self.folder, self.home, self.project = folder, folder / 'home', folder / 'project'
    ignored = shutil.ignore_patterns('__pycache__')
    for name in ('launch', 'requirements.txt', *files):
      (self.project / name).parent.mkdir(parents=True, exist_ok=True)
      if (ROOT / name).is_dir():
        shutil.copytree(ROOT / name, self.project / name, ignore=ignored)
      else:
        shutil.copy(ROOT / name, self.project / name)
    for words in (('init', '-q'), ('add', '-A')):
      subprocess.run(['git', *words], cwd=self.project, check=True)
    fake_gcloud.install(folder / 'bin')
    self.site = folder / 'site'
    if not real_time:
      script(self.site / 'sitecustomize.py', CLOCK)
    self.python = python or script(folder / 'venv' / 'bin' / 'python', PYTHON).parents[1]
    (folder / 'clock').write_text('1000\n')
    self.plan('hang')
    self.cloud = fake_gcloud.Cloud(folder / 'pods')
    self.host_bin = folder / 'host_bin'
    fake_gcloud.install(self.host_bin)
    self.cloud.path = f'{self.host_bin}:/usr/bin:/bin'
    self.cloud.env = {'BOX': str(folder)}

  def environment(self, **more):
    env = {k: v for k, v in os.environ.items() if not k.startswith(('SSLAX_', 'CLOUDSDK_', 'JAX_', 'XLA_'))}
    ours = {'BOX': self.folder, 'FAKE_GCLOUD': self.cloud.port, 'SSLAX_HOME': self.home}
    ours |= {'PATH': f'{self.folder / "bin"}:{env["PATH"]}', 'PYTHONPATH': self.site}
    return {**env, **{k: str(v) for k, v in ours.items()}, **more}

  def start(self, *args, **more):
    return subprocess.Popen(
      [self.project / 'launch' / 'tpu', *map(str, args)], cwd=self.folder, env=self.environment(**more),
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip

  def tpu(self, *args, timeout=120, **more):
    """(exit code, output) of launch/tpu ARGS."""
    process = self.start(*args, **more)
    try:
      output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
      process.kill()
      raise AssertionError(f'launch/tpu {args} takes more than {timeout} s: {process.communicate()[0]}') from None
    return process.returncode, output

  def ok(self, *args, **more):
    code, output = self.tpu(*args, **more)
    assert code == 0, f'launch/tpu {args}: {code}\n{output}'
    return output

  def create(self, type='v5e-8', *args):
    return self.ok('create', '--name=pod', '--zone=us-central1-a', f'--type={type}', '--spot', *args)

  def make(self, type='v5e-8'):
    """create and setup."""
    self.create(type)
    self.ok('setup', f'--python={self.python}')

  def faults(self, *entries):
    self.cloud.faults = list(entries)

  def plan(self, *words, host=None):
    (self.folder / ('plan' if host is None else f'plan.w{host}')).write_text('\n'.join(words) + '\n')

  def count(self, word):
    return sum(word in call for call in self.cloud.calls)

  def host(self, number):
    return self.cloud.host(number) / 'sslax'

  def close(self):
    self.cloud.close()


def wait_for(condition, seconds=60, every=0.05):
  """The first true value of condition(); AssertionError after `seconds`."""
  deadline = time.time() + seconds
  while time.time() < deadline:
    value = condition()
    if value:
      return value
    time.sleep(every)
  raise AssertionError(f'not within {seconds} s')
