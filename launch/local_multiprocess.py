#!/usr/bin/env python3
"""Rehearse a pod on one machine: several processes with some CPU devices each, joined like the hosts of a pod.

  python launch/local_multiprocess.py --processes=2 -- --config=configs/simclr.py:digits --workdir=runs/two
  python launch/local_multiprocess.py --processes=4 --devices_per_process=2 -- python -m sslax.train --config=... --workdir=...

What follows `--` is the command of each process; where it begins with a flag, `python -m sslax.train` is put before it. Each
process gets SSLAX_COORDINATOR, SSLAX_NUM_PROCESSES, SSLAX_PROCESS_ID and that many CPU devices; its output is prefixed with its
number. Ctrl-C, SIGTERM and SIGUSR1 go to all processes (a second one kills them). When a process ends badly, the others get
--grace seconds to notice, then they are ended.

Drills: --kill=1@20 kills process 1 after 20 seconds, --term=1@20 asks it to stop, --stop=1@20 freezes it.

Exit code: the first of these that any process ended with: 2 (user error), 3 (diverged), another error, 170 (a process was lost or
stalled, or died of a signal), 42 (interrupted, state saved), 0 (all done). After 170 and 42 the same command goes on.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

LOST, INTERRUPTED = 170, 42
DRILLS = {'kill': signal.SIGKILL, 'term': signal.SIGTERM, 'stop': signal.SIGSTOP}


def main() -> int:
  args = _arguments()
  port = _free_port()
  processes = [
    subprocess.Popen(
      args.command,
      env=_environment(i, args.processes, args.devices_per_process, port),
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      start_new_session=True,  # Ctrl-C reaches this process only, which hands it on
    )
    for i in range(args.processes)
  ]
  for i, process in enumerate(processes):
    say(f'process {i} is {process.pid}')
  readers = [threading.Thread(target=_copy, args=(i, p.stdout)) for i, p in enumerate(processes)]
  for reader in readers:
    reader.start()
  asked = []

  def hand_on(number, _frame):
    asked.append(number)
    send(processes, signal.SIGKILL if len(asked) > 1 else number)

  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, hand_on)
  wait(processes, args.grace, args.drills)
  for reader in readers:
    reader.join(timeout=5)  # a grandchild may hold the pipe open
  codes = [p.returncode for p in processes]
  say(f'exit codes {" ".join(map(str, codes))}')
  return verdict(codes)


def wait(processes, grace, drills):
  """Returns when all have ended; once one has ended badly, the others are ended, too."""
  started = time.monotonic()
  ended = {}  # number -> seconds
  bad = None  # seconds since when
  drills = sorted(drills, key=lambda drill: drill[2])
  while len(ended) < len(processes):
    now = time.monotonic() - started
    while drills and now >= drills[0][2]:
      name, i, _ = drills.pop(0)
      say(f'{name} {i} after {now:.1f} s')
      send([processes[i]], DRILLS[name])
    for i, process in enumerate(processes):
      if i not in ended and process.poll() is not None:
        ended[i] = now
        say(f'process {i} ended with {process.returncode} after {now:.1f} s')
        bad = now if bad is None and process.returncode else bad
    if bad is not None and now > bad + grace + min(10, grace):
      send(processes, signal.SIGKILL)
    elif bad is not None and now > bad + grace:
      send(processes, signal.SIGTERM)
    time.sleep(0.1)


def send(processes, number):
  for process in processes:
    if process.poll() is None:
      os.killpg(process.pid, number)


def verdict(codes):
  """One exit code for all of them."""
  codes = [LOST if code < 0 or code >= 128 else code for code in codes]
  order = (2, 3, *sorted(set(codes) - {0, 2, 3, LOST, INTERRUPTED}), LOST, INTERRUPTED, 0)
  return next(code for code in order if code in codes)


def say(text):
  print(f'[launch] {text}', flush=True)


def _copy(i, pipe):
  line = b''
  while data := os.read(pipe.fileno(), 65536):
    *lines, line = re.split(rb'[\r\n]+', line + data)  # a progress bar ends its lines with \r
    sys.stdout.write(''.join(f'[{i}] {part.decode(errors="replace")}\n' for part in lines if part))
    sys.stdout.flush()
  if line:
    print(f'[{i}] {line.decode(errors="replace")}', flush=True)


def _environment(i, processes, devices, port):
  kept = re.sub(r'--xla_force_host_platform_device_count=\d+', '', os.environ.get('XLA_FLAGS', ''))
  return {
    'JAX_PLATFORMS': 'cpu',
    **os.environ,
    'XLA_FLAGS': f'{kept} --xla_force_host_platform_device_count={devices}'.strip(),
    'PYTHONUNBUFFERED': '1',
    'SSLAX_COORDINATOR': f'127.0.0.1:{port}',
    'SSLAX_NUM_PROCESSES': str(processes),
    'SSLAX_PROCESS_ID': str(i),
  }


def _free_port():
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


def _arguments():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  parser.add_argument('--processes', type=int, default=2, help='how many (default: 2)')
  parser.add_argument('--devices_per_process', type=int, default=1, help='CPU devices of each (default: 1)')
  parser.add_argument('--grace', type=float, default=40, help='seconds that the others get after one ended badly (default: 40)')
  for name in DRILLS:
    parser.add_argument(f'--{name}', action='append', default=[], metavar='PROCESS@SECONDS', help='see drills')
  own, command = sys.argv[1:], []
  if '--' in own:
    own, command = own[: own.index('--')], own[own.index('--') + 1 :]
  args = parser.parse_args(own)
  if not command:
    parser.error('no command: it comes after --')
  if args.processes < 1 or args.devices_per_process < 1:
    parser.error('--processes and --devices_per_process must be at least 1')
  args.drills = []
  for name in DRILLS:
    for value in getattr(args, name):
      match = re.fullmatch(r'(\d+)@(\d+(?:\.\d+)?)s?', value)
      if not match or int(match[1]) >= args.processes:
        parser.error(f'--{name}={value} is not PROCESS@SECONDS with a process below {args.processes}')
      args.drills.append((name, int(match[1]), float(match[2])))
  python = [sys.executable, *command[1:]] if command[0] == 'python' else command  # the one that runs this
  args.command = [sys.executable, '-m', 'sslax.train', *command] if command[0].startswith('-') else python
  return args


if __name__ == '__main__':
  sys.exit(main())
