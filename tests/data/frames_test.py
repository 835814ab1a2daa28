"""frames: a folder of images is a video."""

import pickle

import pytest
from data.containers import image, make_clips, make_folder, number, numbers, refused

from sslax.data import class_folders, files
from sslax.data.schemes import frames
from sslax.data.sources import open_source


@pytest.fixture
def warnings(monkeypatch):
  told = []
  monkeypatch.setattr(class_folders.logging, 'warning', lambda text, *args: told.append(text % args))
  return told


def test_classes_and_natural_order(tmp_path, warnings):
  for clip, names in {
    'walk/a': ['10.png', '9.png', '1.png'],
    'walk/deep/b': ['x2y10.png', 'x2y9.jpg', 'x10y1.png'],
    'run/c': ['0001.png', '01.png', '1.png', 'notes.txt', '.hidden.png'],
  }.items():
    make_folder(tmp_path / clip, names)
  source = open_source(f'frames:{tmp_path}')
  assert source.classes == ('run', 'walk') and len(source) == 3
  found = {source.where(i).removeprefix(f'{tmp_path}/'): source[i] for i in range(3)}
  # Each image says the how-manieth it was in the list above.
  order = {name: [number({'image': frame}) for frame in record['video']] for name, record in found.items()}
  assert order == {'walk/a': [2, 1, 0], 'walk/deep/b': [1, 0, 2], 'run/c': [0, 1, 2]}
  assert {name: record['label'] for name, record in found.items()} == {'walk/a': 1, 'walk/deep/b': 1, 'run/c': 0}
  assert warnings == []


def test_without_classes_and_a_single_clip(tmp_path, warnings):
  make_clips(tmp_path, ['b', 'a', 'c'], frames=3)
  source = open_source(f'frames:{tmp_path}')
  assert (
    (source.num_classes, source.classes) == (0, ()) and source[0].keys() == {'video'} and sorted(numbers(source)) == [0, 1, 2]
  )
  one = open_source(f'frames:{tmp_path}/b/')
  assert len(one) == 1 and len(one[0]['video']) == 3 and one.where(0) == f'{tmp_path}/b' and one.num_classes == 0
  assert warnings == []


def test_frames_are_read_when_they_are_asked_for(tmp_path, monkeypatch):
  make_clips(tmp_path, ['a/x', 'b/y'], frames=5)
  reads = []
  read = files.read
  monkeypatch.setattr(files, 'read', lambda path: reads.append(path) or read(path))
  source = open_source(f'frames:{tmp_path}')
  i = next(i for i in range(2) if source.where(i) == f'{tmp_path}/b/y')
  video = source[i]['video']
  assert len(video) == 5 and reads == []
  assert video[3] == image(1 + 20 * 3) and reads == [f'{tmp_path}/b/y/3.png']
  part = video[1::2]
  assert isinstance(part, frames.Frames) and len(part) == 2 and len(reads) == 1
  assert part[-1] == video[3] and list(pickle.loads(pickle.dumps(part))) == [video[1], video[3]]
  with pytest.raises(IndexError):
    video[5]
  (tmp_path / 'b' / 'y' / '2.png').unlink()
  with pytest.raises(OSError):
    video[2]


def test_splits_and_the_order_of_clips(tmp_path):
  make_clips(tmp_path, [f'{split}/{c}/{k}' for split in ('train', 'val') for c in 'ab' for k in range(20)])
  refused(f'frames:{tmp_path}', '@train or @val')
  train, val = open_source(f'frames:{tmp_path}@train'), open_source(f'frames:{tmp_path}@val[:50%]')
  assert len(train) == 40 and train.classes == ('a', 'b') and sorted(numbers(train)) == list(range(40))
  assert len(val) == 20 and {record['label'] for record in (val[i] for i in range(20))} == {0, 1}  # no class stands alone
  again = open_source(f'frames:{tmp_path}/train')
  assert numbers(again) == numbers(train)


def test_what_is_left_out_is_told(tmp_path, warnings):
  make_folder(tmp_path, ['a/x/1.png', 'a/preview.png', 'a/x/deeper/1.png', 'loose/1.png', 'none/notes.txt', 'cover.png'])
  source = open_source(f'frames:{tmp_path}')
  assert [source.where(i) for i in range(len(source))] == [f'{tmp_path}/a/x/deeper']
  assert len(warnings) == 3
  assert 'images beside folders of images are no frames and left out, cover.png first' in warnings[0]
  assert '1 clips outside the class folders are left out, loose first' in warnings[1]
  assert 'folders without clips are no classes: none' in warnings[2]


def test_mistakes(tmp_path):
  make_folder(tmp_path, ['a/x.mp4', 'notes.txt'])
  refused(f'frames:{tmp_path}', 'no folder of images (.jpg .jpeg .png .webp .gif .bmp)')
  refused(f'frames:{tmp_path}', 'it holds: a/, notes.txt')
  refused('frames:', 'frames: needs a path')
  refused(f'frames:{tmp_path}/nothing', 'no such file or folder')


def test_real_frames(real_data):
  drive = open_source(f'frames:{real_data}/drive')
  assert len(drive) == 1 and len(drive[0]['video']) == 51 and drive[0]['video'][50][:3] == b'\xff\xd8\xff'
  room = open_source(f'frames:{real_data}/room_rgbd')
  assert {room.where(i).split('/')[-1]: len(room[i]['video']) for i in range(2)} == {'color': 250, 'depth': 250}
