"""Balanced parts of a source: as many records of one class as of another, the same ones each time."""

import functools
import pickle

import numpy as np
import pyarrow as pa
import pytest
from data.containers import LABELLED, image, labels_of, make_folder, make_parquet, numbers, refused
from PIL import Image

from sslax.data import parquet
from sslax.data.arrayrecord import write_arrayrecord
from sslax.data.schemes import digits, folder, frames, tar
from sslax.data.sources import open_source

pytestmark = pytest.mark.usefixtures('own_cache')


@pytest.mark.parametrize('kind', LABELLED)
def test_balanced(every, kind):
  """Labels 0, 1, 2, 0, ...: 4, 3 and 3 of a class."""
  whole = numbers(open_source(every[kind]))
  drawn = {}
  for text, each in {'6': 2, '60%': 2, '3': 1, '7': 2, '1%': 1, '0.1%': 1, '9': 3}.items():
    source = open_source(f'{every[kind]}@[{text}:balanced]')
    drawn[text] = numbers(source)
    assert sorted(labels_of(source)) == sorted([0, 1, 2] * each), text
    assert [n for n in whole if n in drawn[text]] == drawn[text]  # each once, in the order of the source
    assert [source.where(i) for i in range(len(source))] == [open_source(every[kind]).where(whole.index(n)) for n in drawn[text]]
  assert set(drawn['3']) < set(drawn['6']) < set(drawn['9']) and drawn['6'] == drawn['60%'] == drawn['7']
  again = pickle.loads(pickle.dumps(source))
  assert numbers(again) == drawn['9'] and again.num_classes == 3
  with pytest.raises(IndexError):
    source[9]
  assert numbers(open_source(f'{every[kind]}@[100%:balanced]')) == drawn['9']  # 10 / 3 of each


def test_balanced_digits():
  one, ten = (open_source(f'digits:@train[{text}:balanced]') for text in ('1%', '10%'))
  assert (len(one), len(ten)) == (10, 130) and np.bincount(labels_of(ten)).tolist() == [13] * 10
  assert {one.where(i) for i in range(10)} < {ten.where(i) for i in range(130)}
  assert len(open_source('digits:@[5%:balanced]')) == 60 and len(open_source('digits:@test[100%:balanced]')) == 500
  first = [next(i for i in range(1297) if labels_of_train()[i] == c) for c in range(10)]
  assert sorted(first) != sorted(one._numbers.tolist())  # drawn, not the first ones


@functools.cache
def labels_of_train():
  return labels_of(open_source('digits:@train'))


def test_balanced_decodes_no_image_and_skips_what_has_no_label(tmp_path, monkeypatch):
  records = [{'image': image(i)} | ({'label': i % 2} if i != 3 else {}) for i in range(8)]
  write_arrayrecord(str(tmp_path / 'x.array_record'), records, num_classes=5)  # three classes do not occur
  make_parquet(tmp_path / 'x.parquet', 0, 8, names='abcde', label=pa.array([0, 1, None, -1, 0, 1, 0, 1]))
  monkeypatch.setattr(Image, 'open', None)
  for uri in (f'arrayrecord:{tmp_path}/x.array_record', f'parquet:{tmp_path}/x.parquet'):
    source = open_source(f'{uri}@[6:balanced]')
    assert labels_of(source).count(0) == labels_of(source).count(1) == 3 and len(source) == 6
    assert source.num_classes == 5


def test_balanced_reads_no_record_where_labels_are_known(every, monkeypatch):
  monkeypatch.setattr(folder.Folder, 'read', None)
  monkeypatch.setattr(digits.Digits, 'read', None)
  monkeypatch.setattr(tar.Tar, 'read', None)
  monkeypatch.setattr(parquet.Parquet, 'read', None)
  monkeypatch.setattr(frames.Clips, 'read', None)
  for kind in ('folder', 'tar', 'parquet', 'frames'):
    assert len(open_source(f'{every[kind]}@[6:balanced]')) == 6
  assert len(open_source('digits:@test[50%:balanced]')) == 250


def test_balanced_of_a_split_and_of_tfds(tiny, tmp_path):
  assert sorted(labels_of(open_source(f'tfds:{tiny}/sslax_tiny/1.0.0@train[50%:balanced]'))) == [0, 0, 0, 1, 1, 1]
  make_folder(tmp_path, [f'{split}/{c}/{i}.png' for split in ('train', 'val') for c in 'ab' for i in range(5)])
  assert labels_of(open_source(f'folder:{tmp_path}@val[4:balanced]')).count(1) == 2


def test_balanced_that_cannot_be(tmp_path):
  make_folder(tmp_path, [f'{i}.png' for i in range(4)])
  refused(f'folder:{tmp_path}@[50%:balanced]', 'needs labels')
  for text, words in {
    '': 'how many records in all',
    '0': 'how many records in all',
    '-5': 'how many records in all',
    '-1%': 'how many records in all',
    '101%': 'beyond the 1297',
    'all': 'is no bound',
    '100%': "asks for 130 of each class, and class '8' has 124: at most 1240",
  }.items():
    refused(f'digits:@train[{text}:balanced]', words)
  refused('digits:@train[1%:balancd]', '[1%:balanced]')
