"""Patterns to paths, and reading them: plain os calls on this machine, etils for gs://."""

import glob
import itertools
import os
import re
from typing import IO, Any

from sslax.errors import UserError, suggest

MAX_PATHS = 1_000_000


def is_remote(path: str) -> bool:
  """Whether `path` is gs://, s3:// or the like."""
  return '://' in path


def remote(path: str) -> Any:
  """The `etils.epath.Path` of a remote path."""
  from etils import epath  # not needed by those whose data is local

  return epath.Path(path)


def exists(path: str) -> bool:
  return remote(path).exists() if is_remote(path) else os.path.exists(path)


def is_dir(path: str) -> bool:
  return remote(path).is_dir() if is_remote(path) else os.path.isdir(path)


def version(path: str) -> str:
  """Size and time of change: another file in its place has another."""
  if is_remote(path):
    stat = remote(path).stat()
    return f'{stat.length} {stat.mtime}'
  stat = os.stat(path)
  return f'{stat.st_size} {stat.st_mtime_ns}'


def size(path: str) -> int:
  """In bytes."""
  return remote(path).stat().length if is_remote(path) else os.stat(path).st_size


def open_binary(path: str) -> IO[bytes]:
  return remote(path).open('rb') if is_remote(path) else open(path, 'rb')


def read(path: str, spans: list[tuple[int, int]] | None = None) -> list[bytes]:
  """The bytes at each (offset, size), or the whole file as a list of one.

  Opens the file each time: 10 us, safe in every thread and worker, and 10,000 shards never need 10,000 descriptors.
  """
  with remote(path).open('rb') if is_remote(path) else open(path, 'rb', buffering=0) as f:
    if spans is None:
      return [f.read()]
    if is_remote(path):
      return [(f.seek(offset), f.read(size))[1] for offset, size in spans]
    return [os.pread(f.fileno(), size, offset) for offset, size in spans]


def expand(pattern: str, suffix: str, split: str = '') -> list[str]:
  """The files that a pattern names, in the order of the pattern; what a glob finds is sorted.

  Args:
    pattern: a folder, or paths with commas between them, each with braces (`{00000..00012}`, `{a,b}`) and wild cards (`*`, `?`).
    suffix: the files of a folder that count, such as '.tar'.
    split: for a folder, the files that begin with this name, as in `train-00000-of-00002.parquet`.

  Raises:
    UserError: a part names nothing; a folder holds several splits and none is chosen.
  """
  pattern = os.path.expanduser(pattern)
  if not pattern:
    raise UserError(f'no path given: write the path of a {suffix} file, a pattern or a folder')
  if is_dir(pattern):
    return _expand_folder(pattern, suffix, split)
  if split:
    raise UserError(f'{pattern!r} is no folder, so it has no split {split!r}: name the files, for example {split}-*{suffix}')
  parts = [pattern] if exists(pattern) else list(itertools.chain(*map(_expand_braces, _split_commas(pattern))))
  paths = []
  for part in parts:
    found = [part] if exists(part) else sorted(_glob(part))
    if not found:
      raise missing(part, f' ({len(parts)} files are named by {pattern!r})' if len(parts) > 1 else '')
    paths += found
  return list(dict.fromkeys(paths))  # two overlapping wild cards must not double an image


def matches(pattern: str) -> bool:
  """Whether a file of this very name exists, or one that it names as a wild card."""
  return exists(pattern) or bool(_glob(pattern))


def missing(path: str, note: str = '') -> UserError:
  """The error for a path that is not there: says how far the path exists, and what is there."""
  nearest = path
  while not exists(nearest) and not nearest.endswith(':/') and os.path.dirname(nearest) != nearest:
    nearest = os.path.dirname(nearest)
  beside = sorted(os.listdir(nearest or '.')) if not is_remote(path) and os.path.isdir(nearest or '.') else []
  what = 'nothing matches' if glob.has_magic(path) else 'no such file or folder:'
  hint = ' What follows an @ is a split: @train, @train[:10%] or @[100:200].' if '@' in path else ''
  near = suggest(os.path.relpath(path, nearest or '.').split('/')[0], beside)
  holds = f', which holds {", ".join(beside[:8])}{", ..." if len(beside) > 8 else ""}' if beside else ''
  hint = (near if 'mean' in near else '') + hint
  return UserError(f'{what} {path!r}{note}. The nearest that exists is {nearest or os.getcwd()!r}{holds}.{hint}')


