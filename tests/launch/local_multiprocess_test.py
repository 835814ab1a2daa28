"""launch/local_multiprocess.py with commands that take no time."""

import re
import signal
import subprocess
import sys
import time

import pytest
from run.trainer import ROOT

LAUNCH = [sys.executable, str(ROOT / 'launch' / 'local_multiprocess.py')]


def launch(*args):
  return subprocess.Popen([*LAUNCH, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(program, *args):
  """(exit code, output) of processes that each run the Python `program`; `i` is their number."""
  program = f'import os, sys, time; i = int(os.environ["SSLAX_PROCESS_ID"])\n{program}'
  process = launch(*args, '--', sys.executable, '-u', '-c', program)
  output, _ = process.communicate(timeout=60)
  return process.returncode, output


def test_each_has_its_number_the_same_port_and_its_devices():
  program = 'print(*(os.environ[k] for k in ("SSLAX_COORDINATOR", "SSLAX_NUM_PROCESSES", "XLA_FLAGS")), end="\\rbar\\n")'
  code, output = run(program, '--processes=3', '--devices_per_process=4')
  assert code == 0
  found = [re.search(rf'^\[{i}\] (127\.0\.0\.1:\d+) 3 .*host_platform_device_count=4$', output, re.M) for i in range(3)]
  assert all(found) and len({match[1] for match in found}) == 1, output
  assert output.count('] bar\n') == 3, 'a progress bar is lines'


@pytest.mark.parametrize(
  'codes, verdict',
  [
    ((0, 0), 0), ((42, 42), 42), ((0, 42), 42), ((170, 42), 170), ((42, 1), 1), ((170, 3), 3), ((2, 3), 2), ((134, 170), 170),
  ],
)  # fmt: skip
def test_one_exit_code_for_all(codes, verdict):
  code, output = run(f'sys.exit({codes}[i])')
  assert code == verdict and f'exit codes {codes[0]} {codes[1]}' in output, output


@pytest.mark.slow
def test_a_drill_and_those_that_do_not_notice_are_ended():
  started = time.monotonic()
  code, output = run('time.sleep(60)', '--kill=1@0.5', '--grace=1')
  assert code == 170 and 'exit codes -15 -9' in output and time.monotonic() - started < 20, output
  code, output = run('time.sleep(60)', '--stop=0@0.2', '--term=1@0.4', '--grace=0.5')
  assert code == 170 and 'exit codes -9 -15' in output, output


def test_signals_are_handed_on_once_and_a_second_one_kills():
  program = 'import signal; signal.signal(15, lambda *_: print("asked", flush=True)); print("ready", flush=True); time.sleep(60)'
  process = launch('--', sys.executable, '-c', f'import time; {program}\ntime.sleep(60)')
  seen = ''
  while seen.count('ready') < 2:
    seen += process.stdout.readline()
  process.send_signal(signal.SIGTERM)
  while seen.count('asked') < 2:
    seen += process.stdout.readline()
  process.send_signal(signal.SIGTERM)
  seen += process.communicate(timeout=30)[0]
  assert process.returncode == 170 and 'exit codes -9 -9' in seen, seen


def test_mistakes_and_help():
  for args in (
    (),
    ('--processes=0', '--', 'true'),
    ('--kill=2@1', '--', 'true'),
    ('--kill=1', '--', 'true'),
    ('--proceses=2', '--', 'true'),
  ):
    process = launch(*args)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2 and 'error:' in output, (args, output)
  output = launch('--help').communicate(timeout=30)[0]
  assert 'Exit code:' in output and '--devices_per_process' in output
