"""launch/tpu when answers are lost: asked again, named, and nothing started twice or on some hosts only."""

import os
import random
import re
import subprocess

import pytest
from launch.pod import RUN


@pytest.mark.slow
def test_a_silent_api_is_asked_again(box):
  box.make('v5e-4')
  box.faults({'kind': 'no answer', 'times': 2})
  box.ok('status', SSLAX_API_SECONDS='1')
  box.faults({'kind': 'no answer', 'times': 3})
  assert box.tpu('status', SSLAX_API_SECONDS='1')[0] == 170
  box.faults({'kind': 'no answer', 'times': 3})
  code, output = box.tpu('delete', SSLAX_API_SECONDS='1')
  assert code == 170 and 'three attempts' in output and box.count('delete') == 0, output


@pytest.mark.slow
def test_ssh_that_fails_twice(box):
  box.faults({'kind': 'ssh', 'host': 1, 'times': 2})
  box.make()
  box.faults({'kind': 'ssh', 'host': 0, 'times': 2})
  box.ok('run', *RUN)


@pytest.mark.slow
def test_an_answer_that_was_lost_starts_nothing_twice(box):
  box.make()
  box.faults({'kind': 'ssh after', 'host': 1, 'word': 'run', 'times': 1})
  assert 'attempt 1' in box.ok('run', *RUN)
  assert (box.host(1) / 'runs/r1/log').read_text().count('train -u') == 1 and not (box.host(1) / 'runs/r1/log.before').exists()


def test_a_host_that_does_not_answer_is_named(box):
  box.create()
  box.faults({'kind': 'ssh', 'host': 1, 'times': 99})
  code, output = box.tpu('setup', f'--python={box.python}')
  assert code == 170 and 'w1' in output and 'w0' not in output, output
  assert 'nothing was set up' in output and box.count('scp') == 0


@pytest.mark.slow
def test_no_host_runs_alone(box):
  box.make()
  box.faults({'kind': 'ssh after', 'host': 1, 'word': 'run', 'times': 99})
  code, output = box.tpu('run', *RUN)
  assert code == 170 and 'w1' in output and 'stopped' in output, output
  assert (box.host(0) / 'runs/r1/code').read_text() == '42'


@pytest.mark.slow
def test_kill_by_pid(box):
  """A process that ignores SIGTERM is killed; a pid that was given out again is not."""
  box.plan('deaf')
  box.make('v5e-4')
  box.ok('run', *RUN)
  assert 'killed, code 137' in box.ok('kill', '--grace=1')
  innocent = subprocess.Popen(['sleep', '60'])
  try:
    (box.host(0) / 'runs/r1/code').unlink()
    for name in ('pid', 'supervisor'):
      (box.host(0) / 'runs/r1' / name).write_text(f'{innocent.pid} 12345')
    assert 'nothing was running' in box.ok('kill') and innocent.poll() is None
    assert box.tpu('status')[0] == 137  # neither alive nor a code
  finally:
    innocent.kill()


@pytest.mark.slow
def test_lockfile_is_removed_only_when_nobody_holds_the_tpu(box):
  box.make('v5e-4')
  host = box.host(0).parent
  (host / 'libtpu_lockfile').touch()
  (host / 'accel0').touch()
  with open(host / 'accel0') as held:
    output = box.ok('kill')
    assert str(os.getpid()) in output and (host / 'libtpu_lockfile').exists(), (output, held)
  assert 'stale' in box.tpu('doctor')[1]
  assert 'removed' in box.ok('kill') and not (host / 'libtpu_lockfile').exists()


@pytest.mark.slow
def test_no_silent_partial_run(box):
  """Fifty setups and runs with random ssh faults: all hosts run, or the code says so and what runs on is named."""
  box.make()
  outcomes = {0: 0, 170: 0}
  for seed in range(50):
    draw = random.Random(seed)
    kinds = [
      {'kind': 'ssh', 'host': draw.randrange(2), 'times': draw.choice((1, 2, 2, 9))},
      {
        'kind': 'ssh after',
        'host': draw.randrange(2),
        'word': draw.choice(('run', 'setup', 'status')),
        'times': draw.choice((1, 2, 9)),
      },
      {'kind': 'scp', 'times': draw.choice((1, 2, 9))},
    ]
    box.faults(*draw.sample(kinds, draw.randint(1, 2)))
    code, output = box.tpu(*(('setup', f'--python={box.python}') if seed % 2 else ('run', *RUN)))
    outcomes[code] += 1  # no other code
    running = {f'w{i}' for i in range(2) if 'running' in status_of(box, i)}
    if seed % 2 == 0 and code == 0:
      assert running == {'w0', 'w1'}, (seed, output)
    elif seed % 2 == 0:
      assert all(host in output for host in running), (seed, output)
    if code:
      assert re.search(r'\bw[01]\b|pod', output), (seed, output)
    box.faults()
    box.ok('kill')
  assert min(outcomes.values()) >= 10, outcomes


def status_of(box, number):
  env = box.cloud.environment('pod', number, {'hosts': 2})
  line = 'bash sslax/current/launch/lib/worker.sh status'
  return subprocess.run(['bash', '-c', line], env=env, cwd=env['HOME'], capture_output=True, text=True).stdout
