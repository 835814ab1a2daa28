"""Starts the real binaries, as a user would, in processes of their own."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = ROOT / 'tests' / 'run' / 'tiny_config.py'


def environment(devices=1, **extra):
  env = {k: v for k, v in os.environ.items() if k not in ('XLA_FLAGS', 'JAX_COMPILATION_CACHE_DIR')}
  isa = os.environ.get('SSLAX_TEST_ISA', '')  # see conftest.py
  flags = f'--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0'
  flags += f' --xla_cpu_max_isa={isa}' if isa else ''
  cache = os.environ.get('SSLAX_TEST_CACHE', str(ROOT / 'tests' / '.cache' / f'binaries{isa and "-" + isa}'))
  return {**env, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags, 'JAX_COMPILATION_CACHE_DIR': cache, **extra}


def start(module, *args, devices=1, cwd=ROOT, **extra):
  return subprocess.Popen(
    [sys.executable, '-m', f'sslax.{module}', *map(str, args)], cwd=cwd, env=environment(devices, **extra),
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
  )  # fmt: skip


def run(module, *args, timeout=180, **more):
  """(exit code, output) of python -m sslax.MODULE ARGS."""
  process = start(module, *args, **more)
  try:
    output, _ = process.communicate(timeout=timeout)
  except subprocess.TimeoutExpired:
    process.kill()
    output, _ = process.communicate()
    raise AssertionError(f'no end after {timeout} s:\n{output}') from None
  return process.returncode, output


def train(workdir, *args, config=TINY, **more):
  return run('train', f'--config={config}', f'--workdir={workdir}', *args, **more)


def status(workdir):
  return json.loads((pathlib.Path(workdir) / 'status.json').read_text())


def lines(workdir):
  return [json.loads(line) for line in (pathlib.Path(workdir) / 'metrics.jsonl').read_text().splitlines()]


def signal_at(workdir, step, number, *args, timeout=120, config=TINY, **more):
  """Starts a training and sends it a signal once metrics.jsonl has reached `step`. Returns (exit code, output)."""
  process = start('train', f'--config={config}', f'--workdir={workdir}', *args, **more)
  deadline, path = time.time() + timeout, pathlib.Path(workdir) / 'metrics.jsonl'
  while time.time() < deadline and process.poll() is None:
    written = re.findall(r'"step": (\d+)', path.read_text()) if path.exists() else []
    if written and int(written[-1]) >= step:
      break
    time.sleep(0.002)
  os.kill(process.pid, number)
  output, _ = process.communicate(timeout=60)
  return process.returncode, output


KILL, TERM = signal.SIGKILL, signal.SIGTERM
