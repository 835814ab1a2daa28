"""parquet: videos, sounds, texts alone, and further columns."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.containers import image, make_parquet, numbers, refused

from sslax.data import parquet
from sslax.data.sources import open_source
from sslax.errors import BadRecord


def write(path, group=2, **columns):
  pq.write_table(pa.table(columns), path, row_group_size=group)
  return f'parquet:{path}'


FILE = pa.struct([('bytes', pa.binary()), ('path', pa.string())])


@pytest.mark.parametrize('medium', ['video', 'audio'])
def test_files(tmp_path, medium):
  """Hugging Face's features Video and Audio are both a struct {bytes, path}."""
  columns = {
    'struct': pa.array([{'bytes': b'%d' % i, 'path': 'x'} for i in range(5)] + [{'bytes': None, 'path': 'gone.mp4'}, None], FILE),
    'binary': pa.array([b'%d' % i for i in range(5)] + [None, None]),
    'large': pa.array([b'%d' % i for i in range(5)] + [None, None], pa.large_binary()),
  }
  for kind, column in columns.items():
    uri = write(tmp_path / f'{kind}.parquet', **{medium: column, 'label': pa.array([0, 1, 2, 0, 1, 2, 0])})
    source = open_source(uri)
    assert [source[i] for i in range(5)] == [{medium: b'%d' % i, 'label': i % 3} for i in range(5)], kind
    assert source[5][medium] == source[6][medium] == b''  # a bad record, as an image that is missing is
    assert len(open_source(f'{uri}@[3:balanced]')) == 3


def test_all_media_beside_each_other(tmp_path):
  make_parquet(
    tmp_path / 'x.parquet',
    0,
    6,
    video=pa.array([b'v%d' % i for i in range(6)]),
    audio=pa.array([{'bytes': b'a%d' % i, 'path': None} for i in range(6)], FILE),
    text=pa.array([f't{i}' for i in range(6)]),
  )
  source = open_source(f'parquet:{tmp_path}/x.parquet')
  expected = [{'image': image(i), 'video': b'v%d' % i, 'audio': b'a%d' % i, 'text': f't{i}', 'label': i % 3} for i in range(6)]
  assert [source[i] for i in range(6)] == expected and source.classes == ('cat', 'dog', 'emu')


@pytest.mark.parametrize(
  'values', [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.int16()), pa.list_(pa.int64())]
)
def test_samples_of_decoded_audio(tmp_path, values):
  """{array, sampling_rate, path}: Audio of Hugging Face, once it has been decoded."""
  kind = pa.struct([('path', pa.string()), ('array', values), ('sampling_rate', pa.int64())])
  rows = [{'path': 'x', 'array': [i, -1, 2], 'sampling_rate': 8000 + i} for i in range(3)]
  rows += [{'path': 'x', 'array': None, 'sampling_rate': 8000}, None, {'path': 'x', 'array': [1], 'sampling_rate': None}]
  source = open_source(write(tmp_path / 'x.parquet', audio=pa.array(rows, kind)))
  for i in range(3):
    record = source[i]
    assert record['rate'] == 8000 + i and type(record['rate']) is int
    assert record['audio'].dtype == (np.float32 if pa.types.is_floating(values.value_type) else np.int16)
    assert record['audio'].tolist() == [i, -1, 2]
  assert source[3] == source[4] == {'audio': b''}
  assert source[5]['audio'].tolist() == [1] and source[5].keys() == {'audio'}


def test_samples_that_nobody_can_scale(tmp_path):
  kind = pa.struct([('array', pa.list_(pa.int32())), ('sampling_rate', pa.int32())])
  rows = pa.array([{'array': [0, 70_000], 'sampling_rate': 8000}, {'array': [0, 7], 'sampling_rate': 8000}], kind)
  source = open_source(write(tmp_path / 'x.parquet', audio=rows))
  assert source[1]['audio'].tolist() == [0, 7]
  with pytest.raises(BadRecord, match='0 to 70000: expected 16 bits'):
    source[0]