def _expand_folder(path, suffix, split):
  names = [name for name in _list(path) if name.endswith(suffix) and not name.startswith('.')]
  kinds = sorted({re.split(r'[-_.]', name)[0] for name in names if re.match(r'(train|val|validation|test)[-_.]', name)})
  chosen = [name for name in names if not split or re.match(re.escape(split) + r'[-_.]', name)]
  if not chosen:
    what = f'{suffix} files of the split {split!r}' if split else f'{suffix} files'
    raise UserError(f'no {what} in {path!r}; it holds: {", ".join(_list(path)[:8]) or "nothing"}')
  if len(kinds) > 1 and not split:
    raise UserError(f'{path!r} holds several splits: choose one with {" or ".join("@" + kind for kind in kinds)}')
  return [os.path.join(path, name) for name in chosen]


def _list(path: str) -> list[str]:
  return sorted(p.name for p in remote(path).iterdir()) if is_remote(path) else sorted(os.listdir(path))


def _glob(pattern):
  if not glob.has_magic(pattern):
    return []
  if not is_remote(pattern):
    return glob.glob(pattern)
  base, _, rest = pattern.rpartition('/')
  return [os.fspath(path) for path in remote(base).glob(rest)]


def _split_commas(pattern):
  """Commas between paths, not those inside braces."""
  return [part.strip() for part in re.split(r',(?![^{}]*\})', pattern) if part.strip()]


def _expand_braces(pattern):
  """'{08..11}' -> 08 09 10 11 (as wide as the first number); '{a,b}' -> a b."""
  found = re.search(r'\{([^{}]*)\}', pattern)
  if not found:
    return [pattern]
  numbers = re.fullmatch(r'(\d+)\.\.(\d+)', found[1])
  if numbers:
    first, last = int(numbers[1]), int(numbers[2])
    if not 0 <= last - first < MAX_PATHS:
      raise UserError(f'{found[0]} in {pattern!r}: the range must go up and name at most {MAX_PATHS:,} files')
    items = [f'{n:0{len(numbers[1])}d}' for n in range(first, last + 1)]
  elif ',' in found[1]:
    items = found[1].split(',')
  else:
    raise UserError(f'{found[0]} in {pattern!r}: expected a range such as {{00000..00012}} or choices such as {{train,val}}')
  tails = _expand_braces(pattern[found.end() :])
  return [pattern[: found.start()] + item + tail for item in items for tail in tails]


def walk(root: str) -> tuple[list[str], list[str]]:
  """The folders directly in `root`, and every file below it relative to it; hidden ones left out, links followed once, sorted."""
  folders: list[str] = []
  names: list[str] = []
  seen = set()
  base = os.fspath(remote(root)) if is_remote(root) else root
  for folder, subfolders, found in remote(root).walk() if is_remote(root) else os.walk(root, followlinks=True, onerror=_refuse):
    folder = os.fspath(folder)
    subfolders[:] = sorted(name for name in subfolders if not name.startswith('.'))
    inside = os.path.relpath(folder, base)
    if not is_remote(root):
      real = os.path.realpath(folder)
      if real in seen:  # a link that leads back up
        subfolders.clear()
        continue
      seen.add(real)
    folders += subfolders if inside == '.' else []
    names += [name if inside == '.' else f'{inside}/{name}' for name in sorted(found) if not name.startswith('.')]
  return folders, names


def _refuse(error):
  raise UserError(f'cannot read {error.filename!r}: {error.strerror}')
