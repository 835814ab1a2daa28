"""ArrayRecord files: the container with the cheapest random access.

A record is the bytes of an encoded image alone (unlabelled), or

  4 bytes: n, little-endian | n bytes: a JSON object {"label": int, "text": str or list} | the encoded image

where the first record of each file also holds "classes": [name, ...] or "num_classes": int if there are labels. Two more keys
tell what else a record holds: "fields": {name: value} are small values (`rate`), and "parts": {name: [kind, size, ...]} says what
follows the object instead of the image: "bytes"; an "array", as .npy; or a "sequence" of bytes (the frames of a video).
"""

import io
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from sslax.data import decode
from sslax.data.record import SUFFIXES
from sslax.errors import UserError


class ArrayRecord:
  """Records of ArrayRecord files in the layout above, in their order."""

  def __init__(self, paths: list[str]):
    self._paths = paths
    try:
      self._data = ArrayRecordDataSource(paths)
      counts = [len(ArrayRecordDataSource(path)) for path in paths]
    except RuntimeError as error:
      raise UserError(
        f'cannot read {paths[0]!r} and what follows as ArrayRecord: {" ".join(str(error).split())[:200]}'
      ) from error
    if not len(self):
      raise UserError(f'no records in {paths[0]!r}')
    self._stops = np.cumsum(counts, dtype=np.int64)
    header, rest = _unpack(self._data[0])
    if 'parts' not in header and not decode.is_image(rest):
      raise UserError(f'{paths[0]!r}: record 0 is neither an image nor a header with an image: {self._data[0][:12]!r}')
    self.classes = tuple(header.get('classes', ()))
    self.num_classes = len(self.classes) or header.get('num_classes', 0)
    if 'label' in header and not self.num_classes:
      raise UserError(
        f'{paths[0]!r}: labels, but record 0 gives neither "classes" nor "num_classes": write it with write_arrayrecord'
      )

  def __len__(self) -> int:
    return len(self._data)

  def read(self, i: int) -> dict[str, Any]:
    try:
      header, rest = _unpack(self._data[i])
    except RuntimeError as error:  # damaged: a bad record like any other
      raise OSError(f'{self.where(i)}: {error}') from error
    found = _split(header['parts'], rest) if 'parts' in header else {'image': rest}
    return found | {key: header[key] for key in ('label', 'text') if key in header} | header.get('fields', {})

  def where(self, i: int) -> str:
    f = int(np.searchsorted(self._stops, i, side='right'))
    return f'{self._paths[f]} record {i - (int(self._stops[f - 1]) if f else 0)}'


def write_arrayrecord(path: str, records: Iterable[dict[str, Any]], *, classes: Iterable[str] = (), num_classes: int = 0) -> int:
  """Writes records, such as those of any source, to one ArrayRecord file.

    write_arrayrecord('/data/train.array_record', open_source('parquet:/data/train-*.parquet'))

  Args:
    path: the file; overwritten.
    records: dicts as `sslax.data.record` describes them, with any further fields that are bytes, arrays, sequences of bytes, or
      that JSON can hold. Bytes are kept as they are; pixels of an image are stored as PNG, arrays of a video or sound as arrays.
    classes: names of the classes; taken from `records` where it is a source.
    num_classes: how many there are, where they have no names.

  Returns:
    The number of records.

  Raises:
    ValueError: there are labels, but neither `classes` nor `num_classes`, or a label is not below their number; a field that
      cannot be stored.
  """
  names = tuple(classes) or getattr(records, 'classes', ())
  num_classes = len(names) or num_classes or getattr(records, 'num_classes', 0)
  about = {'classes': names} if names else {'num_classes': num_classes} if num_classes else {}
  writer = ArrayRecordWriter(
    f'{path}.incomplete', 'group_size:1'
  )  # one record a chunk, or a random read would decompress its neighbours
  n = 0
  try:
    for record in records:
      if 'label' in record and not -1 <= record['label'] < num_classes:
        raise ValueError(
          f'record {n} has label {record["label"]}, but there are {num_classes} classes: give classes or num_classes'
        )
      try:
        writer.write(_pack(record, about if n == 0 else {}))
      except (TypeError, ValueError) as error:
        raise ValueError(f'record {n} cannot be stored: {error}') from error
      n += 1
  finally:
    writer.close()
  os.replace(f'{path}.incomplete', path)
  return n


def _pack(record, about):
  """A record in the layout above; one that is an image, and perhaps a label and a text, has no "parts"."""
  header = {key: record[key] for key in ('label', 'text') if key in record and not isinstance(record[key], bytes)}
  parts: dict[str, tuple[str, Sequence[bytes]]] = {}
  fields = {}
  for name, value in record.items():
    if name in header:
      continue
    if isinstance(value, np.ndarray) and name == 'image':
      parts[name] = ('bytes', [_png(value)])
    elif isinstance(value, np.ndarray):
      parts[name] = ('array', [_npy(value)])
    elif isinstance(value, bytes):
      parts[name] = ('bytes', [value])
    elif isinstance(value, Sequence) and not isinstance(value, str) and _all_bytes(value := list(value)):
      parts[name] = ('sequence', value)
    else:
      fields[name] = value
  if not any(name in record for name in (*SUFFIXES, 'text')):
    raise ValueError(f'it has neither image, video, audio nor text, but {", ".join(record) or "nothing"}')
  if fields:
    header['fields'] = fields
  if fields or [(name, kind) for name, (kind, _) in parts.items()] != [('image', 'bytes')]:
    header['parts'] = {name: [kind, *map(len, data)] for name, (kind, data) in parts.items()}
  text = json.dumps(header | about, default=_number).encode()
  return b''.join([len(text).to_bytes(4, 'little'), text, *(piece for _, data in parts.values() for piece in data)])


def _split(parts, data):
  """{name: what it holds} of the bytes behind a header."""
  found, at = {}, 0
  for name, (kind, *sizes) in parts.items():
    stops = at + np.cumsum(sizes, dtype=np.int64)
    pieces = [data[stop - size : stop] for stop, size in zip(stops.tolist(), sizes, strict=True)]
    at = int(stops[-1])
    found[name] = pieces if kind == 'sequence' else _array(pieces[0]) if kind == 'array' else pieces[0]
  return found


def _all_bytes(items):
  return bool(items) and all(isinstance(item, bytes) for item in items)


def _number(value):
  """A number of numpy as JSON has it."""
  if isinstance(value, np.generic):
    return value.item()
  raise TypeError(f'{type(value).__name__} is nothing that can be stored')


def _png(pixels):
  out = io.BytesIO()
  Image.fromarray(pixels).save(out, 'PNG')
  return out.getvalue()


def _npy(array):
  out = io.BytesIO()
  np.save(out, array, allow_pickle=False)
  return out.getvalue()


def _array(data):
  return np.load(io.BytesIO(data), allow_pickle=False)


def _unpack(data):
  """Header and the rest. Braces at both ends of the header tell it from a bare image, whose first bytes may be any length."""
  end = 4 + int.from_bytes(data[:4], 'little')
  if data[4:5] != b'{' or data[end - 1 : end] != b'}':
    return {}, data
  return json.loads(data[4:end]), data[end:]
