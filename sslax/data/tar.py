"""Tar shards in the WebDataset layout (KEY.jpg, KEY.cls, KEY.txt, KEY.json), at random through an index of the headers."""

import concurrent.futures
import contextlib
import hashlib
import itertools
import json
import os
import tarfile
import tempfile
import zipfile

import numpy as np
from absl import logging

from sslax.data import files
from sslax.errors import UserError

_IMAGES = ('jpg', 'jpeg', 'png', 'webp', 'gif', 'bmp')
_PARTS = ('image', 'txt', 'json')  # rows of `spans`: where each part of a record lies
_MAX_LABEL = 2**31 - 2
_VERSION = 1


class Tar:
  """Records of tar shards, in their order: the members that share a key, which is the path up to the first dot of the file name.

  The label is the number in the member `cls`, or the number `label` or `cls` in `json`; words there are not guessed to be
  classes, but `?label=FIELD` takes the field of `json` with that name, its different values in sorted order being the classes
  (whole numbers count as labels themselves). The text is `captions` in `json`, else `txt`, else `caption` or `text` in `json`. No
  other member is ever read.

  The first use of a shard reads its headers (30 us a member) and keeps what it found beside the shard, as .NAME.index.npz, or in
  $XDG_CACHE_HOME/sslax where that folder is read-only.
  """

  def __init__(self, paths: list[str], field: str = ''):
    self._paths = paths
    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # a remote shard is slow to answer, even if its index is kept here
      shards = list(pool.map(_index, paths, itertools.repeat(field)))
    self._stops = np.cumsum([len(shard['key']) for shard in shards], dtype=np.int64)
    if not len(self):
      raise UserError(f'no images in {paths[0]!r}{f" and {len(paths) - 1} more" if len(paths) > 1 else ""}: {_held(paths[0])}')
    self._key = np.concatenate([shard['key'] for shard in shards])
    self._suffix = np.concatenate([shard['suffix'] for shard in shards])
    self._spans = np.concatenate([shard['spans'] for shard in shards])  # [N, part, (offset, size)]
    label = np.concatenate([shard['label'] for shard in shards])
    self.classes = ()
    if field:
      label, self.classes = _classes(label, field)
    self._label = label.astype(np.int64)
    self.num_classes = len(self.classes) or int(self._label.max()) + 1

  def __len__(self):
    return int(self._stops[-1])

  def labels(self):
    return self._label

  def read(self, i):
    spans = [tuple(map(int, span)) for span in self._spans[i]]
    present = [part for part, (_, size) in zip(_PARTS, spans, strict=True) if size >= 0]
    path = self._paths[self._shard(i)]
    part = dict(zip(present, files.read(path, [span for span in spans if span[1] >= 0]), strict=True))
    record = {'image': part['image']}
    if self._label[i] >= 0:
      record['label'] = int(self._label[i])
    text = _text(part.get('txt'), part.get('json'))
    return record if text is None else record | {'text': text}

  def where(self, i):
    return f'{self._paths[self._shard(i)]}::{self._key[i].decode(errors="replace")}.{self._suffix[i].decode()}'

  def _shard(self, i):
    return int(np.searchsorted(self._stops, i, side='right'))


def _text(txt, data):
  fields = _fields(data)
  captions = fields.get('captions')
  captions = [caption for caption in captions if isinstance(caption, str)] if isinstance(captions, list) else []
  if captions:
    return captions
  if txt is not None:
    return txt.decode('utf-8-sig', errors='replace')
  return next((fields[key] for key in ('caption', 'text') if isinstance(fields.get(key), str)), None)


def _fields(data):
  try:
    fields = json.loads(data) if data is not None else {}
  except (ValueError, RecursionError):
    return {}
  return fields if isinstance(fields, dict) else {}


def _classes(values, field):
  """[N] of JSON texts -> labels `[N]` and class names."""
  values = [json.loads(value) for value in values]
  if all(type(value) is int and 0 <= value <= _MAX_LABEL for value in values):
    return np.array(values), ()
  names, label = np.unique([str(value) for value in values], return_inverse=True)
  return label, tuple(str(name) for name in names)


def _index(path, field):
  """What `_scan` finds, kept for as long as the shard has this size and time."""
  stamp = f'{_VERSION} {files.version(path)} {field}'
  cache = _cache_path(path, field)
  try:
    with np.load(cache, allow_pickle=False) as kept:
      if str(kept['stamp']) == stamp:
        return dict(kept)
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # none yet, or damaged
    pass
  index = _scan(path, field)
  try:
    _write(cache, index | {'stamp': np.array(stamp)})
  except OSError as error:  # a full disk costs time at the next start, no more
    logging.warning('cannot keep the index of %s: %s', path, error)
  return index


