"""A pod in a box: launch/tpu with a gcloud that keeps its hosts in folders, and a Python that only pretends to train."""

import json
import os
import pathlib
import shutil
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
GCLOUD = ROOT / 'tests' / 'launch' / 'fake_gcloud.py'

# What the pretended training does is the next line of plan.HOST, or of plan: an exit code, hang (42 at SIGTERM), deaf, or preempt.
PYTHON = """#!/bin/bash
if [ "$1" = - ]; then cat "$FAKE_GCLOUD/versions.${FAKE_HOST##*/}" 2>/dev/null || echo 'python 3.12.3, jax 0.10.2'; exit; fi
plan="$FAKE_GCLOUD/plan.${FAKE_HOST##*/}"
[ -s "$plan" ] || { cp "$FAKE_GCLOUD/plan" "$plan"; }
read -r word <"$plan"; sed -i 1d "$plan"
echo "train $*"; echo "devices, 2 process(es)"
case "$word" in
  hang) trap 'echo saved; exit 42' TERM; while :; do sleep 0.05; done ;;
  deaf) trap '' TERM; while :; do sleep 0.05; done ;;
  preempt) setsid gcloud fake preempt "$POD"; sleep 60 ;;
  *) echo "the last line before $word"; exit "$word" ;;
esac
"""

# Time as launch/tpu sees it: a sleep moves it on at once.
SLEEP = """#!/bin/bash
read -r now <"$FAKE_GCLOUD/clock"; echo $((now + $1)) >"$FAKE_GCLOUD/clock"; exec /bin/sleep 0.03
"""
DATE = """#!/bin/bash
[ "$*" = +%s ] || exec /bin/date "$@"
cat "$FAKE_GCLOUD/clock"
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
    self.folder, self.cloud, self.home = folder, folder / 'cloud', folder / 'home'
    self.project = folder / 'project'
    self.cloud.mkdir(parents=True)
    for name in ('launch', *files):
      copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
      (self.project / name).parent.mkdir(parents=True, exist_ok=True)
      copy(ROOT / name, self.project / name, **({'ignore': shutil.ignore_patterns('__pycache__')} if copy is shutil.copytree else {}))
    shutil.copy(ROOT / 'requirements.txt', self.project)
    for words in (('init', '-q'), ('add', '-A')):
      subprocess.run(['git', *words], cwd=self.project, check=True)
    binaries = folder / 'bin'
    script(binaries / 'gcloud', f'#!/bin/bash\nexec {GCLOUD} "$@"\n')
    if not real_time:
      script(binaries / 'sleep', SLEEP)
      script(binaries / 'date', DATE)
    self.python = python or script(folder / 'venv' / 'bin' / 'python', PYTHON).parents[1]
    self.hosts_path = script(folder / 'hostbin' / 'gcloud', f'#!/bin/bash\nexec {GCLOUD} "$@"\n').parent
    (self.cloud / 'clock').write_text('1000\n')
    self.set(path=f'{self.hosts_path}:/usr/bin:/bin', env={'POD': 'pod'})
    self.plan('hang')

  def environment(self, **more):
    env = {k: v for k, v in os.environ.items() if not k.startswith(('SSLAX_', 'CLOUDSDK_', 'JAX_', 'XLA_'))}
    path = f'{self.folder / "bin"}:{os.environ["PATH"]}'
    return {**env, 'FAKE_GCLOUD': str(self.cloud), 'SSLAX_HOME': str(self.home), 'PATH': path, **more}

  def start(self, *args, **more):
    return subprocess.Popen(
      [self.project / 'launch' / 'tpu', *map(str, args)],
      cwd=self.folder,
      env=self.environment(**more),
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  def tpu(self, *args, timeout=60, **more):
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

  def make(self, type='v5litepod-8', name='pod'):
    """create and setup."""
    self.ok('create', f'--name={name}', '--zone=us-central1-a', f'--type={type}', '--spot')
    self.ok('setup', f'--name={name}', f'--python={self.python}')

  def state(self):
    return json.loads((self.cloud / 'state.json').read_text())

  def set(self, **values):
    path = self.cloud / 'state.json'
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **values}))

  def foreign(self, name, state='ACTIVE', labels=None):
    """A queued resource that somebody else made."""
    resources = self.state().get('resources', {})
    nodes = {name: {'state': 'READY', 'hosts': 1}}
    self.set(resources={**resources, name: dict(state=state, later=[], labels=labels or {}, type='v5litepod-8', nodes=nodes)})

  def faults(self, *entries):
    self.set(faults=list(entries))

  def plan(self, *words, host=None):
    (self.cloud / (f'plan.w{host}' if host is not None else 'plan')).write_text('\n'.join(words) + '\n')

  def calls(self):
    path = self.cloud / 'calls.jsonl'
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

  def count(self, *words):
    return sum(all(word in call for word in words) for call in self.calls())

  def host(self, number, node='pod'):
    return self.cloud / 'pods' / node / f'w{number}' / 'sslax'

  def preempt(self, name='pod'):
    subprocess.run([GCLOUD, 'fake', 'preempt', name], env=self.environment(), check=True)

  def close(self):
    """Ends what still runs on the hosts, by its recorded pid."""
    for name in list(self.state().get('resources', {})):
      self.preempt(name)


def wait_for(condition, seconds=60, every=0.05):
  """The first true value of condition(); AssertionError after `seconds`."""
  deadline = time.time() + seconds
  while time.time() < deadline:
    value = condition()
    if value:
      return value
    time.sleep(every)
  raise AssertionError(f'not within {seconds} s')
