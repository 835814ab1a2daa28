"""folder: videos and sounds, alone and mixed; and the table of suffixes."""

import numpy as np
import pytest
from data.containers import image, make_folder, refused

from sslax.data import class_folders, record
from sslax.data.sources import open_source
from sslax.errors import BadRecord, UserError


@pytest.fixture
def warnings(monkeypatch):
  told = []
  monkeypatch.setattr(class_folders.logging, 'warning', lambda text, *args: told.append(text % args))
  return told


@pytest.mark.parametrize('medium, suffixes', record.SUFFIXES.items())
def test_a_folder_of_one_medium(tmp_path, warnings, medium, suffixes):
  names = [f'{"ab"[i % 2]}/{i}.{suffix.upper() if i % 3 else suffix}' for i, suffix in enumerate(suffixes)]
  source = open_source(f'folder:{make_folder(tmp_path / "x", [*names, "a/notes.txt", "a/x.npy", "a/jpg"])}')
  assert len(source) == len(suffixes) and source.classes == ('a', 'b') and warnings == []
  found = {source.where(i).removeprefix(f'{tmp_path}/x/'): source[i] for i in range(len(source))}
  assert found == {name: {medium: image(i), 'label': i % 2} for i, name in enumerate(names)}


def test_a_folder_that_mixes_media_tells_how_many(tmp_path, warnings):
  make_folder(tmp_path, ['a/1.png', 'a/2.mp4', 'b/3.flac', 'b/4.mp4', 'b/5.webm', 'loose.wav', 'c/x.txt'])
  source = open_source(f'folder:{tmp_path}')
  found = {source.where(i).split('/')[-1]: source[i] for i in range(len(source))}
  assert {name: tuple(held) for name, held in found.items()} == {
    '1.png': ('image', 'label'),
    '2.mp4': ('video', 'label'),
    '3.flac': ('audio', 'label'),
    '4.mp4': ('video', 'label'),
    '5.webm': ('video', 'label'),
  }
  assert len(warnings) == 3
  assert '1 files outside the class folders are left out, loose.wav first' in warnings[0]
  assert 'folders without files are no classes: c' in warnings[1]
  assert warnings[2] == f'{tmp_path} holds 1 images, 3 videos, 1 sounds: a record is one of them'


def test_without_classes_and_with_splits(tmp_path, warnings):
  source = open_source(f'folder:{make_folder(tmp_path / "x", ["1.mp3", "2.mp3"])}')
  assert source[0].keys() == {'audio'} and source.num_classes == 0
  make_folder(tmp_path / 'y', ['train/a/1.mp4', 'test/a/1.mp4'])
  assert open_source(f'folder:{tmp_path}/y@test').classes == ('a',)
  refused(f'folder:{tmp_path}/y', '@test or @train')
  assert warnings == []


def test_what_is_looked_for_is_said(tmp_path):
  make_folder(tmp_path, ['a/x.npy', 'notes.txt'])
  message = refused(f'folder:{tmp_path}', 'no images (.jpg .jpeg .png .webp .gif .bmp)')
  assert 'videos (.mp4 .webm .avi .mov .mkv .m4v) or sounds (.flac .wav .ogg .mp3 .opus)' in message
  assert 'it holds: a/, notes.txt' in message


def test_the_table_of_suffixes():
  for name, medium in {
    'a.jpg': 'image',
    'a.b.MP4': 'video',
    'd.png/x.opus': 'audio',
    'x.txt': '',
    'jpg': '',
    '.jpg': '',
    'x.': '',
    'd.png/x': '',
  }.items():
    assert record.medium_of_file(name) == medium, name
  every = [suffix for suffixes in record.SUFFIXES.values() for suffix in suffixes]
  assert len(set(every)) == len(every) and all(record.medium_of_suffix(suffix.upper()) for suffix in every)


def test_fields_of_an_option():
  assert record.fields('npy') == ('npy',) and record.fields(' b ,a,,b') == ('b', 'a')
  for text in ('', ',', 'npy,label'):
    with pytest.raises(UserError, match='fields='):
      record.fields(text)


def test_samples():
  for values, dtype in (
    (np.array([-(2**15), 2**15 - 1]), np.int16),
    (np.array([[1, 2]], np.int32), np.int16),
    (np.array([0.5, -3.0]), np.float32),
    (np.array([], np.int64), np.int16),
  ):
    found = record.samples(values)
    assert found.dtype == dtype and found.shape == values.shape and np.array_equal(found, values)
  with pytest.raises(BadRecord, match='expected 16 bits'):
    record.samples(np.array([0, 2**15]))
