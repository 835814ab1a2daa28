"""arrayrecord: every field that a record may have, there and back."""

import json
import struct

import numpy as np
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource
from data.containers import KINDS, image, make_clips, same
from hypothesis import given, settings
from hypothesis import strategies as st

from sslax.data.arrayrecord import write_arrayrecord
from sslax.data.sources import open_source


def back(path, records, **how):
  write_arrayrecord(str(path), records, **how)
  return open_source(f'arrayrecord:{path}')


def test_every_field(tmp_path):
  records = [
    {'video': b'film', 'label': 1, 'text': ['a', 'b']},
    {'video': [b'frame', b'', b'third'], 'audio': np.arange(5, dtype=np.int16), 'rate': 8000, 'label': 0},
    {'video': np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3), 'audio': np.ones((3, 2), np.float32), 'rate': np.int64(16000)},
    {'audio': b'sound', 'image': image(3), 'npy': b'array', 'pose': [1, 0.5], 'name': 'x', 'none': None, 'depth': np.eye(2)},
    {'text': b'caf\xc3\xa9 \xff'},
    {'text': 'alone', 'label': -1},
    {'image': image(6), 'rate': np.float32(0.5)},
  ]
  source = back(tmp_path / 'x.array_record', records, classes=['no', 'yes'])
  assert len(source) == 7 and source.classes == ('no', 'yes')
  for i, record in enumerate(records):
    assert same(source[i], {'label': -1} | record), i
    for name, value in record.items():
      assert not isinstance(value, np.ndarray) or source[i][name].dtype == value.dtype


@pytest.mark.parametrize('kind', KINDS)
def test_every_source(every, tmp_path, kind):
  """Of pixels, an image is stored as a file."""
  source = open_source(every[kind])
  again = back(tmp_path / 'y.array_record', source)
  assert again.classes == source.classes and again.num_classes == source.num_classes
  plain = lambda record: {name: value for name, value in record.items() if not isinstance(value, np.ndarray)}
  assert all(same(plain(source[i]), {name: again[i][name] for name in plain(source[i])}) for i in range(10))
  assert all(again[i].keys() == source[i].keys() for i in range(10))


def test_clips_are_read_frame_by_frame_and_come_back_as_a_list(tmp_path):
  source = open_source(f'frames:{make_clips(tmp_path / "clips", ["a/x", "b/y", "b/z"], frames=4)}')
  again = back(tmp_path / 'x.array_record', source)
  assert [again[i]['video'] for i in range(3)] == [list(source[i]['video']) for i in range(3)]


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(
  st.lists(
    st.fixed_dictionaries(
      {'text': st.text(st.characters(codec='utf-8')) | st.binary() | st.lists(st.text(st.characters(codec='utf-8')))},
      optional={
        'image': st.binary(),
        'video': st.binary() | st.lists(st.binary(), min_size=1),
        'audio': st.binary(),
        'npy': st.binary(),
        'pose': st.lists(st.floats(allow_nan=False) | st.integers(-(2**60), 2**60)),
        'label': st.integers(-1, 4),
      },
    ),
    min_size=1,
    max_size=4,
  )
)
@pytest.mark.slow
def test_what_is_written_comes_back(tmp_path_factory, records):
  source = back(tmp_path_factory.mktemp('a') / 'x.array_record', [{'npy': b''} | records[0], *records[1:]], num_classes=5)
  for i, record in enumerate(records):
    assert source[i] == ({'npy': b''} if i == 0 else {}) | {'label': -1} | record


def test_an_image_is_stored_as_ever(tmp_path):
  """Files of earlier versions open, and earlier versions open files of images."""
  records = [{'image': image(i), 'label': i % 2, 'text': f't{i}'} for i in range(3)] + [{'image': image(3)}]
  source = back(tmp_path / 'x.array_record', records, classes='ab')
  data = ArrayRecordDataSource(str(tmp_path / 'x.array_record'))
  for i, record in enumerate(records):
    header = {key: record[key] for key in ('label', 'text') if key in record} | ({'classes': ['a', 'b']} if i == 0 else {})
    text = json.dumps(header).encode()
    assert data[i] == struct.pack('<I', len(text)) + text + record['image']
    assert source[i] == {'label': -1} | record


def test_what_cannot_be_stored(tmp_path):
  for record, words in (
    ({'label': 0}, 'record 1 cannot be stored: it has neither image, video, audio nor text, but label'),
    ({}, 'but nothing'),
    ({'image': image(0), 'x': object()}, 'object is nothing that can be stored'),
    ({'video': [b'x', 5.5, np.eye(2)]}, 'bytes is nothing that can be stored'),
    ({'text': 'x', 'points': np.array([object()])}, 'allow_pickle'),
  ):
    with pytest.raises(ValueError, match=words):
      write_arrayrecord(str(tmp_path / 'x.array_record'), [{'text': 'first'}, record], num_classes=1)
  assert not (tmp_path / 'x.array_record').exists()
