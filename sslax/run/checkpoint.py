"""Checkpoints: Orbax behind one module, plus what it lacks: a hash of every leaf, a walk back over bad steps, readers' pins."""

import asyncio
import concurrent.futures
import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from sslax.errors import UserError
from sslax.io.versions import versions

# workdir/checkpoints/<step>/state/...                 the arrays: nested dicts, named by the paths of the leaves (Orbax)
#                     <step>/integrity/process_0.json  shape, dtype and sha256 of each leaf, taken before writing; meta; sealed
#                     <step>/files.json                size and CRC-32 of each file, taken after the commit: names what rotted
#                     pins/<step>.<host>.<pid>         a reader is at work on this step
# Everything of a step but files.json is committed by one rename of Orbax: a step with a plain number is complete.

PyTree = Any
FORMAT = 1
PIN_EXPIRY = 3 * 3600.0  # seconds without a heartbeat: a pin of another host is taken for dead
PIN_BEAT = 60.0  # seconds

# Held from the start of a save to its commit, and while reading. Orbax 0.12 numbers the operations of a process with one counter:
# a read that begins while a save is under way makes that save remove its own files (seen each time, in 4 runs).
_one_operation = threading.Lock()


class SaveFailed(Exception):
  """A checkpoint could not be written (disk full, no permission); older steps are untouched."""


class Damaged(UserError):
  """What was read is not what was saved."""


class Vanished(Exception):
  """The trainer deleted the step meanwhile: take another."""


def _orbax():
  # Imported when first needed: it takes longer than everything else that a mistyped flag would wait for.
  from orbax.checkpoint import v1 as ocp

  return ocp


# ---- leaves and their hashes


def _flatten(tree: PyTree) -> tuple[dict[tuple[str, ...], Any], Any]:
  """({path: leaf}, treedef). Paths are plain strings: ('opt_state', '0', 'mu', 'w') for a NamedTuple in a tuple in a dict."""
  pairs, treedef = jax.tree_util.tree_flatten_with_path(tree)
  flat = {tuple(jax.tree_util.keystr((k,), simple=True) for k in path): leaf for path, leaf in pairs}
  if len({'.'.join(p).replace('/', '.') for p in flat}) != len(pairs):  # Orbax names arrays by the keys joined with '.'
    raise ValueError('two leaves of the state have the same name once their keys are joined; rename one')
  return flat, treedef


