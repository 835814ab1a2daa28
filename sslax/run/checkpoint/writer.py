"""The trainer's side: saves beside the training, deletes what is old, walks back over what is damaged."""

import concurrent.futures
import contextlib
import json
import os
import re
import shutil
import socket
import time
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from absl import logging
from etils import epath

from sslax.errors import UserError
from sslax.io import atomic
from sslax.io.versions import versions
from sslax.run.checkpoint import integrity, reader, store

PyTree = Any
PIN_EXPIRY = 3 * 3600.0  # seconds without a heartbeat: a pin of another host is taken for dead


class SaveFailed(Exception):
  """A checkpoint could not be written (disk full, no permission); older steps are untouched."""


class Checkpointer:
  """Saves in the background, deletes old steps, restores the newest good one. Always `close` it. `root`: their folder."""

  def __init__(
    self, workdir: str | Path, *, every_steps: int, keep: int = 3, keep_every: int = 0, meta: dict[str, Any] | None = None
  ):
    """Creates workdir/checkpoints and removes what an interrupted save of ours left there.

    Args:
      workdir: local folder or gs:// URL.
      every_steps: `due` at its multiples.
      keep: how many of the newest steps to keep.
      keep_every: multiples of it are kept for ever; 0: none.
      meta: saved with each step as JSON; 'versions' is added.

    Raises:
      UserError: a number is out of range, or the folder cannot be written or has an impossible name.
    """
    if every_steps < 1 or keep < 1 or keep_every < 0:
      raise UserError(f'checkpoint: every_steps={every_steps} and keep={keep} must be >= 1, keep_every={keep_every} >= 0')
    self.root = store.root_of(workdir)
    self._every, self._keep, self._keep_every = every_steps, keep, keep_every
    self._meta = json.loads(json.dumps({'versions': versions(), **(meta or {})}))
    self._bad: set[int] = set()
    self._pending: tuple[int, concurrent.futures.Future] | None = None
    self._thread = concurrent.futures.ThreadPoolExecutor(1, 'checkpoint')
    self.damaged: list[str] = []  # why newer steps were passed over, one message a step
    if jax.process_index() == 0:
      try:
        self.root.mkdir(parents=True, exist_ok=True)
      except OSError as e:
        raise UserError(f'cannot create {self.root}: {e.strerror or e}. Choose another --workdir.') from e
      for p in store.leftovers(self.root):
        self._remove(p)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def due(self, step: int) -> bool:
    """Is `step` one to save at?"""
    return step % self._every == 0

  def steps(self) -> list[int]:
    """The committed steps, ascending."""
    return store.steps(self.root)

  def save(self, step: int, state: PyTree, *, wait: bool = False) -> bool:
    """Starts to save; returns as soon as the state is on the host, so that the next step may donate it.

    Args:
      step: the name of the checkpoint.
      state: a pytree of jax arrays.
      wait: return only when it is committed.

    Returns:
      False when a good checkpoint of that step exists already.

    Raises:
      SaveFailed: this save could not start, or the one before it failed.
      TypeError: a leaf is not a jax array.
    """
    step = int(step)
    self.wait()  # one at a time: bounds the host's memory, and the error of the last save surfaces
    if step not in self._bad and step in self.steps():
      return False
    leaves, _ = integrity.flatten(state)
    for path, leaf in leaves.items():
      if not isinstance(leaf, jax.Array) or jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        raise TypeError(
          f'state leaf {"/".join(path)} is a {getattr(leaf, "dtype", type(leaf))}: checkpoints hold plain jax arrays'
        )
    folder = self.root / str(step)
    store.one_operation.acquire()
    try:
      if folder.exists() and jax.process_index() == 0:
        self._set_aside(folder)
      saved = store.save(folder, leaves, integrity.Integrity(leaves, step, self._meta))
      self._pending = step, self._thread.submit(self._finish, folder, saved)
    except Exception as e:
      store.one_operation.release()
      raise self._failed(step, e) from e
    self._bad.discard(step)
    if wait:
      self.wait()
    return True

  def restore(self, abstract_state: PyTree, step: int | None = None) -> tuple[PyTree, int] | None:
    """(state, step) of the newest good checkpoint, or of exactly `step`; None when there is no checkpoint at all.

    Every leaf is hashed and compared with the hash taken at save. The device count may differ from that at save. With several
    processes and a state sharded over them, a hash covers one shard: after a change of that layout a process verifies the
    shards that it holds as saved, and Orbax's own checks are all there is for the rest.

    Args:
      abstract_state: ShapeDtypeStructs with the shardings to restore to (the default device where there is none).
      step: which one; None: the newest good one, with a warning (and an entry in `damaged`) for each one passed over.

    Raises:
      UserError: the checkpoint has other paths, shapes or dtypes, or there is none of that step.
      Damaged: `step` is damaged, or all are.
    """
    self.wait()
    steps = self.steps()
    if step is not None and step not in steps:
      raise UserError(f'no checkpoint of step {step} in {self.root}; there are: {steps or "none"}')
    for s in [step] if step is not None else reversed(steps):
      state = error = None
      try:
        state = reader.load(self.root / str(s), abstract_state)
      except integrity.Damaged as e:
        error = e
      if _all_processes(error is None):
        return state, s
      error = error or integrity.Damaged(f'checkpoint {self.root / str(s)} (step {s}) is damaged: another process found it so')
      logging.warning('%s', error)
      self.damaged.append(str(error))
      self._bad.add(s)
      if step is not None:
        raise error
    if steps:
      why = '\n'.join(self.damaged)
      raise integrity.Damaged(f'no good checkpoint is left in {self.root}:\n{why}\nMove it away to start anew.')
    return None

  def wait(self) -> None:
    """Returns when nothing is being saved. Raises SaveFailed if the last save failed."""
    if self._pending is None:
      return
    (step, pending), self._pending = self._pending, None
    try:
      pending.result()
    except Exception as e:
      raise self._failed(step, e) from e

  def close(self) -> None:
    """Waits for the last save; raises SaveFailed if it failed."""
    try:
      self.wait()
    finally:
      self._thread.shutdown()

  def _finish(self, folder: epath.Path, saved: Any) -> None:
    try:
      saved.result()  # raises what went wrong in Orbax's thread
    finally:
      store.one_operation.release()
    if jax.process_index() != 0:
      return
    try:
      if store.is_local(folder):  # reading everything back from an object store would cost more than it tells
        atomic.write(folder / 'files.json', json.dumps(integrity.sums(folder), indent=1))
      self._prune()
    except Exception as e:  # the checkpoint is committed: what follows must not stop the training
      logging.warning('checkpoint %s is saved, but tidying up failed: %s', folder, store.reason(e))

  def _failed(self, step: int, e: Exception) -> SaveFailed:
    folder = self.root / str(step)
    store.settle()
    if jax.process_index() == 0 and store.is_local(folder):  # leftovers would keep a full disk full
      with contextlib.suppress(OSError):  # what to report is why the save failed, and not that the folder is gone
        for p in store.leftovers(self.root, step):
          self._remove(p)
    free = 'unknown'
    with contextlib.suppress(OSError):
      free = str(shutil.disk_usage(self.root).free)
    return SaveFailed(f'could not save step {step} to {folder} ({free} bytes free there): {store.reason(e)}')

  def _prune(self):
    """Deletes old steps; called when the newer one is committed. Links, and steps known to be damaged, are left alone."""
    steps = [s for s in self.steps() if s not in self._bad]
    kept = set(steps[-self._keep :]) | {s for s in steps if self._keep_every and s % self._keep_every == 0} | self._pinned()
    for s in steps:
      folder = self.root / str(s)
      if s in kept or (store.is_local(folder) and os.path.islink(folder)):
        continue
      try:
        if store.is_local(folder):  # gone for readers at once, and never half there under its name
          folder = folder.rename(self.root / f'.{s}.deleted')
        else:
          (folder / 'commit_success.txt').unlink(missing_ok=True)
        self._remove(folder)
      except OSError as e:
        logging.warning('cannot delete the old checkpoint %s: %s', folder, e)

  def _pinned(self) -> set[int]:
    """Steps that a live reader works on. Pins without a heartbeat and those of dead processes of this host are removed."""
    pinned, host = set(), socket.gethostname()
    with contextlib.suppress(FileNotFoundError):
      for p in (self.root / 'pins').iterdir():
        match = re.fullmatch(r'(\d+)\.(.+)\.(\d+)', p.name)
        if not match:
          continue
        with contextlib.suppress(OSError):  # released while we look
          dead = match[2] == host and not _alive(int(match[3]))
          if dead or time.time() - p.stat().mtime > PIN_EXPIRY:
            p.unlink()
          else:
            pinned.add(int(match[1]))
    return pinned

  def _set_aside(self, folder: epath.Path) -> None:
    """Frees the name of a step that is damaged or not ours; deletes nothing."""
    k = next(k for k in range(10**6) if not (self.root / f'{folder.name}.aside-{k}').exists())
    aside = folder.rename(self.root / f'{folder.name}.aside-{k}')
    logging.warning('%s is no good checkpoint: it is now %s, and step %s is saved anew', folder, aside, folder.name)

  @staticmethod
  def _remove(path: epath.Path) -> None:
    try:
      path.rmtree()
    except Exception as e:
      logging.warning('cannot remove %s: %s', path, store.reason(e))


def _alive(pid: int) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except OSError:
    return True  # not ours, but there
  return True


def _all_processes(ok: bool) -> bool:
  """True when `ok` on every process: all must walk back together."""
  if jax.process_count() == 1:
    return ok
  from jax.experimental import multihost_utils

  return bool(np.all(multihost_utils.process_allgather(np.array(ok))))
