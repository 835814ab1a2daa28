"""SkyPilot: its own parser where it is installed (slow), and the two scripts of the YAML by bash."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
import yaml

from sslax import errors

ROOT = pathlib.Path(__file__).resolve().parents[2]
TASK = ROOT / 'launch' / 'sky' / 'sslax.yaml'


@pytest.fixture
def task():
  return yaml.safe_load(TASK.read_text(encoding='utf-8'))


def test_exit_codes_and_checkpoints(task):
  recovery = task['resources']['job_recovery']
  assert recovery['recover_on_exit_codes'] == [errors.INTERRUPTED, errors.STALLED]
  assert recovery['max_restarts_on_errors'] == 0  # whatever is not in the list
  (mount,) = task['file_mounts'].items()
  assert mount == ('/checkpoints', {'source': '${BUCKET}', 'mode': 'MOUNT'})
  assert {name for name, value in task['envs'].items() if value is None} == {'RUN', 'BUCKET'}
  assert (ROOT / task['envs']['CONFIG'].partition(':')[0]).is_file()


@pytest.mark.parametrize('script', ['setup', 'run'])
def test_scripts_are_strict_and_clean(task, script, tmp_path):
  assert task[script].startswith('set -euo pipefail\n')
  path = tmp_path / f'{script}.sh'
  path.write_text('#!/usr/bin/env bash\n' + task[script])
  assert subprocess.run(['bash', '-n', str(path)]).returncode == 0
  if checker := shutil.which('shellcheck'):
    done = subprocess.run([checker, '--severity=style', str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def start(task, folder, **env):
  """The `run` script beside a Python that says how it was called and waits for SIGTERM."""
  (folder / '.venv' / 'bin').mkdir(parents=True)
  fake = folder / '.venv' / 'bin' / 'python'
  fake.write_text(
    f'#!/usr/bin/env -S "{sys.executable}"\n'
    'import os, signal, sys\n'
    'signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))\n'
    'print(sys.argv[1:], {k: v for k, v in sorted(os.environ.items()) if k.startswith("SSLAX_")}, os.getpid(), flush=True)\n'
    'signal.pause()\n'
  )
  fake.chmod(0o755)
  node = {'SKYPILOT_NUM_NODES': '1', 'SKYPILOT_NODE_RANK': '0', 'SKYPILOT_NODE_IPS': '10.0.0.1'}
  envs = {key: value for key, value in task['envs'].items() if value is not None} | {'RUN': 'r1', 'BUCKET': 'gs://b'}
  environ = {key: value for key, value in os.environ.items() if not key.startswith('SSLAX_')}
  (folder / 'run.sh').write_text(task['run'])  # a file, as SkyPilot has it: given as -c, bash replaces itself by the last command
  return subprocess.Popen(['bash', 'run.sh'], cwd=folder, env=environ | envs | node | env, stdout=subprocess.PIPE, text=True)


def test_sigterm_reaches_python_and_42_comes_back(task, tmp_path):
  process = start(task, tmp_path, FLAGS='--config.seed=1 --config.batch_size=64')
  said = process.stdout.readline()
  process.send_signal(signal.SIGTERM)
  assert process.wait(20) == 42
  assert "'--workdir=/checkpoints/r1', '--config.seed=1', '--config.batch_size=64']" in said
  assert str(process.pid) in said and 'SSLAX_COORDINATOR' not in said


def test_nodes_with_gpus_find_each_other(task, tmp_path):
  nodes = {'SKYPILOT_NUM_NODES': '2', 'SKYPILOT_NODE_RANK': '1', 'SKYPILOT_NODE_IPS': '10.0.0.1\n10.0.0.2'}
  process = start(task, tmp_path, SSLAX_JAX='cuda13', **nodes)
  said = process.stdout.readline()
  process.terminate()
  process.wait(20)
  assert "'SSLAX_COORDINATOR': '10.0.0.1:8476'" in said
  assert "'SSLAX_NUM_PROCESSES': '2', 'SSLAX_PROCESS_ID': '1'" in said


def python_with_sky():
  """This Python, or that of the `sky` on the PATH, which wants an environment of its own; None: neither."""
  sky = shutil.which('sky')
  beside = [pathlib.Path(sky).read_text().splitlines()[0].removeprefix('#!')] if sky else []
  found = 'import importlib.util as u, sys; sys.exit(not u.find_spec("sky"))'
  return next((python for python in (sys.executable, *beside) if subprocess.run([python, '-c', found]).returncode == 0), None)


@pytest.mark.slow
def test_skypilot_accepts_the_task(task, tmp_path):
  """In a process of its own, with a home of its own: importing sky takes seconds and writes there."""
  python = python_with_sky()
  if python is None:
    pytest.skip('skypilot is not installed')
  program = (
    'import sys, yaml, sky\n'
    'config = yaml.safe_load(open(sys.argv[1]))\n'
    'task = sky.Task.from_yaml_config(config, [("RUN", "r1"), ("BUCKET", "gs://my-bucket")])\n'
    'resources = next(iter(task.resources))\n'
    'print(resources.accelerators, resources.use_spot, resources.job_recovery)\n'
  )

  def parsed(config):
    path = tmp_path / 'task.yaml'
    path.write_text(yaml.safe_dump(config))
    done = subprocess.run(
      [python, '-c', program, str(path)],
      capture_output=True,
      text=True,
      env=os.environ | {'HOME': str(tmp_path)},
      cwd=ROOT,
    )
    return done.returncode, done.stdout + done.stderr

  code, said = parsed(task)
  assert code == 0 and 'tpu-v6e-8' in said and "'recover_on_exit_codes': [42, 170]" in said, said
  task['resources']['job_recover'] = task['resources'].pop('job_recovery')  # further inside it takes any key
  code, said = parsed(task)
  assert code != 0 and 'job_recovery' in said