def test_texts_alone(tmp_path):
  uri = write(tmp_path / 'x.parquet', text=pa.array(['a', None, 'c']), label=pa.array([1, 0, 1]))
  source = open_source(uri)
  assert [source[i] for i in range(3)] == [{'text': 'a', 'label': 1}, {'label': 0}, {'text': 'c', 'label': 1}]
  uri = write(tmp_path / 'y.parquet', title=pa.array(['t', 'u']), label=pa.array([1, 0]))
  assert open_source(f'{uri}?text=title')[1] == {'text': 'u', 'label': 0}
  refused(uri, 'and no text; it has title (string), label (int64)')


def test_columns_that_are_asked_for(tmp_path):
  uri = write(
    tmp_path / 'x.parquet',
    image=pa.array([image(i) for i in range(3)]),
    mask=pa.array([{'bytes': b'm%d' % i, 'path': ''} for i in range(3)], FILE),
    depth=pa.array([b'd%d' % i for i in range(3)]),
    pose=pa.array([[i, 0.5] for i in range(3)]),
    name=pa.array(['a', 'b', None]),
    caption=pa.array(['x', 'y', 'z']),
  )
  assert open_source(uri)[0].keys() == {'image', 'text'}
  source = open_source(f'{uri}?text=name&fields=mask,pose,depth,name')
  assert source[1] == {'image': image(1), 'text': 'b', 'mask': b'm1', 'depth': b'd1', 'pose': [1, 0.5], 'name': 'b'}
  assert source[2]['name'] is None and 'text' not in source[2] and numbers(source) == [0, 1, 2]
  refused(f'{uri}?fields=masc', "no column 'masc', which ?fields= asks for. Did you mean mask?")
  refused(f'{uri}?fields=image', "'image' is what a record has anyway")


def test_columns_of_a_wrong_type_and_files_of_two_layouts(tmp_path):
  write(tmp_path / 'a.parquet', video=pa.array(['http://x']), text=pa.array(['a']))
  assert open_source(f'parquet:{tmp_path}/a.parquet')[0] == {'text': 'a'}
  kind = pa.struct([('array', pa.list_(pa.string())), ('sampling_rate', pa.int32())])
  refused(write(tmp_path / 'b.parquet', audio=pa.array([None], kind)), 'no such video or audio, and no text')
  write(tmp_path / 'c.parquet', audio=pa.array([b'x']))
  write(tmp_path / 'd.parquet', audio=pa.array([{'bytes': b'x', 'path': ''}], FILE))
  refused(f'parquet:{tmp_path}/[cd].parquet', "in the column 'audio': name files of one layout")


def test_a_row_group_is_counted_with_all_its_columns(tmp_path, monkeypatch):
  monkeypatch.setattr(parquet, 'CACHE_BYTES', 25_000)
  uri = write(tmp_path / 'x.parquet', video=pa.array([bytes(5000)] * 12), mask=pa.array([bytes(5000)] * 12))
  source = open_source(f'{uri}?fields=mask')
  for i in range(12):
    assert source[i] == {'video': bytes(5000), 'mask': bytes(5000)}
    assert len(source._container._cache) == 1  # a second group of 2 * 10,000 bytes has no room
  plain = open_source(uri)
  assert [plain[i].keys() for i in range(12)] == [{'video'}] * 12 and len(plain._container._cache) == 2


def test_metadata_of_hugging_face(tmp_path):
  info = {'info': {'features': {'audio': {'_type': 'Audio', 'sampling_rate': 16000}, 'label': {'names': ['no', 'yes']}}}}
  table = pa.table({'audio': pa.array([{'bytes': b'x', 'path': 'x.flac'}] * 2, FILE), 'label': pa.array([1, 0])})
  pq.write_table(table.replace_schema_metadata({'huggingface': json.dumps(info)}), tmp_path / 'x.parquet')
  source = open_source(f'parquet:{tmp_path}/x.parquet')
  assert source.classes == ('no', 'yes') and source[0] == {'audio': b'x', 'label': 1}


def test_real_masks(real_data):
  source = open_source(f'parquet:{real_data}/street_scenes@val?fields=mask')
  assert len(source) == 101 and source[100].keys() == {'image', 'mask'} and source[100]['mask'][:4] == b'\x89PNG'
