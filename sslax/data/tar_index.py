"""The index of a tar shard: where the members of each record lie, read from the headers once and kept."""

import contextlib
import hashlib
import itertools
import json
import os
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from sslax.data import files, record
from sslax.errors import UserError
from sslax.io import atomic, cache

MAX_LABEL = 2**31 - 2

_VERSION = 2


def load(path: str, field: str) -> dict[str, np.ndarray]:
  """The index of a shard, kept for as long as the shard has this size and time of change.

  It lies beside the shard, as .NAME.index.npz, or in the cache folder where that folder is read-only or remote.

  Args:
    path: of the shard.
    field: of KEY.json, which holds the labels; '': see `Tar`.

  Returns:
    Of N records with M members: key `[N]` bytes; label `[N]` int64, -1 where there is none (with `field`: bytes of JSON);
    suffixes `[S]` bytes, the different ones; and of each member, in the order of records and within one in that of the shard:
    record `[M]`, suffix `[M]` (numbers) and span `[M, 2]` (offset, size). Records without image, video and audio are left out.

  Raises:
    UserError: no tar file, or a label that is none.
  """
  stamp = f'{_VERSION} {files.version(path)} {field}'
  kept_in = _cache_path(path, field)
  try:
    with np.load(kept_in, allow_pickle=False) as kept:
      if str(kept['stamp']) == stamp:
        return dict(kept)
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # none yet, or damaged
    pass
  index = _scan(path, field)
  try:
    with atomic.replacing(kept_in) as file:  # several workers may do it at once
      np.savez(file, **index, stamp=np.array(stamp))
  except OSError as error:  # a full disk costs time at the next start, no more
    logging.warning('cannot keep the index of %s: %s', path, error)
  return index


def parse(data: bytes | None) -> dict[str, Any]:
  """The fields of a member KEY.json; {} where there is none, or it holds none."""
  try:
    fields = json.loads(data) if data is not None else {}
  except (ValueError, RecursionError):
    return {}
  return fields if isinstance(fields, dict) else {}


def held(path: str) -> str:
  """For an error: what a shard begins with."""
  names: list[str] = []
  with files.open_binary(path) as f, contextlib.suppress(tarfile.TarError):
    names += (member.name for member in itertools.islice(tarfile.open(fileobj=f, mode='r:'), 8))
  return ', '.join(names) or 'nothing'


def _cache_path(path, field):
  folder, name = os.path.split(os.path.abspath(path))
  ending = f'{hashlib.sha256(field.encode()).hexdigest()[:8]}.index.npz' if field else 'index.npz'
  # The mode is asked too: root may write anywhere, and should not where the owner said read-only.
  if not files.is_remote(path) and os.access(folder, os.W_OK) and os.stat(folder).st_mode & 0o222:
    return os.path.join(folder, f'.{name}.{ending}')
  return os.path.join(cache.folder(), f'{name}.{hashlib.sha256(path.encode()).hexdigest()[:16]}.{ending}')


def _scan(path, field):
  """Reads the headers, and the labels."""
  records = {key: members for key, members in _members(path).items() if any(map(record.medium_of_suffix, members))}
  suffixes = {suffix: s for s, suffix in enumerate(dict.fromkeys(itertools.chain(*records.values())))}
  rows = [(r, suffixes[suffix], *span) for r, members in enumerate(records.values()) for suffix, span in members.items()]
  table = np.array(rows, np.int64).reshape(-1, 4)
  encode = lambda names: np.array([name.encode('utf-8', 'surrogateescape') for name in names], dtype=bytes)
  return {
    'key': encode(records),
    'label': np.array([_label(path, key, m, field) for key, m in records.items()], dtype=bytes if field else np.int64),
    'suffixes': encode(suffixes),
    'record': table[:, 0],
    'suffix': table[:, 1].astype(np.int32),
    'span': table[:, 2:],
  }


def _members(path):
  """{key: {suffix: (offset, size)}}: all members that a key has; of two with one name the last, as tar itself has it."""
  records: dict[str, dict[str, tuple[int, int]]] = {}
  with files.open_binary(path) as f:
    size = f.seek(0, os.SEEK_END)
    f.seek(0)
    try:
      archive = tarfile.open(fileobj=f, mode='r:')
      for member in archive:
        folder, _, name = member.name.rpartition('/')
        key, _, suffix = name.partition('.')
        if not member.isreg() or member.issparse() or not key:  # links, devices, folders, hidden files
          continue
        key = f'{folder}/{key}' if folder else key
        members = records.setdefault(key, {})
        if not 0 <= member.size <= size - member.offset_data:
          raise tarfile.ReadError('unexpected end of data')
        members[suffix.lower()] = (member.offset_data, member.size)
      # tarfile takes half a header, or none, for the end of the archive; a whole one ends in blocks of zeros.
      if size - archive.offset < tarfile.BLOCKSIZE:
        raise tarfile.ReadError('no end-of-archive mark')
    except tarfile.TarError as error:
      if not records:
        hint = ' Compressed shards have no random access: unpack them with gunzip first.' if path.endswith('gz') else ''
        raise UserError(f'{path!r} is no tar file ({error}).{hint}') from error
      key, _ = records.popitem()  # the members of one record follow each other, so it may have lost some
      logging.warning('%s is damaged or cut off after %s (%s): the %d records before it are used', path, key, error, len(records))
  return records


def _label(path: str, key: str, members: Mapping[str, tuple[int, int]], field: str) -> int | bytes:
  where = f'{path}::{key}'
  if not field and 'cls' in members:
    text = files.read(path, [members['cls']])[0].decode(errors='replace').strip()
    if not text.isdecimal() or int(text) > MAX_LABEL:
      raise UserError(f'{where}.cls holds {text[:40]!r}, expected the number of a class')
    return int(text)
  fields = parse(files.read(path, [members['json']])[0]) if 'json' in members else {}
  if not field:
    return next((fields[k] for k in ('label', 'cls') if type(fields.get(k)) is int and 0 <= fields[k] <= MAX_LABEL), -1)
  if fields.get(field) is None:
    raise UserError(f'{where}.json has no field {field!r}, which ?label={field} asks for; it has {", ".join(fields) or "none"}')
  return json.dumps(fields[field]).encode()
