"""What was saved is what is read: a hash of every leaf, sealed; sums of the files, which name the one that rotted."""

import asyncio
import concurrent.futures
import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from sslax.errors import UserError
from sslax.io import digest

PyTree = Any
FORMAT = 1


class Damaged(UserError):
  """What was read is not what was saved."""


# ---- leaves and their hashes


def flatten(tree: PyTree) -> tuple[dict[tuple[str, ...], Any], Any]:
  """({path: leaf}, treedef). Paths are plain strings: ('opt_state', '0', 'mu', 'w') for a NamedTuple in a tuple in a dict."""
  pairs, treedef = jax.tree_util.tree_flatten_with_path(tree)
  leaves = {tuple(jax.tree_util.keystr((k,), simple=True) for k in path): leaf for path, leaf in pairs}
  if len({'.'.join(p).replace('/', '.') for p in leaves}) != len(pairs):  # Orbax names arrays by the keys joined with '.'
    raise ValueError('two leaves of the state have the same name once their keys are joined; rename one')
  return leaves, treedef


def kind(shape: Iterable[int], dtype: np.dtype | str) -> str:
  """'float32[16,24]'. A name of a dtype is taken as it is: a later version may have saved one that is not known here."""
  return f'{dtype if isinstance(dtype, str) else np.dtype(dtype).name}[{",".join(map(str, shape))}]'


def state_hash(state: PyTree) -> str:
  """One sha256 over path, dtype, shape and bytes of all leaves; it does not depend on shardings or on the device count.

  Args:
    state: a pytree of arrays. Where a leaf is sharded over processes, all processes must call this (it gathers that leaf).

  Returns:
    64 hexadecimal digits.
  """
  lines = []
  for path, leaf in sorted(flatten(state)[0].items()):
    whole = _whole(leaf) if isinstance(leaf, jax.Array) else np.asarray(leaf)
    if whole is None:
      from jax.experimental import multihost_utils

      whole = multihost_utils.process_allgather(leaf, tiled=True)
    lines.append(f'{"/".join(path)} {kind(whole.shape, whole.dtype)} {_sha256(whole)}\n')
  return digest.of_bytes(''.join(lines).encode())


def changed_leaves(leaves: Mapping[tuple[str, ...], jax.Array], table: dict[str, Any]) -> list[str]:
  """Names of the leaves that are not those of the table (see `read`): another shape, dtype, or hash of a region held here."""

  def is_changed(item: tuple[tuple[str, ...], jax.Array]) -> bool:
    path, leaf = item
    saved = table['leaves']['/'.join(path)]
    return kind(leaf.shape, leaf.dtype) != kind(saved['shape'], saved['dtype']) or _differs(leaf, saved['sha256'])

  for leaf in leaves.values():
    leaf.copy_to_host_async()
  return ['/'.join(path) for path, changed in zip(leaves, _parallel(is_changed, list(leaves.items())), strict=True) if changed]


def _sha256(x: np.ndarray) -> str:
  return digest.of_bytes(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)


def _parallel(f: Callable[[Any], Any], xs: list) -> list:
  with concurrent.futures.ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:  # hashlib releases the GIL
    return list(pool.map(f, xs))


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


# ---- file sums: they name the file


def sums(folder: epath.Path) -> dict[str, list[int]]:
  """{relative name: [bytes, CRC-32]} of every file of a committed step."""
  found = {}
  for path in sorted(p for p in Path(folder).rglob('*') if p.is_file() and p.name != 'files.json'):
    crc = size = 0
    with path.open('rb') as f:
      while block := f.read(1 << 22):
        crc, size = zlib.crc32(block, crc), size + len(block)
    found[path.relative_to(folder).as_posix()] = [size, crc]
  return found


def changed_files(folder: epath.Path) -> list[str] | None:
  """The files that are not as they were committed, with how; None when that is not known."""
  try:
    then = json.loads((folder / 'files.json').read_text())
    now = sums(folder)
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


