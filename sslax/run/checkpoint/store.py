"""The folder of checkpoints, and Orbax, which writes and reads the arrays there: the only file that knows its habits."""

import glob
import os
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from etils import epath
from etils.epath.gpath import PosixGPath

from sslax.errors import UserError

if TYPE_CHECKING:
  from orbax.checkpoint import v1 as ocp

# Held from the start of a save to its commit, and while reading. Orbax 0.12 numbers the operations of a process with one counter:
# a read that begins while a save is under way makes that save remove its own files (seen each time, in 4 runs).
one_operation = threading.Lock()


class LiteralPath(PosixGPath):
  """A path, local or gs://, whose own characters are no pattern.

  Orbax looks for the files that it wrote with `path.glob('ocdbt.process_*')`. For epath that is one pattern with the path: in
  'runs[1]' nothing is found, and Orbax commits a checkpoint without arrays; in 'runs?' it takes those of a neighbour too.
  """

  def glob(self, pattern: str) -> Iterator['LiteralPath']:
    """The paths below this one that match `pattern`."""
    return (type(self)(path) for path in epath.Path(glob.escape(os.fspath(self))).glob(pattern))


def orbax() -> Any:
  """The module, imported when first needed: it takes longer than everything else that a mistyped flag would wait for."""
  from orbax.checkpoint import v1 as ocp

  return ocp


# ---- the folder


def root_of(workdir: str | Path) -> LiteralPath:
  """Where the checkpoints of a workdir lie. Raises UserError where TensorStore would write them elsewhere, or not at all."""
  path = LiteralPath(workdir) / 'checkpoints'
  path = LiteralPath(os.path.abspath(path)) if is_local(path) else path  # Orbax wants absolute paths
  if re.search(r'[\\\ud800-\udfff]', str(path)):  # surrogates: what Python makes of bytes that are not UTF-8
    raise UserError(
      f'no checkpoint can be kept in {str(path)!r}: TensorStore takes a backslash for a slash, and only UTF-8 for a name. '
      'Rename the folder, or choose another.'
    )
  return path


def is_local(path: epath.Path) -> bool:
  """A file system, which renames atomically, rather than an object store."""
  return '://' not in str(path)


def steps(root: epath.Path) -> list[int]:
  """Numbers of the committed steps, ascending. An empty folder, a file, or a folder of something else is not a step."""

  def is_step(p: epath.Path) -> bool:
    if is_local(p):  # present at all means complete; with one of these gone it is a damaged one
      return any((p / name).exists() for name in ('integrity', 'state', '_CHECKPOINT_METADATA'))
    return (p / 'commit_success.txt').exists()  # no atomic rename on object stores: Orbax writes this last

  try:
    names = [p for p in root.iterdir() if re.fullmatch(r'0|[1-9]\d*', p.name)]
    return sorted(int(p.name) for p in names if is_step(p))
  except FileNotFoundError:
    return []


def leftovers(root: epath.Path, step: int | None = None) -> list[epath.Path]:
  """What an interrupted save or deletion of ours left there; with a step, of that one only."""
  number = r'\d+' if step is None else str(step)
  return [p for p in root.iterdir() if re.fullmatch(rf'{number}\.orbax-checkpoint-tmp.*|\.{number}\.deleted', p.name)]


# ---- the arrays. Orbax refuses those without elements: they are in the integrity file only


def save(folder: epath.Path, leaves: Mapping[tuple[str, ...], jax.Array], integrity: Any) -> 'ocp.AsyncResponse[None]':
  """Starts to write a checkpoint, committed as a whole; `one_operation` must be held until the response is there.

  Args:
    folder: the step's, which must not exist.
    leaves: {path: array}. They are on the host when this returns.
    integrity: written beside them, a StatefulCheckpointable of Orbax.
  """
  arrays = _nest({path: leaf for path, leaf in leaves.items() if leaf.size})
  return orbax().save_checkpointables_async(folder, {'state': arrays, 'integrity': integrity})


def load(
  folder: epath.Path, targets: Mapping[tuple[str, ...], jax.ShapeDtypeStruct], partial: bool
) -> dict[tuple[str, ...], jax.Array]:
  """{path: array}, not verified, as `targets` has them: their shapes, dtypes, and shardings, which they must have.

  Args:
    folder: the step's.
    targets: which leaves to read.
    partial: there may be others, too.
  """
  full = {path: x for path, x in targets.items() if x.size}
  state = {}
  if full:
    context = orbax().Context()
    context.pytree.loading.partial_load = partial
    with one_operation, context:
      state = orbax().load_checkpointables(folder, {'state': _nest(full)})['state']
  return {
    path: _pick(state, path) if path in full else jax.device_put(np.zeros(x.shape, x.dtype), x.sharding)
    for path, x in targets.items()
  }


def settle() -> None:
  """After a save that failed: others of Orbax's threads may still be at work, and once the next try of a step lost its files."""
  for thread in threading.enumerate():
    if type(thread).__name__ == '_SignalingThread':
      thread.join(10)


def reason(e: BaseException) -> str:
  """What went wrong, in one line."""
  while e.__cause__ is not None:  # Orbax wraps the reason in general remarks
    e = e.__cause__
  return f'{type(e).__name__}: {" ".join(str(e).split())[:200]}'


def _nest(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
  """Nested dicts. Orbax never sees tuples, NamedTuples, None or empty subtrees: the caller's treedef has those."""
  root: dict[str, Any] = {}
  for path, leaf in leaves.items():
    node = root
    for key in path[:-1]:
      node = node.setdefault(key, {})
    node[path[-1] if path else 'value'] = leaf
  return root


def _pick(state: dict[str, Any], path: tuple[str, ...]) -> Any:
  for key in path or ('value',):
    state = state[key]
  return state