def _nest(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
  """Nested dicts. Orbax never sees tuples, NamedTuples, None or empty subtrees: the caller's treedef has those."""
  root: dict[str, Any] = {}
  for path, leaf in flat.items():
    node = root
    for key in path[:-1]:
      node = node.setdefault(key, {})
    node[path[-1] if path else 'value'] = leaf
  return root


def _sha256(x: np.ndarray) -> str:
  return hashlib.sha256(np.ascontiguousarray(x).reshape(-1).view(np.uint8)).hexdigest()


def _parallel(f, xs: list) -> list:
  with concurrent.futures.ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:  # hashlib releases the GIL
    return list(pool.map(f, xs))


def _kind(x) -> str:
  return f'{np.dtype(x.dtype).name}[{",".join(map(str, x.shape))}]'


def _region(index: tuple[slice, ...], shape: tuple[int, ...]) -> str:
  """'0:4,8:16' for the part of a global array that a shard holds."""
  return ','.join(f'{s.indices(n)[0]}:{s.indices(n)[1]}' for s, n in zip(index, shape, strict=True))


def _cut(x: np.ndarray, region: str) -> np.ndarray:
  return x[tuple(slice(*map(int, r.split(':'))) for r in region.split(','))] if region else x


def _whole(leaf: jax.Array) -> np.ndarray | None:
  """The global array on the host, or None when a part of it lives on another process."""
  if leaf.is_fully_addressable:
    return np.asarray(leaf)
  return np.asarray(leaf.addressable_data(0)) if leaf.is_fully_replicated else None


def _pieces(leaf: jax.Array) -> dict[str, np.ndarray]:
  """{region: values} that this process answers for; '' is the whole array.

  On accelerators these are copies. On CPU they are views, and holding one makes the runtime refuse to donate that buffer.
  """
  whole = _whole(leaf)
  if whole is not None:
    return {'': whole} if leaf.is_fully_addressable or jax.process_index() == 0 else {}
  return {_region(s.index, leaf.shape): np.asarray(s.data) for s in leaf.addressable_shards if s.replica_id == 0}


def _differs(leaf: jax.Array, saved: Mapping[str, str]) -> bool:
  """Does any saved region that this process can see hash to something else?"""
  whole = _whole(leaf)
  if whole is not None:
    return any(_sha256(_cut(whole, region)) != want for region, want in saved.items())
  local = {_region(s.index, leaf.shape): s.data for s in leaf.addressable_shards}
  return any(_sha256(np.asarray(local[region])) != want for region, want in saved.items() if region in local)


def state_hash(state: PyTree) -> str:
  """One sha256 over path, dtype, shape and bytes of all leaves; it does not depend on shardings or on the device count.

  Args:
    state: a pytree of arrays. Where a leaf is sharded over processes, all processes must call this (it gathers that leaf).

  Returns:
    64 hexadecimal digits.
  """
  total = hashlib.sha256()
  for path, leaf in sorted(_flatten(state)[0].items()):
    whole = _whole(leaf) if isinstance(leaf, jax.Array) else np.asarray(leaf)
    if whole is None:
      from jax.experimental import multihost_utils

      whole = multihost_utils.process_allgather(leaf, tiled=True)
    total.update(f'{"/".join(path)} {_kind(whole)} {_sha256(whole)}\n'.encode())
  return total.hexdigest()


# ---- the integrity files


def _seal(body: dict) -> str:
  return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class _Integrity:
  """What Orbax calls a StatefulCheckpointable: hashes are computed and written in its background thread, before its commit."""

  def __init__(self, flat: Mapping[tuple[str, ...], jax.Array], step: int, meta: dict):
    for leaf in flat.values():
      leaf.copy_to_host_async()
    # The values are fetched here and now: the caller's next step donates these buffers.
    self._host = {path: _pieces(leaf) for path, leaf in flat.items()}
    self._kinds = {path: (list(leaf.shape), np.dtype(leaf.dtype).name) for path, leaf in flat.items()}
    self._head = {'format': FORMAT, 'step': step, 'processes': jax.process_count(), 'meta': meta}

  async def save(self, directory):
    async def write():
      folder = await directory.await_creation()
      await asyncio.to_thread(self._write, folder)

    return write()

  async def load(self, directory):
    raise NotImplementedError('read with _read_integrity')

  def _write(self, folder: epath.Path):
    pieces = [(path, region, x) for path, parts in self._host.items() for region, x in parts.items()]
    digests = _parallel(lambda p: _sha256(p[2]), pieces)
    leaves = {'/'.join(p): {'shape': shape, 'dtype': dtype, 'sha256': {}} for p, (shape, dtype) in self._kinds.items()}
    for (path, region, _), digest in zip(pieces, digests, strict=True):
      leaves['/'.join(path)]['sha256'][region] = digest
    body = json.loads(json.dumps({**self._head, 'leaves': leaves}))
    (folder / f'process_{jax.process_index()}.json').write_text(json.dumps({**body, 'seal': _seal(body)}, indent=1))
    self._host = {}  # the host copies are not needed any more


def _read_sealed(path: epath.Path) -> dict:
  try:
    body = json.loads(path.read_text())
    seal = body.pop('seal')
  except Exception as e:  # anything may be in a damaged file
    raise Damaged(f'{path.parent.name}/{path.name} cannot be read ({type(e).__name__})') from e
  if seal != _seal(body):
    raise Damaged(f'{path.parent.name}/{path.name} does not hash to its seal')
  return body


def _read_integrity(folder: epath.Path) -> dict:
  """The integrity file of process 0 with the hashes of the others merged into it. Raises Damaged."""
  table = _read_sealed(folder / 'integrity' / 'process_0.json')
  if table.get('format') != FORMAT:
    raise Damaged(f'its format is {table.get("format")!r}, this version of sslax reads {FORMAT}')
  if str(table['step']) != folder.name:
    raise Damaged(f'it holds step {table["step"]}: a link to, or a copy of, another step')
  for i in range(1, table['processes']):
    for name, leaf in _read_sealed(folder / 'integrity' / f'process_{i}.json')['leaves'].items():
      table['leaves'][name]['sha256'].update(leaf['sha256'])
  return table


# ---- file sums: they name the file


def _is_local(path: epath.Path) -> bool:
  return '://' not in str(path)


def _sums(folder: epath.Path) -> dict[str, list[int]]:
  """{relative name: [bytes, CRC-32]} of every file of a committed step."""
  found = {}
  for path in sorted(p for p in Path(folder).rglob('*') if p.is_file() and p.name != 'files.json'):
    crc = size = 0
    with path.open('rb') as f:
      while block := f.read(1 << 22):
        crc, size = zlib.crc32(block, crc), size + len(block)
    found[path.relative_to(folder).as_posix()] = [size, crc]
  return found


def _changed_files(folder: epath.Path) -> list[str] | None:
  """The files that are not as they were committed, with how; None when that is not known."""
  try:
    then = json.loads((folder / 'files.json').read_text())
    now = _sums(folder)
    changed = []
    for name, (size, crc) in then.items():
      if name not in now:
        changed.append(f'{name} (missing)')
      elif now[name][0] != size:
        changed.append(f'{name} ({now[name][0]} bytes instead of {size})')
      elif now[name][1] != crc:
        changed.append(f'{name} (bytes changed)')
    return changed
  except Exception:  # a diagnosis must not hide what it is about
    return None


# ---- reading


def _steps(root: epath.Path) -> list[int]:
  """Numbers of the committed steps, ascending. An empty folder, a file, or a folder of something else is not a step."""

  def is_step(p: epath.Path) -> bool:
    if _is_local(p):  # present at all means complete; with one of these gone it is a damaged one
      return any((p / name).exists() for name in ('integrity', 'state', '_CHECKPOINT_METADATA'))
    return (p / 'commit_success.txt').exists()  # no atomic rename on object stores: Orbax writes this last

  try:
    names = [p for p in root.iterdir() if re.fullmatch(r'0|[1-9]\d*', p.name)]
    return sorted(int(p.name) for p in names if is_step(p))
  except FileNotFoundError:
    return []


def _compare(folder: epath.Path, flat: Mapping[tuple[str, ...], Any], table: dict, partial: bool):
  """Raises UserError naming the first paths at which the checkpoint is not what the caller wants."""
  saved = {name: f'{leaf["dtype"]}[{",".join(map(str, leaf["shape"]))}]' for name, leaf in table['leaves'].items()}
  wanted = {'/'.join(path): _kind(leaf) for path, leaf in flat.items()}
  names = list(wanted) + ([] if partial else [n for n in saved if n not in wanted])
  wrong = [n for n in names if saved.get(n) != wanted.get(n)]
  if wrong:
    lines = [f'  {n}: checkpoint {saved.get(n, "has none")}, config {wanted.get(n, "has none")}' for n in wrong[:5]]
    more = [f'  ... and {len(wrong) - 5} more'] if len(wrong) > 5 else []
    raise UserError(
      '\n'.join([f'checkpoint {folder} does not fit this config:', *lines, *more])
      + '\nUse the config that it was saved with (config.json in its workdir), or another workdir.'
    )


def _load(folder: epath.Path, abstract: PyTree, partial: bool = False) -> PyTree:
  """The verified state. Raises Damaged (with step, leaf or cause, and file) or UserError (structure)."""

  def damaged(reason: str, changed: list[str] | None) -> Damaged:
    files = 'not known which file changed' if changed is None else ', '.join(changed) or 'no file changed since its commit'
    return Damaged(f'checkpoint {folder} (step {folder.name}) is damaged: {reason}; files: {files}')

  try:
    table = _read_integrity(folder)
  except Damaged as e:
    raise damaged(str(e), _changed_files(folder)) from e
  flat, treedef = _flatten(abstract)
  _compare(folder, flat, table, partial)
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  targets = {p: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, 'sharding', None) or device) for p, x in flat.items()}
  try:
    full = {path: x for path, x in targets.items() if x.size}
    state = _orbax_load(folder, _nest(full), partial) if full else {}
    leaves = [
      _pick(state, p) if p in full else jax.device_put(np.zeros(x.shape, x.dtype), x.sharding) for p, x in targets.items()
    ]
  except Exception as e:
    changed = _changed_files(folder)
    if changed == []:
      raise  # the bytes are those that were written: out of memory, a fault of ours, but not damage
    raise damaged(f'reading failed ({_one_line(e)})', changed) from e

  def is_wrong(item) -> bool:
    (path, want), leaf = item
    return (leaf.shape, leaf.dtype) != (want.shape, want.dtype) or _differs(leaf, table['leaves']['/'.join(path)]['sha256'])

  for leaf in leaves:
    leaf.copy_to_host_async()
  wrong = _parallel(is_wrong, list(zip(targets.items(), leaves, strict=True)))
  names = ['/'.join(path) for path, bad in zip(targets, wrong, strict=True) if bad]
  if names:
    more = f' and {len(names) - 1} more' if len(names) > 1 else ''
    raise damaged(f'leaf {names[0]}{more}: sha256 is not that of what was saved', _changed_files(folder))
  return jax.tree.unflatten(treedef, leaves)


