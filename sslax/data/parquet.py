"""Parquet in the Hugging Face layout: `image {bytes, path}`, `label`, a caption."""

import collections
import concurrent.futures
import json
import threading

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq
from absl import logging

from sslax.data import files
from sslax.errors import UserError, suggest

CACHE_BYTES = 1 << 30  # decoded row groups kept by each process

_IMAGES, _LABELS = ('image', 'img'), ('label', 'labels', 'fine_label')
_TEXTS = ('text', 'caption', 'captions', 'sentences')
_INSIDE = ('raw', 'text', 'caption')  # the field of a caption that is a struct: COCO and Flickr30k have sentences {raw, tokens}


class Parquet:
  """Rows of Parquet files, in their order.

  The text is the column text, caption, captions or sentences, or the one named by `?text=COLUMN`: strings, lists of strings, or
  structs with a string raw, text or caption.

  Only footers are read at the start. A row is read with its whole row group, and the groups last used are kept: a set below
  `CACHE_BYTES` is read once. Far above it, an image costs a row group: convert such a set with `write_arrayrecord`.
  """

  def __init__(self, paths: list[str], text_column: str = ''):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
      opened = list(pool.map(_footer, paths))
    schema = opened[0][0]
    image = self._column(paths[0], schema, _IMAGES, _is_image)
    if not image:
      columns = ', '.join(f'{field.name} ({field.type})' for field in schema)
      raise UserError(f'{paths[0]!r} has no image column (image or img, struct<bytes, path> or binary); it has {columns}')
    label = self._column(paths[0], schema, _LABELS, lambda t: pa.types.is_integer(t))
    text = self._column(paths[0], schema, (text_column,) if text_column else _TEXTS, _is_text)
    if text_column and not text:
      texts = [field.name for field in schema if _is_text(field.type)]
      raise UserError(f'{paths[0]!r} has no column of text {text_column!r}, which ?text= asks for.{suggest(text_column, texts)}')
    self._image, self._label, self._text = image, label, text
    for path, (other, _) in zip(paths, opened, strict=True):
      for name in filter(None, (image, label, text)):
        if name not in other.names or other.field(name).type != schema.field(name).type:
          raise UserError(f'{path!r} differs from {paths[0]!r} in the column {name!r}: name files of one layout')
    self._paths = paths
    self._groups = [(f, g) for f, (_, footer) in enumerate(opened) for g in range(footer.num_row_groups)]
    rows = [opened[f][1].row_group(g).num_rows for f, g in self._groups]
    self._stops = np.cumsum(rows, dtype=np.int64)
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

  def __len__(self):
    return int(self._stops[-1]) if len(self._stops) else 0

  def labels(self):
    """[N] int64, -1 where there is none: that column alone."""
    columns = []
    for path in self._paths:
      with _open(path) as file:
        columns.append(pc.fill_null(file.read(columns=[self._label])[self._label], -1).to_numpy())
    return np.concatenate(columns)

  def read(self, i):
    g = int(np.searchsorted(self._stops, i, side='right'))
    images, labels, texts = self._group(g)
    row = i - int(self._stops[g]) + len(images)
    record = {'image': images[row].as_py() or b''}  # a missing image is a bad record like any other: decode refuses it
    label = labels[row].as_py() if labels is not None else None
    text = _strings(texts[row]) if texts is not None else None
    if label is not None and label >= 0:
      record['label'] = label
    if text is not None:
      record['text'] = text
    return record

  def where(self, i):
    f, _ = self._groups[int(np.searchsorted(self._stops, i, side='right'))]
    return f'{self._paths[f]} row {i - self._first_rows[f]}'

  def __getstate__(self):
    return {key: value for key, value in self.__dict__.items() if key not in ('_lock', '_cache', '_sizes')}

  def __setstate__(self, state):
    self.__dict__.update(state)
    self._lock, self._cache, self._sizes = threading.Lock(), collections.OrderedDict(), {}

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
      if mine:
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
      self._keep(g, sum(column.nbytes for column in columns if column is not None))
    return future.result()

  def _load(self, g):
    f, group = self._groups[g]
    image = self._image
    with _open(self._paths[f]) as file:
      struct = pa.types.is_struct(file.schema_arrow.field(image).type)
      columns = [f'{image}.bytes' if struct else image, *filter(None, (self._label, self._text))]
      table = file.read_row_group(group, columns=columns)
    images = pc.struct_field(table[image], 'bytes') if struct else table[image]
    return images, table[self._label] if self._label else None, table[self._text] if self._text else None

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


def _is_image(t):
  if pa.types.is_struct(t):
    return t.get_field_index('bytes') >= 0
  return pa.types.is_binary(t) or pa.types.is_large_binary(t)


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
