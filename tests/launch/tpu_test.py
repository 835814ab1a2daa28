"""launch/tpu against a gcloud that keeps pods in folders: what each command does, refuses, and leaves alone."""

import copy
import os
import pathlib
import re
import subprocess
import time

import pytest
from launch.pod import RUN, Box, script


def test_life_of_a_pod(box):
  """create, setup, run, status, logs, kill, resume, delete: each once on two hosts, and what each refuses meanwhile."""
  create = ('create', '--name=pod', '--zone=us-central1-a', '--type=v5e-8', '--spot')
  assert 'until launch/tpu delete' in box.ok(*create)
  assert 'exists: ACTIVE' in box.ok(*create) and box.count('create') == 1
  code, output = box.tpu('create', '--name=pod', '--type=v5e-16')
  assert code == 2 and 'exists as v5litepod-8' in output
  code, output = box.tpu('run', *RUN)
  assert code == 2 and 'launch/tpu setup' in output, output
  (box.project / 'unknown.py').touch()
  output = box.ok('setup', f'--python={box.python}')
  assert 'jax 0.10.2' in output and 'unknown.py' in output
  assert 'attempt 1' in box.ok('run', *RUN)
  assert 'running r1 1 joined' in box.ok('status')
  code, output = box.tpu('run', *RUN)
  assert code == 2 and 'busy' in output
  output = box.ok('logs', '--grep=^train')
  lines = sorted(line for line in output.splitlines())
  assert [line.split()[0] for line in lines] == ['w0', 'w1'] and lines[0].endswith('--config.seed=1 --workdir=/shared/r1')
  assert all(' --num_processes=2 ' in line for line in lines)  # neither trains alone
  assert {line.split()[0] for line in box.ok('logs', '--worker=1').splitlines()} == {'w1'}
  assert 'code 42' in box.ok('kill')
  code, output = box.tpu('status')
  assert code == 42 and output.count('ended r1 1 42') == 2
  assert 'attempt 2' in box.ok('run', *RUN)  # the same name goes on
  assert 'saved' in (box.host(0) / 'runs/r1/log.before').read_text()
  assert 'pod' in box.ok('ssh', '--worker=1', '--', 'echo', 'pod $HOME')
  box.ok('delete')
  assert box.cloud.resources == {} and not list(box.cloud.folder.iterdir())
  assert 'no pod' in box.tpu('delete', '--name=pod', '--zone=us-central1-a')[1]


@pytest.mark.slow
def test_two_slices_through_a_tunnel(box):
  tunnel = ('--tunnel_through_iap', '--internal_ip')
  box.create('v5e-4', '--slices=2', '--project=p', *tunnel, '--service_account=a@p', '--timeout=6h')
  box.ok('setup', f'--python={box.python}')
  box.ok('run', '--env=v5e,multislice', *RUN)
  assert len(box.ok('logs', '--grep=^train').splitlines()) == 2
  assert box.ok('logs', '--worker=s1w0', '--grep=^train').startswith('s1w0 ')
  assert 's0w0: running r1 1' in box.tpu('status')[1]
  pid = box.cloud.host(0, 'pod-1') / 'sslax/runs/r1/pid'
  environ = pathlib.Path(f'/proc/{pid.read_text().split()[0]}/environ').read_text()
  assert 'fuse_all_gather' in environ and 'abort_on_hang' in environ
  assert 'pod-1/w0' in box.ok('ssh', '--worker=s1w0', '--', 'pwd')
  assert 'alpha' in box.cloud.calls[-1]


@pytest.mark.slow
def test_buckets(box):
  """One in another region is refused; gcsfuse shows the others as folders."""
  box.make('v5e-4')
  box.cloud.buckets['gs://b'] = 'EUROPE-WEST4'
  run = ('run', '--run_id=r1', '--workdir=gs://b/r1')
  code, output = box.tpu(*run, *RUN[2:])
  assert code == 2 and 'europe-west4' in output and 'us-central1' in output, output
  assert not any('worker.sh run' in call[-1] for call in box.cloud.calls), 'refused after it was started'
  code, output = box.tpu(*run, '--allow_cross_region', *RUN[2:])
  assert code == 2 and 'gcsfuse' in output, output
  script(box.host_bin / 'gcsfuse', '#!/bin/bash\necho "$2" >"$3/mounted"\n')
  box.cloud.buckets['gs://b'] = 'US'
  box.ok(*run, *RUN[2:])
  assert (box.host(0) / 'buckets/b/mounted').read_text() == 'b\n'
  assert (box.host(0) / 'runs/r1/log').read_text().splitlines()[0].endswith(f'--workdir={box.host(0)}/buckets/b/r1')


