"""Several processes (gloo) against one, in health, and after kill -9, SIGTERM and a hang; eight devices against one."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from run.trainer import KILL, ROOT, TERM, TINY, environment, lines, signal_at, status, train

LAUNCH = ROOT / 'launch' / 'local_multiprocess.py'
KNN = '--config.online.every_steps=20'
TRIALS = range(int(os.environ.get('SSLAX_TRIALS', '1')))  # of each drill

# The trainer; the data of one step never come to one of its processes.
BLOCKED = """
import os, runpy, sys, threading, time
from sslax.data import pipeline
next_batch, count = pipeline.Batches.__next__, 0
def wait_for_data(self):
  global count
  batch = next_batch(self)
  count += 'wanted' in batch  # not those of the online kNN
  if os.environ['SSLAX_PROCESS_ID'] == '{process}' and count == {step}:
    print('blocked at', time.time(), flush=True)
    threading.Event().wait()
  return batch
pipeline.Batches.__next__ = wait_for_data
sys.argv[0] = 'train'
runpy.run_module('sslax.train', run_name='__main__', alter_sys=True)
"""


def launch(*args, command=()):
  return subprocess.Popen(
    [sys.executable, str(LAUNCH), *args, '--', *map(str, command)], cwd=ROOT, env=environment(), text=True,
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
  )  # fmt: skip


def pair(workdir, *flags, grace=40):
  """Two trainers with one device each."""
  return launch('--processes=2', f'--grace={grace}', command=[f'--config={TINY}', f'--workdir={workdir}', KNN, *flags])


def finish(process, timeout=300):
  output, _ = process.communicate(timeout=timeout)
  return process.returncode, output


def codes(output):
  return [int(code) for code in re.search(r'exit codes (.*)', output)[1].split()]


def drill(workdir, number, rank, step, *flags, grace=40):
  """Starts two, sends `number` to one once metrics.jsonl has reached `step`. Returns (exit code, output, seconds to the end)."""
  process = pair(workdir, *flags, grace=grace)
  head, path = '', workdir / 'metrics.jsonl'
  while f'process {rank} is' not in head:
    head += process.stdout.readline()
  deadline = time.time() + 240
  while time.time() < deadline and process.poll() is None and not (path.exists() and len(path.read_text().splitlines()) >= step):
    time.sleep(0.02)
  assert process.poll() is None and path.exists(), head + process.communicate()[0]
  os.kill(int(re.search(rf'process {rank} is (\d+)', head)[1]), number)
  started = time.monotonic()
  code, output = finish(process)
  return code, head + output, time.monotonic() - started


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('unbroken')
  code, output = finish(pair(workdir))
  assert code == 0 and codes(output) == [0, 0], output
  return workdir


def continues_bitwise(workdir, unbroken):
  saved = [int(path.name) for path in (workdir / 'checkpoints').iterdir() if path.name.isdigit()]
  code, output = finish(pair(workdir))
  assert code == 0, output
  assert not saved or f'resuming at step {max(saved)} of' in output, output  # none: killed before the first one was whole
  assert status(workdir)['state_hash'] == status(unbroken)['state_hash']
  assert (workdir / 'metrics.jsonl').read_bytes() == (unbroken / 'metrics.jsonl').read_bytes()


@pytest.mark.slow
def test_two_processes_are_one(unbroken, tmp_path):
  """Two processes with one device each see the same images in the same order as one process with two: the same losses, and
  the same neighbours."""
  code, output = train(tmp_path, KNN, devices=2)
  assert code == 0, output
  assert [line['step'] for line in lines(unbroken)] == list(range(1, 41))
  for a, b in zip(lines(tmp_path)[:6], lines(unbroken), strict=False):
    assert b['loss'] == pytest.approx(a['loss'], rel=1e-5)
  one, two = ([line['knn'] for line in lines(workdir) if 'knn' in line] for workdir in (tmp_path, unbroken))
  assert len(one) == 2 and two == pytest.approx(one, abs=0.005), (one, two)  # of 500 images two or three
  code, output = finish(launch('--processes=2', command=[sys.executable, '-m', 'sslax.evaluate', f'--workdir={unbroken}']))
  assert codes(output) == [2, 2] and 'evaluation runs in one process' in output, output


@pytest.mark.slow
@pytest.mark.parametrize('trial', TRIALS)
def test_kill_9_of_one(unbroken, tmp_path, trial):
  """The other ends within 20 seconds with a code that launchers restart on: 170, or 134 where jax's own heartbeat was first."""
  victim, step = (1, 0)[trial % 2], 8 + 5 * trial
  code, output, seconds = drill(tmp_path, KILL, victim, step)
  print(f'\nkill -9 of process {victim} at step {step}: exit codes {codes(output)}, launcher {code}, {seconds:.1f} s')
  assert code == 170 and codes(output)[victim] == -9 and codes(output)[1 - victim] in (170, -6), output
  assert seconds < 20
  continues_bitwise(tmp_path, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize('trial', TRIALS)
def test_sigterm_to_one(unbroken, tmp_path, trial):
  """Both save the same step and exit with 42."""
  asked, step = (1, 0)[trial % 2], 8 + 5 * trial
  code, output, seconds = drill(tmp_path, TERM, asked, step)
  at = status(tmp_path)
  print(f'\nSIGTERM to process {asked} at step {step}: both saved step {at["step"]}, exit codes {codes(output)}, {seconds:.1f} s')
  assert (code, codes(output), at['reason'], at['step']) == (42, [42, 42], 'interrupted', at['last_checkpoint']), output
  assert re.findall(r'at step (\d+); saved', output) == [str(at['step'])] * 2
  continues_bitwise(tmp_path, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize('trial', TRIALS)
def test_data_that_never_come_to_one(unbroken, tmp_path, trial):
  """The watchdogs of both end their processes; each leaves where it stood."""
  blocked, step = (1, 0)[trial % 2], 7 + 5 * trial
  program = BLOCKED.format(process=blocked, step=step)
  flags = [f'--config={TINY}', f'--workdir={tmp_path}', KNN, '--config.stall_timeout=10']
  process = launch('--processes=2', command=[sys.executable, '-u', '-c', program, *flags])
  code, output = finish(process)
  asked = float(re.search(r'blocked at ([\d.]+)', output)[1])
  print(f'\nno data for process {blocked} at step {step}: {codes(output)}, launcher {code}, {time.time() - asked:.1f} s')
  assert (code, codes(output)) == (170, [170, 170]), output
  assert 'wait_for_data' in (tmp_path / f'stacks.{blocked}.txt').read_text()
  assert 'in settle' in (tmp_path / f'stacks.{1 - blocked}.txt').read_text()
  assert status(tmp_path)['reason'] == 'stalled'
  continues_bitwise(tmp_path, unbroken)


@pytest.mark.slow
def test_a_frozen_process_is_taken_for_dead(tmp_path):
  """By jax's heartbeat, as no stall_timeout is that short."""
  code, output, seconds = drill(tmp_path, signal.SIGSTOP, 1, 6, grace=2)
  print(f'\nSIGSTOP of process 1: exit codes {codes(output)}, launcher {code}, {seconds:.1f} s')
  assert code == 170 and codes(output)[0] in (170, -6) and seconds < 30, output


# The trainer, joined by jax.distributed as the only process: a TPU machine by itself.
ALONE = """
import runpy, socket, sys, jax
from sslax.run import cluster
with socket.socket() as s:
  s.bind(('127.0.0.1', 0))
  port = s.getsockname()[1]
cluster.join = lambda **_: jax.distributed.initialize(f'127.0.0.1:{port}', 1, 0)
sys.argv[0] = 'train'
runpy.run_module('sslax.train', run_name='__main__', alter_sys=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize('number', [TERM, signal.SIGUSR1], ids=lambda n: n.name)
def test_signals_to_one_process_that_jax_has_joined(tmp_path, number):
  """jax takes SIGTERM away from our handler; SIGUSR1 is ours and handed on."""
  command = [sys.executable, '-c', ALONE, f'--config={TINY}', f'--workdir={tmp_path}', '--config.num_steps=100000']
  process = subprocess.Popen(
    command, cwd=ROOT, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
  )  # fmt: skip
  path, deadline = tmp_path / 'metrics.jsonl', time.time() + 240
  while time.time() < deadline and process.poll() is None and not (path.exists() and path.read_text().count('\n') > 5):
    time.sleep(0.05)
  process.send_signal(number)
  code, output = finish(process, 120)
  at = status(tmp_path)
  assert (code, at['reason'], at['step']) == (42, 'interrupted', at['last_checkpoint']), output


@pytest.mark.slow
def test_eight_devices_are_one_in_the_real_trainer(tmp_path):
  for devices in (1, 8):
    code, output = train(tmp_path / str(devices), '--config.num_steps=6', devices=devices)
    assert code == 0, output
  one, eight = lines(tmp_path / '1'), lines(tmp_path / '8')
  for a, b in zip(one, eight, strict=True):
    assert b['loss'] == pytest.approx(a['loss'], rel=1e-5)


@pytest.mark.slow
def test_a_run_goes_on_on_another_number_of_devices(tmp_path):
  """The global batch stays; the losses after the change are those of the run that did not change."""
  code, output = train(tmp_path / 'whole', '--config.num_steps=10', devices=8)
  assert code == 0, output
  code, output = signal_at(tmp_path / 'moved', 4, TERM, '--config.num_steps=10', devices=8)
  assert code == 42, output
  at = status(tmp_path / 'moved')['step']
  code, output = train(tmp_path / 'moved', '--config.num_steps=10', devices=4)
  assert code == 0 and f'resuming at step {at}' in output, output
  for a, b in zip(lines(tmp_path / 'whole'), lines(tmp_path / 'moved'), strict=True):
    assert b['loss'] == pytest.approx(a['loss'], rel=1e-5)
