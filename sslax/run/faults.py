"""Signals, status.json and the numbers that must not be lost when a run ends early."""

import json
import os
import pathlib
import signal
import threading
import time
from typing import Any, Self

import jax

from sslax.io import atomic


class StopRequest:
  """SIGTERM and SIGINT set a flag that the loop reads once a step; a second signal ends the process at once.

  Orbax's own preemption hook does nothing in a single process without jax.distributed, hence this one.
  """

  def __init__(self):
    self.signal = ''
    self._handed_on = False
    self._old = {}

  def __enter__(self) -> Self:
    if threading.current_thread() is threading.main_thread():  # Python takes handlers in the main thread only (notebooks: none)
      for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        self._old[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *_: object) -> None:
    for number, old in self._old.items():
      signal.signal(number, old)

  def _handle(self, number, _frame):
    if self.signal:  # asked twice: somebody is in a hurry
      os._exit(128 + number)
    self.signal = signal.Signals(number).name

  def agreed(self, step: int) -> bool:
    """True on every process at the same step, once any of them was asked to stop."""
    if not jax.distributed.is_initialized():
      return bool(self.signal)
    from jax.experimental import multihost_utils

    # jax.distributed has put a SIGTERM handler of its own in the place of ours, also where it has joined one process only: the
    # signal is a notice to all, who agree on a step. What came before that, and the other signals, are handed on to it.
    if self.signal and not self._handed_on:
      self._handed_on = True
      os.kill(os.getpid(), signal.SIGTERM)
    return multihost_utils.reached_preemption_sync_point(step)


def barrier(name: str, seconds: float = 3600.0) -> None:
  """Waits until all processes are at this place, at most so long.

  By way of jax's coordinator: the first collective gives up after 30 seconds (Gloo), and another process may compile longer.
  """
  if jax.process_count() > 1:
    from jax._src import distributed  # the coordinator's client has no public name

    client = distributed.global_state.client
    assert client is not None, 'what joined the processes'
    client.wait_at_barrier(f'sslax {name}', int(1000 * seconds))


class Status:
  """workdir/status.json: step, reason, last good checkpoint, counters. Process 0 writes it."""

  def __init__(self, workdir: pathlib.Path, **fields: Any):
    self.path = workdir / 'status.json'
    self.fields = fields
    self._written = 0.0

  def update(self, *, now: bool = True, **fields: Any) -> None:
    """Replaces the file; with now=False at most once in five seconds."""
    self.fields.update(fields)
    if jax.process_index() == 0 and (now or time.time() - self._written > 5):
      self._written = time.time()
      atomic.write(
        self.path, json.dumps({**self.fields, 'time': time.strftime('%Y-%m-%dT%H:%M:%S%z'), 'pid': os.getpid()}, indent=1) + '\n'
      )


def read_status(workdir: pathlib.Path) -> dict[str, Any]:
  """What the last run in this workdir said of itself; {} when there was none."""
  try:
    return json.loads((workdir / 'status.json').read_text(encoding='utf-8'))
  except (FileNotFoundError, json.JSONDecodeError):
    return {}