@pytest.mark.slow
def test_secrets_are_in_no_command_and_no_log(box):
  secret = box.folder / 'secrets'
  secret.write_text('WANDB_API_KEY=canary-5f1a\n')
  box.create()
  setup = ('setup', f'--python={box.python}', f'--secrets={secret}')
  code, output = box.tpu(*setup)
  assert code == 2 and 'chmod 600' in output
  secret.chmod(0o600)
  box.ok(*setup)
  box.ok('run', *RUN)
  pid = (box.host(1) / 'runs/r1/pid').read_text().split()[0]
  assert b'WANDB_API_KEY=canary-5f1a' in pathlib.Path(f'/proc/{pid}/environ').read_bytes()
  assert b'canary' not in pathlib.Path(f'/proc/{pid}/cmdline').read_bytes()
  box.ok('kill')
  kept = box.host(1) / 'secrets.env'
  assert kept.stat().st_mode & 0o777 == 0o600
  found = subprocess.run(['grep', '-rl', 'canary-5f1a', box.folder], capture_output=True, text=True).stdout.split()
  assert {pathlib.Path(path).name for path in found} == {'secrets', 'secrets.env'}, found
  secret.unlink()
  assert box.tpu(*setup)[0] == 2


@pytest.mark.parametrize('command', ['delete', 'create', 'setup', 'kill', 'watch'])
def test_what_is_not_ours_is_left_alone(command, box):
  box.cloud.add('pod', 'SUSPENDED' if command in ('create', 'watch') else 'ACTIVE', {'sslax': 'another'})
  args = ('--type=v5e-8', '--spot') if command in ('create', 'watch') else ()
  code, output = box.tpu(command, '--name=pod', '--zone=us-central1-a', *args, *(RUN if command == 'watch' else ()))
  assert code == 2 and 'left alone' in output, output
  assert not [call for call in box.cloud.calls if 'describe' not in call]


@pytest.mark.slow
def test_dry_run_prints_what_runs(box):
  """Byte for byte, in the same order, and changes nothing; looks are taken."""
  steps = [
    ('create', '--name=pod', '--zone=us-central1-a', '--type=v5e-4', '--spot'),
    ('setup', f'--python={box.python}'),
    ('run', *RUN),
    ('kill',),
    ('delete',),
  ]
  for step in steps:
    before, log = copy.deepcopy(box.cloud.resources), box.home / 'tpu' / 'pod' / 'commands.log'
    cut = step.index('--') if '--' in step else len(step)
    command = [box.project / 'launch' / 'tpu', *step[:cut], '--dry_run', *step[cut:]]
    process = subprocess.run(command, env=box.environment(), capture_output=True, text=True)
    assert process.returncode == 0 and box.cloud.resources == before, process
    length = len(log.read_text()) if log.exists() else 0
    box.ok(*step)
    ran = log.read_text()[length:].splitlines()
    asked = ('describe', 'worker.sh\\ status')
    where = re.compile(r'/tmp/tmp\.\w+/')  # a folder of its own for each call
    expected = [where.sub('', line) for line in ran if not any(word in line for word in asked)]
    assert [where.sub('', line) for line in process.stdout.splitlines()] == expected


TYPOS = {
  'command': (['stauts'], 'status'),
  'flag': (['create', '--zoen=us-central1-a'], '--zone'),
  'switch': (['create', '--spto'], '--spot'),
  'single word': (['create', 'zone=x'], '--zone'),
  'type': (['create', '--name=a', '--zone=z', '--type=v5elite-16', '--spot'], 'v5e'),
  'name': (['create', '--name=A_b', '--zone=z'], 'lower-case'),
  'no value': (['create', '--name'], '--name='),
  'capacity': (['create', '--name=a', '--zone=z', '--type=v5e-16', '--spot', '--reserved'], '--spot --reserved'),
  'preset': (['run', '--name=a', '--zone=z', '--run_id=r', '--workdir=/x', '--env=v6', '--', '--config=c'], 'v6e'),
  'place': (['run', '--name=a', '--zone=z', '--run_id=r', '--workdir=runs/x', '--', '--config=c'], 'gs://'),
  'no config': (['run', '--name=a', '--zone=z', '--run_id=r', '--workdir=/x'], '-- --config'),
  'duration': (['create', '--name=a', '--zone=z', '--type=v5e-16', '--spot', '--timeout=6'], '6h'),
}


@pytest.mark.slow
def test_typos(tmp_path):
  """Exit 2 with what was meant, within a second each, before gcloud is asked anything."""
  box = Box(tmp_path)
  for case, (args, hint) in TYPOS.items():
    started = time.process_time() + sum(os.times()[2:4])
    code, output = box.tpu(*args)
    took = time.process_time() + sum(os.times()[2:4]) - started
    assert code == 2 and hint in output and took < 1, (case, took, output)
  assert box.cloud.calls == []
