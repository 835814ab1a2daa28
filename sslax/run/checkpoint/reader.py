"""The evaluator's side: reads verified states beside a trainer that deletes old ones."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from sslax.errors import UserError
from sslax.io import digest
from sslax.run.checkpoint import integrity, store

PyTree = Any
PIN_BEAT = 60.0  # seconds


class Vanished(Exception):
  """The trainer deleted the step meanwhile: take another."""


class Reader:
  """Read only, and the trainer never waits for it. `root` is the folder of the checkpoints."""

  def __init__(self, workdir: str | Path):
    self.root = store.root_of(workdir)

  def steps(self) -> list[int]:
    """The committed steps, ascending."""
    return store.steps(self.root)

  def latest(self) -> int | None:
    """The newest committed step, or None."""
    return max(self.steps(), default=None)

  def meta(self, step: int) -> dict[str, Any]:
    """What the trainer saved as `meta`. Raises Vanished or Damaged."""
    return self._table(step)['meta']

  def leaves(self, step: int) -> dict[str, jax.ShapeDtypeStruct]:
    """{'params/encoder/w': shape and dtype} of all that was saved, without reading arrays. Raises Vanished or Damaged."""
    saved = self._table(step)['leaves']
    return {name: jax.ShapeDtypeStruct(tuple(leaf['shape']), np.dtype(leaf['dtype'])) for name, leaf in saved.items()}

  def digest(self, step: int) -> str:
    """One sha256 for the parameters and the memory of a step: the same in any workdir. Raises Vanished or Damaged."""
    saved = self._table(step)['leaves']
    return digest.of_json({name: leaf for name, leaf in saved.items() if name.startswith(('params/', 'memory/'))})

  def restore(self, abstract_state: PyTree, step: int, *, partial: bool = False) -> PyTree:
    """The verified state of `step`.

    Args:
      abstract_state: ShapeDtypeStructs with the shardings to restore to (the default device where there is none).
      step: one of `steps()`.
      partial: `abstract_state` may leave out parts of what was saved: {'params': {'encoder': ...}} reads the encoder only.

    Raises:
      UserError: other paths, shapes or dtypes than those saved.
      Vanished: the trainer deleted it; try another step.
      Damaged: it is not what was saved.
    """
    with self._vanishing(step):
      return load(self.root / str(step), abstract_state, partial)

  @contextlib.contextmanager
  def pin(self, step: int) -> Iterator[None]:
    """Inside `with reader.pin(step):` the trainer does not delete that step. Raises Vanished if it has done so already.

    A deletion that had begun when the pin was made goes on: `restore` may still raise Vanished, but never wrong values.
    """
    path = self.root / 'pins' / f'{step}.{socket.gethostname()}.{os.getpid()}'
    done = threading.Event()

    def beat():
      while not done.wait(PIN_BEAT):
        with contextlib.suppress(Exception):
          path.write_text('')

    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text('')
    except OSError as e:
      logging.warning('cannot pin step %d (%s): the trainer may delete it while it is read', step, e)
    thread = threading.Thread(target=beat, name='pin', daemon=True)
    thread.start()
    try:
      if step not in self.steps():  # asked after the pin is there: the trainer looks at pins before it deletes
        raise Vanished(f'step {step} is not in {self.root} any more')
      yield
    finally:
      done.set()
      thread.join()
      with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)

  def _table(self, step: int) -> dict[str, Any]:
    with self._vanishing(step):
      return integrity.read(self.root / str(step))

  @contextlib.contextmanager
  def _vanishing(self, step: int) -> Iterator[None]:
    try:
      yield
    except Exception as e:
      if step not in self.steps():
        raise Vanished(f'step {step} is not in {self.root} any more') from e
      raise


def load(folder: epath.Path, abstract_state: PyTree, partial: bool = False) -> PyTree:
  """The verified state of a step's folder, as `Reader.restore` describes it. Raises UserError (structure) or Damaged."""
  table = integrity.read(folder)
  wanted, treedef = integrity.flatten(abstract_state)
  _compare(folder, wanted, table, partial)
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  targets = {
    p: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, 'sharding', None) or device) for p, x in wanted.items()
  }
  try:
    leaves = store.load(folder, targets, partial)
  except Exception as e:
    changed = integrity.changed_files(folder)
    if changed == []:
      raise  # the bytes are those that were written: out of memory, a fault of ours, but not damage
    raise integrity.damaged(folder, f'reading failed ({store.reason(e)})', changed) from e
  wrong = integrity.changed_leaves(leaves, table)
  if wrong:
    more = f' and {len(wrong) - 1} more' if len(wrong) > 1 else ''
    cause = f'leaf {wrong[0]}{more}: sha256 is not that of what was saved'
    raise integrity.damaged(folder, cause, integrity.changed_files(folder))
  return jax.tree.unflatten(treedef, list(leaves.values()))


def _compare(folder: epath.Path, wanted: Mapping[tuple[str, ...], Any], table: dict[str, Any], partial: bool) -> None:
  """Raises UserError naming the first paths at which the checkpoint is not what the caller wants."""
  here = {name: integrity.kind(leaf['shape'], leaf['dtype']) for name, leaf in table['leaves'].items()}
  want = {'/'.join(path): integrity.kind(leaf.shape, leaf.dtype) for path, leaf in wanted.items()}
  names = list(want) + ([] if partial else [n for n in here if n not in want])
  wrong = [n for n in names if here.get(n) != want.get(n)]
  if wrong:
    lines = [f'  {n}: checkpoint {here.get(n, "has none")}, config {want.get(n, "has none")}' for n in wrong[:5]]
    more = [f'  ... and {len(wrong) - 5} more'] if len(wrong) > 5 else []
    raise UserError(
      '\n'.join([f'checkpoint {folder} does not fit this config:', *lines, *more])
      + '\nUse the config that it was saved with (config.json in its workdir), or another workdir.'
    )
