"""Makes small containers whose records say which they are, for the tests of sources."""

import io
import json
import pathlib
import tarfile
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sslax.data.arrayrecord import write_arrayrecord
from sslax.data.decode import decode
from sslax.data.sources import open_source
from sslax.errors import UserError

CIRCLES = pathlib.Path(__file__).resolve().parents[1] / 'third_party' / 'circles.py'
IMAGES = ('digits', 'folder', 'parquet', 'tar', 'arrayrecord')
LABELLED = (*IMAGES[1:], 'frames', 'videos', 'outside')  # digits are labelled too, but do not say which record they are
KINDS = ('digits', *LABELLED, 'text')


def image(i):
  """A PNG whose colour says which record it is."""
  out = io.BytesIO()
  Image.fromarray(np.full((2, 3, 3), (i % 256, i // 256, 7), np.uint8)).save(out, 'PNG')
  return out.getvalue()


def number(record):
  """Which record it is, whatever it holds."""
  if 'image' not in record and not isinstance(record.get('video'), Sequence) or isinstance(record.get('video'), bytes):
    return int(record.get('video', record.get('text')))
  pixel = decode(record['image'] if 'image' in record else record['video'][0])[0, 0]
  return int(pixel[0]) + 256 * int(pixel[1])


def numbers(source):
  return [number(source[i]) for i in range(len(source))]


def make_folder(path, names):
  for i, name in enumerate(names):
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(image(i))
  return path


def make_clips(path, names, frames=2):
  """Folders of images; the first one of each says which record it is."""
  for i, name in enumerate(names):
    (path / name).mkdir(parents=True)
    for k in range(frames):
      (path / name / f'{k}.png').write_bytes(image(i + 20 * k))
  return path


def make_tar(path, records):
  """records: [(key, {suffix: bytes})]"""
  with tarfile.open(path, 'w') as shard:
    for key, members in records:
      for suffix, data in members.items():
        member = tarfile.TarInfo(f'{key}.{suffix}')
        member.size = len(data)
        shard.addfile(member, io.BytesIO(data))
  return path


def make_parquet(path, first, n, group=4, names=('cat', 'dog', 'emu'), **columns):
  rows = range(first, first + n)
  columns = {
    'image': pa.array([{'bytes': image(i), 'path': f'{i}.png'} for i in rows]),
    'label': pa.array([i % 3 for i in rows]),
  } | columns
  table = pa.table({key: value for key, value in columns.items() if value is not None})
  if names:
    info = {'info': {'features': {'image': {'_type': 'Image'}, 'label': {'names': list(names), '_type': 'ClassLabel'}}}}
    table = table.replace_schema_metadata({'huggingface': json.dumps(info)})
  path.parent.mkdir(parents=True, exist_ok=True)
  pq.write_table(table, path, row_group_size=group)
  return path


def make_arrayrecord(path, n=10):
  write_arrayrecord(str(path), [{'image': image(i), 'label': i % 3, 'text': f't{i}'} for i in range(n)], classes='abc')
  return path


BUILDER = """
import io
import numpy as np
import tensorflow_datasets as tfds

class SslaxTiny(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict({
        'image': tfds.features.Image(shape=(None, None, 3)),
        'label': tfds.features.ClassLabel(names=['even', 'odd']),
        'text': tfds.features.Text(),
      }),
      supervised_keys=('image', 'label'),
    )

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(12), 'test': self._generate_examples(5)}

  def _generate_examples(self, n):
    from PIL import Image
    for i in range(n):
      out = io.BytesIO()
      Image.fromarray(np.full((2, 3, 3), (i, 0, 7), np.uint8)).save(out, 'PNG')
      yield i, {'image': io.BytesIO(out.getvalue()), 'label': i % 2, 'text': f'number {i}'}
"""


def shard(tmp_path, name, first, n, **more):
  return make_tar(
    tmp_path / name, [(f'k{i:03d}', {'png': image(i)} | {k: v(i) for k, v in more.items()}) for i in range(first, first + n)]
  )


def same(a, b):
  """Whether two records are."""
  plain = lambda value: value if isinstance(value, (np.ndarray, bytes)) or not isinstance(value, Sequence) else list(value)
  return a.keys() == b.keys() and all(np.array_equal(plain(a[key]), plain(b[key])) for key in a)


def refused(uri, words):
  """What the UserError says with which it does not open."""
  with pytest.raises(UserError) as error:
    open_source(uri)
  assert words in str(error.value)
  return str(error.value)


def labels_of(source):
  return [source[i]['label'] for i in range(len(source))]
