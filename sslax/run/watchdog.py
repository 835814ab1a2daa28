"""Ends a run that makes no progress any more, and leaves behind where each of its threads stood."""

import contextlib
import faulthandler
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from sslax.errors import STALLED

SLOW = 4  # how many times longer compiling, restoring and probing may take than a step
LINGER = 3.0  # seconds: the other processes stall at the same time and write their stacks, too, if this one has not ended yet


class Watchdog:
  """`beat` it after each step. After `timeout` seconds without, it writes the stacks of all threads and exits with 170.

  It waits for the first beat, and inside `slow`, four times as long. It counts its own ticks and not the clock: a process that
  was itself stopped (SIGSTOP, Ctrl-Z) is given time again. Code in C that never gives back the interpreter's lock stops it, too.
  """

  def __init__(self, path: pathlib.Path, timeout: float, on_stall: Callable[[], None] = lambda: None, linger: float = LINGER):
    """Starts to watch.

    Args:
      path: where the stacks go; appended to.
      timeout: seconds; 0: it watches nothing.
      on_stall: called before the end; what it raises is ignored.
      linger: seconds between the stacks and the end.
    """
    self._path, self._timeout, self._on_stall, self._linger = path, timeout, on_stall, linger
    self._tick = min(1.0, timeout / 10)
    self._limit, self._waited, self._steps = SLOW * timeout, 0.0, 0
    self._closed = threading.Event()
    self.stalled = False  # what goes wrong from then on, such as a peer that ends first, is a consequence
    if timeout:
      threading.Thread(target=self._watch, name='watchdog', daemon=True).start()

  def beat(self) -> None:
    """There was progress."""
    self._limit, self._waited = self._timeout, 0.0
    self._steps += 1

  @contextlib.contextmanager
  def slow(self) -> Iterator[None]:
    """Inside, four times `timeout` may pass; a beat ends that."""
    before, self._limit = self._limit, SLOW * self._timeout
    try:
      yield
    finally:
      self._limit, self._waited = before, 0.0

  def close(self) -> None:
    self._closed.set()

  def _watch(self):
    while not self._closed.wait(self._tick):
      self._waited += self._tick
      if self._waited >= self._limit:
        self._end(f'no progress for {self._waited:.0f} s after {self._steps} steps')

  def _end(self, why: str) -> None:
    self.stalled = True
    report = threading.Thread(target=self._report, args=(why,), daemon=True)
    report.start()
    report.join(LINGER)  # no longer: what hangs may be the storage that it writes to
    print(f'stalled: {why}; stacks of all threads: {self._path}; the same command goes on', file=sys.stderr, flush=True)
    if not self._closed.wait(self._linger):  # it moved after all, and the run has ended by itself
      os._exit(STALLED)

  def _report(self, why: str) -> None:
    with contextlib.suppress(Exception), self._path.open('a', encoding='utf-8') as file:
      file.write(f'{time.strftime("%Y-%m-%dT%H:%M:%S%z")} process {os.getpid()}: {why}\n')
      file.flush()
      faulthandler.dump_traceback(file, all_threads=True)
    with contextlib.suppress(Exception):
      self._on_stall()
