"""Captions of each container."""

import io
import pickle
import sys
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sslax.data import text
from sslax.data.arrayrecord import write_arrayrecord
from sslax.data.schemes import digits as digits_scheme
from sslax.data.sources import open_source
from sslax.errors import UserError


def captions(source, i):
  return text.usable(source[i].get('text'))


def image(i):
  out = io.BytesIO()
  Image.fromarray(np.full((2, 3, 3), i, np.uint8)).save(out, 'PNG')
  return out.getvalue()


def parquet(path, **columns):
  images = pa.array([{'bytes': image(i), 'path': ''} for i in range(len(next(iter(columns.values()))))])
  pq.write_table(pa.table({'image': images} | columns), path)
  return f'parquet:{path}'


def all_captions(uri):
  source = open_source(uri)
  return [captions(source, i) for i in range(len(source))]


def test_digits():
  source, plain = open_source('digits:captions@test[:20]'), open_source('digits:@test[:20]')
  assert len(digits_scheme.CAPTIONS) * 2 == 12 and source.classes == plain.classes == tuple('0123456789')
  for i in range(20):
    record, name = source[i], digits_scheme.WORDS[source[i]['label']]
    np.testing.assert_array_equal(record['image'], plain[i]['image'])
    assert record['label'] == plain[i]['label'] and 'text' not in plain[i]
    assert len(set(record['text'])) == 12 and f'a handwritten {name}' in record['text'] == text.usable(record['text'])
    assert sum(name in t.split() for t in record['text']) == sum(str(record['label']) in t.split() for t in record['text']) == 6
  assert len(open_source('digits:captions@train')) == 1297
  assert pickle.loads(pickle.dumps(source))[3]['text'] == source[3]['text']
  with pytest.raises(UserError, match='digits:captions@train'):
    open_source('digits:caption@train')


@pytest.mark.parametrize('name', ['text', 'caption', 'captions', 'sentences'])
def test_parquet_columns(name, tmp_path):
  kinds = {
    'string': (pa.array(['a', None]), [['a'], []]),
    'large': (pa.array(['a', ''], pa.large_string()), [['a'], []]),
    'list': (pa.array([['a', 'b', None], []]), [['a', 'b'], []]),
    'struct': (pa.array([{'raw': 'a', 'tokens': ['x']}, {'raw': None, 'tokens': ['y']}]), [['a'], []]),
    'structs': (pa.array([[{'sentid': 1, 'raw': 'a'}, {'sentid': 2, 'raw': 'b'}], None]), [['a', 'b'], []]),
    'lists': (pa.array([[{'tokens': ['x', 'y'], 'text': 'a'}], []]), [['a'], []]),
  }
  for kind, (column, expected) in kinds.items():
    assert all_captions(parquet(tmp_path / f'{kind}.parquet', **{name: column})) == expected, kind


def test_parquet_column_by_name(tmp_path):
  uri = parquet(tmp_path / 'x.parquet', text=pa.array(['a', 'b']), title=pa.array(['t', 'u']), size=pa.array([1, 2]))
  assert all_captions(uri) == [['a'], ['b']]
  for asked in (f'{uri}?text=title@[1:]', f'{uri}@[1:]?text=title'):
    assert all_captions(asked) == [['u']]
  with pytest.raises(UserError, match="no column of text 'titel'.*Did you mean title"):
    open_source(f'{uri}?text=titel')
  with pytest.raises(UserError, match="no column of text 'size'"):
    open_source(f'{uri}?text=size')


def test_parquet_that_is_no_utf8(tmp_path):
  """Nothing checks the bytes of a string column; the image must not be lost for them."""
  column = pa.array([b'caf\xc3\xa9', b'\xffcat', b'\xff\xff']).view(pa.string())
  source = open_source(parquet(tmp_path / 'x.parquet', text=column))
  assert [captions(source, i) for i in range(3)] == [['café'], ['\ufffdcat'], []]
  assert source[2]['image'] == image(2)