def damaged(folder: epath.Path, cause: str, changed: list[str] | None) -> Damaged:
  """The error to raise: with step, leaf or cause, and file (of `changed_files`)."""
  files = 'not known which file changed' if changed is None else ', '.join(changed) or 'no file changed since its commit'
  return Damaged(f'checkpoint {folder} (step {folder.name}) is damaged: {cause}; files: {files}')


# ---- the integrity files


class Integrity:
  """What Orbax calls a StatefulCheckpointable: hashes are computed and written in its background thread, before its commit."""

  def __init__(self, leaves: Mapping[tuple[str, ...], jax.Array], step: int, meta: dict[str, Any]):
    for leaf in leaves.values():
      leaf.copy_to_host_async()
    # The values are fetched here and now: the caller's next step donates these buffers.
    self._host = {path: _pieces(leaf) for path, leaf in leaves.items()}
    self._kinds = {path: (list(leaf.shape), np.dtype(leaf.dtype).name) for path, leaf in leaves.items()}
    self._head = {'format': FORMAT, 'step': step, 'processes': jax.process_count(), 'meta': meta}

  async def save(self, directory: Any) -> Any:
    """Called by Orbax: a coroutine for its background thread."""

    async def write():
      folder = await directory.await_creation()
      await asyncio.to_thread(self._write, folder)

    return write()

  async def load(self, directory: Any) -> Any:
    """Orbax asks for one to be there."""
    raise NotImplementedError('read with integrity.read')

  def _write(self, folder: epath.Path) -> None:
    pieces = [(path, region, x) for path, parts in self._host.items() for region, x in parts.items()]
    digests = _parallel(lambda p: _sha256(p[2]), pieces)
    leaves: dict[str, dict[str, Any]] = {
      '/'.join(p): {'shape': shape, 'dtype': dtype, 'sha256': {}} for p, (shape, dtype) in self._kinds.items()
    }
    for (path, region, _), sha256 in zip(pieces, digests, strict=True):
      leaves['/'.join(path)]['sha256'][region] = sha256
    body = json.loads(json.dumps({**self._head, 'leaves': leaves}))
    (folder / f'process_{jax.process_index()}.json').write_text(json.dumps({**body, 'seal': seal(body)}, indent=1))
    self._host = {}  # the host copies are not needed any more


def seal(body: dict[str, Any]) -> str:
  """The hash of an integrity file without its seal."""
  return digest.of_json(body)


def read(folder: epath.Path) -> dict[str, Any]:
  """What the integrity files of a step say: that of process 0 with the hashes of the others merged into it.

  Returns:
    {'format', 'step', 'processes', 'meta', 'leaves': {name: {'shape', 'dtype', 'sha256': {region: hash}}}}

  Raises:
    Damaged: one is missing or changed, or is that of another step or format.
  """
  try:
    return _merged(folder)
  except Damaged as e:
    raise damaged(folder, str(e), changed_files(folder)) from e


def _merged(folder: epath.Path) -> dict[str, Any]:
  table = _read_sealed(folder / 'integrity' / 'process_0.json')
  if table.get('format') != FORMAT:
    raise Damaged(f'its format is {table.get("format")!r}, this version of sslax reads {FORMAT}')
  if str(table['step']) != folder.name:
    raise Damaged(f'it holds step {table["step"]}: a link to, or a copy of, another step')
  for i in range(1, table['processes']):
    for name, leaf in _read_sealed(folder / 'integrity' / f'process_{i}.json')['leaves'].items():
      table['leaves'][name]['sha256'].update(leaf['sha256'])
  return table


def _read_sealed(path: epath.Path) -> dict[str, Any]:
  try:
    body = json.loads(path.read_text())
    found = body.pop('seal')
  except Exception as e:  # anything may be in a damaged file
    raise Damaged(f'{path.parent.name}/{path.name} cannot be read ({type(e).__name__})') from e
  if found != seal(body):
    raise Damaged(f'{path.parent.name}/{path.name} does not hash to its seal')
  return body
