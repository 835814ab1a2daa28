"""The watchdog in processes of its own, and the real trainer on data that never comes."""

import subprocess
import sys
import time

import pytest
from run.trainer import ROOT, TINY, environment, status

PROGRAM = """
import pathlib, sys, threading, time
from sslax.run.watchdog import Watchdog
threading.Thread(target=lambda: time.sleep(60), name='elsewhere', daemon=True).start()
dog = Watchdog(pathlib.Path(sys.argv[1]) / 'stacks.0.txt', 0.4, on_stall=lambda: print('told', flush=True))
def stuck_here():
  time.sleep(30)
"""


def run(folder, body):
  """(exit code, output, seconds) of PROGRAM and `body`."""
  started = time.monotonic()
  process = subprocess.Popen(
    [sys.executable, '-c', PROGRAM + body, str(folder)], cwd=ROOT, env=environment(), text=True,
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
  )  # fmt: skip
  output, _ = process.communicate(timeout=60)
  return process.returncode, output, time.monotonic() - started


@pytest.mark.slow
def test_a_stall_leaves_the_stacks_of_all_threads_and_170(tmp_path):
  code, output, seconds = run(tmp_path, 'dog.beat()\nstuck_here()')
  assert code == 170 and 'told' in output and 'stalled: no progress' in output and 'after 1 steps' in output, output
  assert seconds < 20
  stacks = (tmp_path / 'stacks.0.txt').read_text()
  assert 'in stuck_here' in stacks and 'in <lambda>' in stacks, stacks


@pytest.mark.slow
def test_progress_slow_phases_and_the_time_before_the_first_step_are_no_stall(tmp_path):
  body = """
time.sleep(0.8)  # compiling: four times as long
for _ in range(8):
  dog.beat()
  time.sleep(0.15)
with dog.slow():
  time.sleep(0.8)
dog.beat()
dog.close()
time.sleep(0.8)
print('end')
"""
  code, output, _ = run(tmp_path, body)
  assert code == 0 and 'end' in output and not (tmp_path / 'stacks.0.txt').exists(), output


@pytest.mark.slow
def test_a_slow_phase_has_an_end_and_zero_means_never(tmp_path):
  code, output, _ = run(tmp_path, 'with dog.slow():\n  stuck_here()')
  assert code == 170, output
  body = "dog.close()\nWatchdog(pathlib.Path(sys.argv[1]) / 'stacks.1.txt', 0).beat()\ntime.sleep(0.8)\nprint('end')"
  code, output, _ = run(tmp_path, body)
  assert code == 0 and not (tmp_path / 'stacks.1.txt').exists(), output


# Runs the trainer; the data of step 12 never come.
BLOCKED = """
import runpy, sys, threading
from sslax.data import pipeline
next_batch, count = pipeline.Batches.__next__, 0
def wait_for_data(self):
  global count
  count += 1
  if count == 12:
    threading.Event().wait()
  return next_batch(self)
pipeline.Batches.__next__ = wait_for_data
sys.argv[0] = 'train'
runpy.run_module('sslax.train', run_name='__main__', alter_sys=True)
"""


@pytest.mark.slow
def test_data_that_never_come(tmp_path):
  flags = [f'--config={TINY}', f'--workdir={tmp_path}', '--config.stall_timeout=4']
  started = time.monotonic()
  done = subprocess.run(
    [sys.executable, '-c', BLOCKED, *flags], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=180
  )
  assert done.returncode == 170, done.stdout + done.stderr
  last = status(tmp_path)
  assert (last['reason'], last['last_checkpoint']) == ('stalled', 10)
  assert 'wait_for_data' in (tmp_path / 'stacks.0.txt').read_text()
  print(f'exit 170 after {time.monotonic() - started:.1f} s in all')
