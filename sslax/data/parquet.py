"""Parquet in the Hugging Face layout: `image {bytes, path}`, `video`, `audio`, `label`, a caption."""

import collections
import concurrent.futures
import json
import threading
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq
from absl import logging

from sslax.data import files, record
from sslax.errors import UserError, suggest

CACHE_BYTES = 1 << 30  # decoded row groups kept by each process

_MEDIA = {'image': ('image', 'img'), 'video': ('video',), 'audio': ('audio',)}
_LABELS = ('label', 'labels', 'fine_label')
_TEXTS = ('text', 'caption', 'captions', 'sentences')
_INSIDE = ('raw', 'text', 'caption')  # the field of a caption that is a struct: COCO and Flickr30k have sentences {raw, tokens}


class Parquet:
  """Rows of Parquet files, in their order.

  Images, videos and sounds are files: structs {bytes, path}, or binary. Sounds may be samples, too: {array, sampling_rate}. The
  text is the column text, caption, captions or sentences, or the one named by `?text=COLUMN`: strings, lists of strings, or
  structs with a string raw, text or caption. `?fields=mask,depth` asks for more columns: files as bytes, else what is in them.

  Only footers are read at the start. A row is read with its whole row group, and the groups last used are kept: a set below
  `CACHE_BYTES` is read once. Far above it, an image costs a row group: convert such a set with `write_arrayrecord`.
  """

  def __init__(self, paths: list[str], text_column: str = '', fields: tuple[str, ...] = ()):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
      opened = list(pool.map(_footer, paths))
    schema = opened[0][0]
    fits = {'image': _is_file, 'video': _is_file, 'audio': lambda t: _is_file(t) or _is_samples(t)}
    media = {medium: self._column(paths[0], schema, names, fits[medium]) for medium, names in _MEDIA.items()}
    label = self._column(paths[0], schema, _LABELS, lambda t: pa.types.is_integer(t))
    text = self._column(paths[0], schema, (text_column,) if text_column else _TEXTS, _is_text)
    if text_column and not text:
      texts = [field.name for field in schema if _is_text(field.type)]
      raise UserError(f'{paths[0]!r} has no column of text {text_column!r}, which ?text= asks for.{suggest(text_column, texts)}')
    if not any(media.values()) and not text:
      columns = ', '.join(f'{field.name} ({field.type})' for field in schema)
      raise UserError(
        f'{paths[0]!r} has no image column (image or img, struct<bytes, path> or binary), no such video or audio, and no text; '
        f'it has {columns}'
      )
    for name in fields:
      if name not in schema.names:
        raise UserError(f'{paths[0]!r} has no column {name!r}, which ?fields= asks for.{suggest(name, schema.names)}')
    self._media, self._fields, self._label, self._text = {m: c for m, c in media.items() if c}, fields, label, text
    self._columns = tuple(filter(None, dict.fromkeys((*self._media.values(), label, text, *fields))))
    for path, (other, _) in zip(paths, opened, strict=True):
      for name in self._columns:
        if name not in other.names or other.field(name).type != schema.field(name).type:
          raise UserError(f'{path!r} differs from {paths[0]!r} in the column {name!r}: name files of one layout')
    self._paths = paths
    self._groups = [(f, g) for f, (_, footer) in enumerate(opened) for g in range(footer.num_row_groups)]
    rows = [opened[f][1].row_group(g).num_rows for f, g in self._groups]
    self._stops = np.cumsum(rows, dtype=np.int64)
    self._starts = self._stops - np.array(rows, np.int64)
    first_of_file = np.cumsum([0] + [footer.num_rows for _, footer in opened])
    self._first_rows = first_of_file[:-1]
    self.classes = _class_names(schema, label)
    highest = (
      max((_highest(path, footer, label) for path, (_, footer) in zip(paths, opened, strict=True)), default=-1) if label else -1
    )
    if self.classes and highest >= len(self.classes):
      raise UserError(
        f'{paths[0]!r}: label {highest} in the column {label!r}, but the schema names only {len(self.classes)} classes'
      )
    if highest < 0:  # the Hugging Face way to say that a test set has no labels
      self.classes = ()
    self.num_classes = len(self.classes) or highest + 1
    self.__setstate__(self.__dict__)

  def __len__(self) -> int:
    return int(self._stops[-1]) if len(self._stops) else 0

  def labels(self) -> np.ndarray:
    """[N] int64, -1 where there is none: that column alone."""
    columns = []
    for path in self._paths:
      with _open(path) as file:
        columns.append(pc.fill_null(file.read(columns=[self._label])[self._label], -1).to_numpy())
    return np.concatenate(columns)

  def read(self, i: int) -> dict[str, Any]:
    g = int(np.searchsorted(self._stops, i, side='right'))
    columns, row = self._group(g), i - int(self._starts[g])
    found: dict[str, Any] = {}
    for medium, name in self._media.items():
      value = columns[name][row]
      if pa.types.is_struct(value.type):
        found |= _samples(value)
      else:
        found[medium] = value.as_py() or b''  # a missing file is a bad record like any other: its input refuses it
    label = columns[self._label][row].as_py() if self._label else None
    text = _strings(columns[self._text][row]) if self._text else None
    if label is not None and label >= 0:
      found['label'] = label
    if text is not None:
      found['text'] = text
    return found | {name: columns[name][row].as_py() for name in self._fields}

  def where(self, i: int) -> str:
    f, _ = self._groups[int(np.searchsorted(self._stops, i, side='right'))]
    return f'{self._paths[f]} row {i - self._first_rows[f]}'

  def __getstate__(self) -> dict[str, Any]:
    return {key: value for key, value in self.__dict__.items() if key not in ('_lock', '_cache', '_sizes')}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._lock = threading.Lock()
    self._cache: collections.OrderedDict[int, concurrent.futures.Future] = collections.OrderedDict()
    self._sizes: dict[int, int] = {}

  @staticmethod
  def _column(path, schema, names, fits):
    for name in names:
      if name in schema.names:
        if fits(schema.field(name).type):
          return name
        logging.warning('%s: the column %s is %s and is not used', path, name, schema.field(name).type)
    return ''

  def _group(self, g):
    """The columns of a row group; several threads that want the same one read it once."""
    with self._lock:
      future = self._cache.get(g)
      mine = future is None
      if future is None:
        future = self._cache[g] = concurrent.futures.Future()
      self._cache.move_to_end(g)
    if mine:
      try:
        columns = self._load(g)
      except BaseException as error:
        with self._lock:
          self._cache.pop(g, None)
        future.set_exception(error)
        raise
      future.set_result(columns)
      self._keep(g, sum(column.nbytes for column in columns.values()))
    return future.result()

  def _load(self, g):
    """{column: its values}; of files the bytes alone."""
    f, group = self._groups[g]
    with _open(self._paths[f]) as file:
      kinds = {name: file.schema_arrow.field(name).type for name in self._columns}
      inside = {name for name, kind in kinds.items() if pa.types.is_struct(kind) and _is_file(kind)}
      table = file.read_row_group(group, columns=[f'{name}.bytes' if name in inside else name for name in kinds])
    return {name: pc.struct_field(table[name], 'bytes') if name in inside else table[name] for name in kinds}

  def _keep(self, g, size):
    """Counts a group that was read, and forgets those not used for longest where there are too many."""
    with self._lock:
      self._sizes[g] = size
      total = sum(self._sizes.values())
      for old in list(self._cache) if total > CACHE_BYTES else ():
        if old in self._sizes and old != g and total > CACHE_BYTES:  # the others are being read
          total -= self._sizes.pop(old)
          del self._cache[old]