def _cache_path(path, field):
  folder, name = os.path.split(os.path.abspath(path))
  ending = f'{hashlib.sha256(field.encode()).hexdigest()[:8]}.index.npz' if field else 'index.npz'
  # The mode is asked too: root may write anywhere, and should not where the owner said read-only.
  if not files.is_remote(path) and os.access(folder, os.W_OK) and os.stat(folder).st_mode & 0o222:
    return os.path.join(folder, f'.{name}.{ending}')
  home = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  return os.path.join(home, 'sslax', f'{name}.{hashlib.sha256(path.encode()).hexdigest()[:16]}.{ending}')


def _write(path, arrays):
  """Whole or not at all: several workers may do it at once."""
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), prefix='.index', delete=False) as f:
    try:
      np.savez(f, **arrays)
      os.fchmod(f.fileno(), 0o644)  # others who read the shard may read this too
      f.close()
      os.replace(f.name, path)
    except BaseException:
      os.unlink(f.name)
      raise


def _scan(path, field):
  """Reads the headers: key, suffix `[N]`; spans `[N, 3, 2]` (size -1: none); label `[N]` (-1: none; with `field`: JSON)."""
  records = {}
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
        record = records.setdefault(key, {})
        if not 0 <= member.size <= size - member.offset_data:
          raise tarfile.ReadError('unexpected end of data')
        record[suffix.lower()] = (member.offset_data, member.size)
      # tarfile takes half a header, or none, for the end of the archive; a whole one ends in blocks of zeros.
      if size - archive.offset < tarfile.BLOCKSIZE:
        raise tarfile.ReadError('no end-of-archive mark')
    except tarfile.TarError as error:
      if not records:
        hint = ' Compressed shards have no random access: unpack them with gunzip first.' if path.endswith('gz') else ''
        raise UserError(f'{path!r} is no tar file ({error}).{hint}') from error
      key, _ = records.popitem()  # the members of one record follow each other, so it may have lost some
      logging.warning('%s is damaged or cut off after %s (%s): the %d records before it are used', path, key, error, len(records))
  found = []
  for key, parts in records.items():
    suffix = next((suffix for suffix in parts if suffix in _IMAGES), None)
    if suffix is not None:
      found.append((key, suffix, [parts.get(suffix), parts.get('txt'), parts.get('json')], parts.get('cls')))
  return {
    'key': np.array([key.encode('utf-8', 'surrogateescape') for key, *_ in found], dtype=bytes),
    'suffix': np.array([suffix.encode() for _, suffix, *_ in found], dtype=bytes),
    'spans': np.array([[span or (0, -1) for span in spans] for _, _, spans, _ in found], np.int64).reshape(-1, 3, 2),
    'label': _labels(path, found, field),
  }


def _labels(path, found, field):
  labels = []
  for key, _, spans, cls in found:
    where = f'{path}::{key}'
    if field:
      fields = _fields(files.read(path, [spans[2]])[0]) if spans[2] else {}
      if fields.get(field) is None:
        raise UserError(
          f'{where}.json has no field {field!r}, which ?label={field} asks for; it has {", ".join(fields) or "none"}'
        )
      labels.append(json.dumps(fields[field]).encode())
    elif cls:
      text = files.read(path, [cls])[0].decode(errors='replace').strip()
      if not text.isdecimal() or int(text) > _MAX_LABEL:
        raise UserError(f'{where}.cls holds {text[:40]!r}, expected the number of a class')
      labels.append(int(text))
    elif spans[2]:
      fields = _fields(files.read(path, [spans[2]])[0])
      numbers = [fields[k] for k in ('label', 'cls') if type(fields.get(k)) is int and 0 <= fields[k] <= _MAX_LABEL]
      labels.append(numbers[0] if numbers else -1)
    else:
      labels.append(-1)
  return np.array(labels, dtype=bytes if field else np.int64)


def _held(path):
  """For an error: what a shard without images holds."""
  names = []
  with files.open_binary(path) as f, contextlib.suppress(tarfile.TarError):
    names += (member.name for member in itertools.islice(tarfile.open(fileobj=f, mode='r:'), 8))
  return f'a record needs a member KEY.{{{",".join(_IMAGES)}}}; the shard begins with {", ".join(names) or "nothing"}'