def _orbax_load(folder: epath.Path, nested: dict, partial: bool) -> dict:
  ocp = _orbax()
  context = ocp.Context()
  context.pytree.loading.partial_load = partial
  with _one_operation, context:
    return ocp.load_checkpointables(str(folder), {'state': nested})['state']


def _pick(state: dict, path: tuple[str, ...]):
  for key in path or ('value',):
    state = state[key]
  return state


def _one_line(e: BaseException) -> str:
  while e.__cause__ is not None:  # Orbax wraps the reason in general remarks
    e = e.__cause__
  return f'{type(e).__name__}: {" ".join(str(e).split())[:200]}'


def _all_processes(ok: bool) -> bool:
  """True when `ok` on every process: all must walk back together."""
  if jax.process_count() == 1:
    return ok
  from jax.experimental import multihost_utils

  return bool(np.all(multihost_utils.process_allgather(np.array(ok))))


def _root(workdir: str | Path) -> epath.Path:
  root = epath.Path(workdir) / 'checkpoints'
  return root if not _is_local(root) else epath.Path(os.path.abspath(root))  # Orbax wants absolute paths


class Checkpointer:
  """The trainer's side: saves in the background, deletes old steps, restores the newest good one. Always `close` it."""

  def __init__(self, workdir: str | Path, *, every_steps: int, keep: int = 3, keep_every: int = 0, meta: dict | None = None):
    """Creates workdir/checkpoints and removes what an interrupted save of ours left there.

    Args:
      workdir: local folder or gs:// URL.
      every_steps: `due` at its multiples.
      keep: how many of the newest steps to keep.
      keep_every: multiples of it are kept for ever; 0: none.
      meta: saved with each step as JSON; 'versions' is added.

    Raises:
      UserError: a number is out of range, or the folder cannot be written.
    """
    if every_steps < 1 or keep < 1 or keep_every < 0:
      raise UserError(f'checkpoint: every_steps={every_steps} and keep={keep} must be >= 1, keep_every={keep_every} >= 0')
    self._root, self._every, self._keep, self._keep_every = _root(workdir), every_steps, keep, keep_every
    self._meta = json.loads(json.dumps({'versions': versions(), **(meta or {})}))
    self._bad: set[int] = set()
    self._pending: tuple[int, concurrent.futures.Future] | None = None
    self._thread = concurrent.futures.ThreadPoolExecutor(1, 'checkpoint')
    self.damaged: list[str] = []  # why newer steps were passed over, one message a step
    if jax.process_index() == 0:
      try:
        self._root.mkdir(parents=True, exist_ok=True)
      except OSError as e:
        raise UserError(f'cannot create {self._root}: {e.strerror or e}. Choose another --workdir.') from e
      for p in self._root.iterdir():
        if re.fullmatch(r'\d+\.orbax-checkpoint-tmp.*|\.\d+\.deleted', p.name):
          self._remove(p)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def due(self, step: int) -> bool:
    """Is `step` one to save at?"""
    return step % self._every == 0

  def steps(self) -> list[int]:
    """The committed steps, ascending."""
    return _steps(self._root)

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
    flat, _ = _flatten(state)
    for path, leaf in flat.items():
      if not isinstance(leaf, jax.Array) or jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        raise TypeError(
          f'state leaf {"/".join(path)} is a {getattr(leaf, "dtype", type(leaf))}: checkpoints hold plain jax arrays'
        )
    folder = self._root / str(step)
    _one_operation.acquire()
    try:
      if folder.exists() and jax.process_index() == 0:
        self._set_aside(folder)
      integrity = _Integrity(flat, step, self._meta)
      arrays = _nest({path: leaf for path, leaf in flat.items() if leaf.size})  # Orbax refuses arrays of no elements
      saved = _orbax().save_checkpointables_async(str(folder), {'state': arrays, 'integrity': integrity})
      self._pending = step, self._thread.submit(self._finish, folder, saved)
    except Exception as e:
      _one_operation.release()
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
      raise UserError(f'no checkpoint of step {step} in {self._root}; there are: {steps or "none"}')
    for s in [step] if step is not None else reversed(steps):
      state = error = None
      try:
        state = _load(self._root / str(s), abstract_state)
      except Damaged as e:
        error = e
      if _all_processes(error is None):
        return state, s
      error = error or Damaged(f'checkpoint {self._root / str(s)} (step {s}) is damaged: another process found it so')
      logging.warning('%s', error)
      self.damaged.append(str(error))
      self._bad.add(s)
      if step is not None:
        raise error
    if steps:
      raise Damaged(f'no good checkpoint is left in {self._root}:\n' + '\n'.join(self.damaged) + '\nMove it away to start anew.')
    return None

  def wait(self):
    """Returns when nothing is being saved. Raises SaveFailed if the last save failed."""
    if self._pending is None:
      return
    (step, pending), self._pending = self._pending, None
    try:
      pending.result()
    except Exception as e:
      raise self._failed(step, e) from e

  def close(self):
    """Waits for the last save; raises SaveFailed if it failed."""
    try:
      self.wait()
    finally:
      self._thread.shutdown()

  def _finish(self, folder: epath.Path, saved):
    try:
      saved.result()  # raises what went wrong in Orbax's thread
    finally:
      _one_operation.release()
    if jax.process_index() != 0:
      return
    try:
      if _is_local(folder):  # reading everything back from an object store would cost more than it tells
        part = folder / '.files.json.part'
        part.write_text(json.dumps(_sums(folder), indent=1))
        part.replace(folder / 'files.json')
      self._prune()
    except Exception as e:  # the checkpoint is committed: what follows must not stop the training
      logging.warning('checkpoint %s is saved, but tidying up failed: %s', folder, _one_line(e))

  def _failed(self, step: int, e: Exception) -> SaveFailed:
    folder = self._root / str(step)
    for thread in threading.enumerate():  # others of Orbax may still be at work: once, the next try of a step lost its files
      if type(thread).__name__ == '_SignalingThread':
        thread.join(10)
    if jax.process_index() == 0 and _is_local(folder):  # leftovers would keep a full disk full
      for p in self._root.glob(f'{step}.orbax-checkpoint-tmp*'):
        self._remove(p)
    free = 'unknown'
    with contextlib.suppress(OSError):
      free = str(shutil.disk_usage(self._root).free)
    return SaveFailed(f'could not save step {step} to {folder} ({free} bytes free there): {_one_line(e)}')

  def _prune(self):
    """Deletes old steps; called when the newer one is committed. Links, and steps known to be damaged, are left alone."""
    steps = [s for s in self.steps() if s not in self._bad]
    kept = set(steps[-self._keep :]) | {s for s in steps if self._keep_every and s % self._keep_every == 0} | self._pinned()
    for s in steps:
      folder = self._root / str(s)
      if s in kept or (_is_local(folder) and os.path.islink(folder)):
        continue
      try:
        if _is_local(folder):  # gone for readers at once, and never half there under its name
          folder = folder.rename(self._root / f'.{s}.deleted')
        else:
          (folder / 'commit_success.txt').unlink(missing_ok=True)
        self._remove(folder)
      except OSError as e:
        logging.warning('cannot delete the old checkpoint %s: %s', folder, e)

  def _pinned(self) -> set[int]:
    """Steps that a live reader works on. Pins without a heartbeat and those of dead processes of this host are removed."""
    pinned, host = set(), socket.gethostname()
    with contextlib.suppress(FileNotFoundError):
      for p in (self._root / 'pins').iterdir():
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

  def _set_aside(self, folder: epath.Path):
    """Frees the name of a step that is damaged or not ours; deletes nothing."""
    k = next(k for k in range(10**6) if not (self._root / f'{folder.name}.aside-{k}').exists())
    aside = folder.rename(self._root / f'{folder.name}.aside-{k}')
    logging.warning('%s is no good checkpoint: it is now %s, and step %s is saved anew', folder, aside, folder.name)

  @staticmethod
  def _remove(path: epath.Path):
    try:
      path.rmtree()
    except Exception as e:
      logging.warning('cannot remove %s: %s', path, _one_line(e))


