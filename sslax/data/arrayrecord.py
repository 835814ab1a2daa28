"""ArrayRecord files: the container with the cheapest random access.

A record is the bytes of an encoded image alone (unlabelled), or

  4 bytes: n, little-endian | n bytes: a JSON object {"label": int, "text": str or list} | the encoded image

where the first record of each file also holds "classes": [name, ...] or "num_classes": int if there are labels.
"""

import io
import json
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from sslax.data import decode
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
    header, image = _unpack(self._data[0])
    if not decode.is_image(image):
      raise UserError(f'{paths[0]!r}: record 0 is neither an image nor a header with an image: {self._data[0][:12]!r}')
    self.classes = tuple(header.get('classes', ()))
    self.num_classes = len(self.classes) or header.get('num_classes', 0)
    if 'label' in header and not self.num_classes:
      raise UserError(
        f'{paths[0]!r}: labels, but record 0 gives neither "classes" nor "num_classes": write it with write_arrayrecord'
      )

  def __len__(self):
    return len(self._data)

  def read(self, i):
    try:
      header, image = _unpack(self._data[i])
    except RuntimeError as error:  # damaged: a bad record like any other
      raise OSError(f'{self.where(i)}: {error}') from error
    return {'image': image} | {key: header[key] for key in ('label', 'text') if key in header}

  def where(self, i):
    f = int(np.searchsorted(self._stops, i, side='right'))
    return f'{self._paths[f]} record {i - (int(self._stops[f - 1]) if f else 0)}'


def write_arrayrecord(path: str, records: Iterable[dict[str, Any]], *, classes: Iterable[str] = (), num_classes: int = 0) -> int:
  """Writes records, such as those of any source, to one ArrayRecord file.

    write_arrayrecord('/data/train.array_record', open_source('parquet:/data/train-*.parquet'))

  Args:
    path: the file; overwritten.
    records: dicts with `image` (encoded bytes, kept as they are; or uint8 pixels, stored as PNG), and `label` and `text` if any.
    classes: names of the classes; taken from `records` where it is a source.
    num_classes: how many there are, where they have no names.

  Returns:
    The number of records.

  Raises:
    ValueError: there are labels, but neither `classes` nor `num_classes`, or a label is not below their number.
  """
  classes = tuple(classes) or getattr(records, 'classes', ())
  num_classes = len(classes) or num_classes or getattr(records, 'num_classes', 0)
  about = {'classes': classes} if classes else {'num_classes': num_classes} if num_classes else {}
  writer = ArrayRecordWriter(
    f'{path}.incomplete', 'group_size:1'
  )  # one record a chunk, or a random read would decompress its neighbours
  n = 0
  try:
    for record in records:
      header = {key: record[key] for key in ('label', 'text') if key in record}
      if 'label' in header and not -1 <= header['label'] < num_classes:
        raise ValueError(
          f'record {n} has label {header["label"]}, but there are {num_classes} classes: give classes or num_classes'
        )
      text = json.dumps(header | (about if n == 0 else {}), default=int).encode()  # int: a label of numpy
      writer.write(len(text).to_bytes(4, 'little') + text + _encode(record['image']))
      n += 1
  finally:
    writer.close()
  os.replace(f'{path}.incomplete', path)
  return n


def _encode(image):
  if isinstance(image, bytes):
    return image
  out = io.BytesIO()
  Image.fromarray(image).save(out, 'PNG')
  return out.getvalue()


def _unpack(data):
  """Header and image. Braces at both ends of the header tell it from a bare image, whose first bytes may be any length."""
  end = 4 + int.from_bytes(data[:4], 'little')
  if data[4:5] != b'{' or data[end - 1 : end] != b'}':
    return {}, data
  return json.loads(data[4:end]), data[end:]