def test_tar(tmp_path):
  members = {
    'a': {'txt': b'\xef\xbb\xbfone\r\n'},
    'b': {'json': b'{"captions": ["p", null, 3, "q"]}', 'txt': b'no'},
    'c': {'json': b'{"captions": [null], "caption": "no"}', 'txt': b'yes'},
    'd': {'json': b'{"caption": "\\ud83d"}'},
    'e': {'txt': b'\0\0'},
    'f': {},
    'g': {'txt': b'\xff\xfe\xfd'},
    'h': {'txt': b'long ' * 200_000},
  }
  with tarfile.open(tmp_path / 'x.tar', 'w') as shard:
    for i, (key, parts) in enumerate(members.items()):
      for suffix, data in ({'png': image(i)} | parts).items():
        member = tarfile.TarInfo(f'{key}.{suffix}')
        member.size = len(data)
        shard.addfile(member, io.BytesIO(data))
  found = all_captions(f'tar:{tmp_path}/x.tar')
  assert found[:-1] == [['one'], ['p', 'q'], ['yes'], [], [], [], []]
  assert len(found[-1][0]) == text.MAX_CHARS


def test_arrayrecord(tmp_path):
  write_arrayrecord(str(tmp_path / 'x.array_record'), open_source('digits:captions@test[:5]'))
  source, digits = open_source(f'arrayrecord:{tmp_path}/x.array_record'), open_source('digits:captions@test[:5]')
  assert [source[i]['text'] for i in range(5)] == [digits[i]['text'] for i in range(5)]


BUILDER = """
import io
import numpy as np
import tensorflow_datasets as tfds

class SslaxCoco(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict({
        'image': tfds.features.Image(shape=(None, None, 3)),
        'text': tfds.features.ClassLabel(names=['no', 'captions']),
        'captions': tfds.features.Sequence({'id': np.int64, 'text': tfds.features.Text()}),
      }),
    )

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(3)}

  def _generate_examples(self, n):
    from PIL import Image
    for i in range(n):
      out = io.BytesIO()
      Image.fromarray(np.full((2, 3, 3), i, np.uint8)).save(out, 'PNG')
      captions = [{'id': k, 'text': f'{i} {k}'} for k in range(i)]
      yield i, {'image': io.BytesIO(out.getvalue()), 'text': i % 2, 'captions': captions}
"""


def test_tfds_captions_inside_a_sequence(tmp_path, monkeypatch):
  (tmp_path / 'sslax_coco_package').mkdir()
  (tmp_path / 'sslax_coco_package' / '__init__.py').write_text('')
  (tmp_path / 'sslax_coco_package' / 'sslax_coco.py').write_text(BUILDER)
  monkeypatch.syspath_prepend(str(tmp_path))
  from sslax_coco_package import sslax_coco

  sslax_coco.SslaxCoco(data_dir=str(tmp_path / 'data'), file_format='array_record').download_and_prepare()
  found = all_captions(f'tfds:{tmp_path}/data/sslax_coco/1.0.0@train')
  assert sorted(found) == [[], ['1 0'], ['2 0', '2 1']]
  assert 'tensorflow' not in sys.modules


def test_real_captions(real_data):
  train = open_source(f'tar:{real_data}/fashion_captions/train-{{00000..00001}}.tar?label=label')
  test = open_source(f'tar:{real_data}/fashion_captions/test-00000.tar?label=label')
  assert (len(train), len(test)) == (6383, 1594) and train.classes == test.classes and len(test.classes) == 40
  assert all(len(captions(test, i)) == 1 for i in range(0, 1594, 50))
  coco = open_source(f'tar:{real_data}/coco_captions/{{train,validation}}-00000.tar')
  assert len(coco) == 478 and all(len(captions(coco, i)) >= 5 for i in range(0, 478, 20))