def _open(path):
  if files.is_remote(path):
    filesystem, inside = pa.fs.FileSystem.from_uri(path)
    return pq.ParquetFile(inside, filesystem=filesystem)
  return pq.ParquetFile(path, memory_map=True)


def _footer(path):
  try:
    with _open(path) as file:
      return file.schema_arrow, file.metadata
  except (pa.ArrowException, OSError) as error:
    raise UserError(f'cannot read {path!r} as Parquet: {" ".join(str(error).split())[:200]}') from error


def _is_file(t):
  if pa.types.is_struct(t):
    return t.get_field_index('bytes') >= 0
  return pa.types.is_binary(t) or pa.types.is_large_binary(t)


def _is_samples(t):
  """Whether it is what the audio of Hugging Face is once it has been decoded: {array, sampling_rate}."""
  if not pa.types.is_struct(t) or t.get_field_index('array') < 0 or t.get_field_index('sampling_rate') < 0:
    return False
  array, rate = t.field('array').type, t.field('sampling_rate').type
  inside = array.value_type if pa.types.is_list(array) or pa.types.is_large_list(array) else pa.null()
  return (pa.types.is_floating(inside) or pa.types.is_integer(inside)) and pa.types.is_integer(rate)


def _samples(scalar):
  """`audio` and `rate` of a record."""
  if not scalar.is_valid or not scalar['array'].is_valid:
    return {'audio': b''}
  values = record.samples(scalar['array'].values.to_numpy(zero_copy_only=False))
  rate = scalar['sampling_rate'].as_py()
  return {'audio': values} | ({} if rate is None else {'rate': rate})


def _is_text(t):
  if pa.types.is_list(t) or pa.types.is_large_list(t):
    return _is_text(t.value_type)
  if pa.types.is_struct(t):
    return bool(_inside(t))
  return pa.types.is_string(t) or pa.types.is_large_string(t)


def _inside(t):
  """The field of a struct that holds its text, '' if none."""
  return next((name for name in _INSIDE if t.get_field_index(name) >= 0 and _is_text(t.field(name).type)), '')


def _strings(scalar):
  """A str, a list of what is inside, or None. Parquet does not check that a string is UTF-8: what is not becomes U+FFFD."""
  if not scalar.is_valid:
    return None
  if pa.types.is_struct(scalar.type):
    return _strings(scalar[_inside(scalar.type)])
  if pa.types.is_string(scalar.type) or pa.types.is_large_string(scalar.type):
    return scalar.as_buffer().to_pybytes().decode('utf-8', 'replace')
  return [_strings(item) for item in scalar.values]


def _class_names(schema, label):
  """`features.<label>.names` in the metadata that Hugging Face datasets writes."""
  try:
    return tuple(json.loads(schema.metadata[b'huggingface'])['info']['features'][label]['names'])
  except (KeyError, TypeError, ValueError):  # no metadata, no such key, no JSON
    return ()


def _highest(path, footer, label):
  """The largest label: from the statistics in the footer, or from the column where a writer left them out."""
  if not footer.num_rows:
    return -1
  column = next(c for c in range(footer.num_columns) if footer.row_group(0).column(c).path_in_schema == label)
  statistics = [footer.row_group(g).column(column).statistics for g in range(footer.num_row_groups)]
  if all(s is not None and s.has_min_max for s in statistics):
    return max(s.max for s in statistics)
  with _open(path) as file:
    highest = pc.max(file.read(columns=[label])[label]).as_py()
  return -1 if highest is None else highest