def _alive(pid: int) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except OSError:
    return True  # not ours, but there
  return True


class Reader:
  """The evaluator's side: read only, and the trainer never waits for it."""

  def __init__(self, workdir: str | Path):
    self._root = _root(workdir)

  def steps(self) -> list[int]:
    """The committed steps, ascending."""
    return _steps(self._root)

  def latest(self) -> int | None:
    """The newest committed step, or None."""
    return max(self.steps(), default=None)

  def meta(self, step: int) -> dict:
    """What the trainer saved as `meta`. Raises Vanished or Damaged."""
    with self._vanishing(step):
      return _read_integrity(self._root / str(step))['meta']

  def digest(self, step: int) -> str:
    """One sha256 for the arrays of a step: the same values have the same, in whatever workdir. Raises Vanished or Damaged."""
    with self._vanishing(step):
      leaves = _read_integrity(self._root / str(step))['leaves']
    kept = {path: leaf for path, leaf in leaves.items() if path.startswith(('params/', 'memory/'))}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

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
      return _load(self._root / str(step), abstract_state, partial)

  @contextlib.contextmanager
  def pin(self, step: int) -> Iterator[None]:
    """Inside `with reader.pin(step):` the trainer does not delete that step. Raises Vanished if it has done so already.

    A deletion that had begun when the pin was made goes on: `restore` may still raise Vanished, but never wrong values.
    """
    path = self._root / 'pins' / f'{step}.{socket.gethostname()}.{os.getpid()}'
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
        raise Vanished(f'step {step} is not in {self._root} any more')
      yield
    finally:
      done.set()
      thread.join()
      with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)

  @contextlib.contextmanager
  def _vanishing(self, step: int) -> Iterator[None]:
    try:
      yield
    except Exception as e:
      if step not in self.steps():
        raise Vanished(f'step {step} is not in {self._root} any more') from e
      raise
