"""The pod in a box: launch/tpu drives four hosts of this machine, which find each other as a TPU pod does, and really train."""

import json
import os
import re
import sys
import threading
import time

import pytest
from launch.fake_gcloud import free_port
from launch.pod import Box, wait_for
from run.trainer import environment, lines, start, status

STEPS, EVERY = 200, 5  # longer than the questions asked while it runs
HOSTS = 4
CONFIG = ('--config=tests/run/tiny_config.py', f'--config.num_steps={STEPS}')
FAST = {'SSLAX_POLL': '1', 'SSLAX_BACKOFF': '1', 'SSLAX_BACKOFF_MAX': '2'}


@pytest.fixture
def box(tmp_path):
  box = Box(tmp_path, sys.prefix, ('sslax', 'configs', 'tests/run/tiny_config.py'), real_time=True)
  host = environment()
  box.cloud.env |= {key: host[key] for key in ('JAX_PLATFORMS', 'XLA_FLAGS', 'JAX_COMPILATION_CACHE_DIR')}
  box.cloud.join = True
  yield box
  box.close()


@pytest.fixture(scope='module')
def direct(tmp_path_factory):
  """The same four processes without launch/tpu, and told of each other."""
  workdir = tmp_path_factory.mktemp('direct')
  for _ in range(5):
    port = free_port()
    said = [
      dict(SSLAX_COORDINATOR=f'127.0.0.1:{port}', SSLAX_NUM_PROCESSES=str(HOSTS), SSLAX_PROCESS_ID=str(i)) for i in range(HOSTS)
    ]
    processes = [start('train', *CONFIG, f'--workdir={workdir}', **env) for env in said]
    output = ''.join(process.communicate(timeout=300)[0] for process in processes)
    if not any(process.returncode == 170 for process in processes):
      break  # on a busy machine gloo may lose patience with its peers, which is what 170 is for
  assert not any(process.returncode for process in processes), output
  return workdir


def same_run(a, b):
  assert (a / 'metrics.jsonl').read_bytes() == (b / 'metrics.jsonl').read_bytes()
  assert status(a)['state_hash'] == status(b)['state_hash']


def last_step(workdir):
  return (
    int(([0, *re.findall(r'"step": (\d+)', (workdir / 'metrics.jsonl').read_text())])[-1])
    if (workdir / 'metrics.jsonl').exists()
    else 0
  )


@pytest.mark.drill
def test_a_pod_lives(box, direct, tmp_path):
  """create, setup, run, logs, kill, resume, delete; the curve is bitwise that of a direct run."""
  workdir = tmp_path / 'shared'
  run = ('run', '--run_id=r1', f'--workdir={workdir}', '--', *CONFIG)
  box.create('v5e-16')
  assert 'jax 0.' in box.ok('setup', f'--python={sys.prefix}')
  for _ in range(5):
    box.ok(*run, timeout=300)
    wait_for(lambda: last_step(workdir) >= 8 or 'ended' in box.tpu('status')[1], 200, every=0.5)
    if last_step(workdir) >= 8:
      break
  assert all('worker-network-endpoints' in server.asked for server in box.cloud.node('pod')['metadata'])
  code, output = box.tpu('run', *run[1:])
  assert code == 2 and 'busy' in output
  output = box.ok('kill', timeout=120)
  assert output.count('ended in order, code 42') == HOSTS, output
  assert box.tpu('status')[0] == 42
  stopped = status(workdir)
  assert stopped['reason'] == 'interrupted' and 8 <= stopped['step'] < STEPS, stopped
  for _ in range(5):
    code, output = box.tpu('run', '--wait', *run[1:], timeout=300, **FAST)
    if code != 170:
      break
  assert code == 0, output
  output = box.ok('logs', '--grep=resuming')
  assert sorted(output.splitlines()) == [f'w{i} resuming at step {stopped["step"]} of {STEPS}' for i in range(HOSTS)]
  box.ok('delete')
  assert box.cloud.resources == {}
  same_run(workdir, direct)


@pytest.mark.drill
def test_five_preemptions_of_real_training(box, direct, tmp_path):
  """Each is recovered, at most the steps since the last save are done twice, nothing is left over, and the curve is the same."""
  workdir = tmp_path / 'shared'
  box.cloud.add('pod-2', 'ACTIVE', {})
  pod = ('--name=pod', '--zone=us-central1-a', '--type=v5e-16', '--spot', f'--python={sys.prefix}')
  args = (*pod, '--run_id=r1', f'--workdir={workdir}', '--delete_when_done', '--', *CONFIG)
  watch = box.start('watch', *args, **FAST)
  output = []
  reader = threading.Thread(target=lambda: output.extend(watch.stdout))
  reader.start()
  lost = []
  for strike in range(5):
    wait_for(lambda at=5 * strike + 3: last_step(workdir) >= at or watch.poll() is not None, 300)
    box.cloud.preempt('pod')
    reached = last_step(workdir)
    lost.append(reached - (status(workdir)['last_checkpoint'] or 0))
  assert watch.wait(400) == 0, ''.join(output)
  reader.join()
  assert box.count('delete') == box.count('create') == 6 and set(box.cloud.resources) == {'pod-2'}
  assert not [call for call in box.cloud.calls if 'pod-2' in call]
  assert max(lost) <= 2 * EVERY, lost  # a checkpoint in the making when the hosts vanish does not count
  assert [line['step'] for line in lines(workdir)] == list(range(1, STEPS + 1))
  same_run(workdir, direct)
  print(json.dumps({'restarts': ''.join(output).count('restart '), 'steps done twice': lost}), os.cpu_count())


@pytest.mark.drill
def test_a_host_that_finds_nobody_does_not_train_alone(box, tmp_path):
  """Its metadata server is silent: it asks for a restart, the others are stopped, and nothing was written."""
  box.create('v5e-8')
  box.ok('setup', f'--python={sys.prefix}')
  silent = box.cloud.node('pod')['metadata'][1]
  silent.close()
  pod = ('--name=pod', '--zone=us-central1-a', '--type=v5e-8', '--spot', f'--python={sys.prefix}', '--max_restarts=0')
  started = time.time()
  code, output = box.tpu(
    'watch', *pod, '--run_id=r1', f'--workdir={tmp_path}/shared', '--', *CONFIG, **FAST, SSLAX_PEER_SECONDS='1'
  )
  assert code == 170 and 'restart' in output, output
  assert 'which knows the others of 2 processes' in box.ok('logs', '--worker=1')
  assert not (tmp_path / 'shared' / 'metrics.jsonl').exists()
  print(f'{time.time() - started:.0f} s')
