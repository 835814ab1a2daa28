"""digits: and folder:"""

import os

import numpy as np
import pytest
from data.containers import make_folder, number, numbers, same

from sslax.data.decode import decode
from sslax.data.schemes import digits
from sslax.data.sources import open_source


def test_digits():
  train, test, whole = (open_source(f'digits:@{name}') for name in ('train', 'test', 'all'))
  assert (len(train), len(test), len(whole)) == (1297, 500, 1797)
  assert len(open_source('digits:')) == 1297
  assert [sum(test[i]['label'] == c for i in range(500)) for c in range(10)] == [50] * 10
  places = [{source.where(i) for i in range(len(source))} for source in (train, test, whole)]
  assert not places[0] & places[1] and places[0] | places[1] == places[2]
  assert train.classes == tuple('0123456789') and train.num_classes == 10
  at = {whole.where(i): i for i in range(1797)}
  assert all(same(test[i], whole[at[test.where(i)]]) for i in range(500))


@pytest.mark.slow  # scikit-learn takes 4 s of one core to import
def test_digits_are_scikit_learns():
  images, labels = digits._load_digits()
  assert images.shape == (1797, 8, 8) and images.dtype == np.uint8 and images.min() == 0 and images.max() == 255
  from sklearn.datasets import load_digits

  assert np.abs(images / 255 * 16 - load_digits().images).max() <= 0.5 * 16 / 255 + 1e-9
  assert labels.tolist() == load_digits().target.tolist()


def test_folder_classes(tmp_path):
  names = [
    'b/1.png',
    'b/deep/deeper/2.JPEG',
    'a/3.PNG',
    'c d/4.webp',
    '.git/5.png',
    'a/.6.png',
    'a/notes.txt',
    '7.png',
    'empty/x.txt',
    'a/8@2.png',
  ]
  source = open_source(f'folder:{make_folder(tmp_path / "x", names)}')
  assert source.classes == ('a', 'b', 'c d')
  found = {os.path.relpath(source.where(i), tmp_path / 'x'): (number(source[i]), source[i]['label']) for i in range(len(source))}
  assert found == {
    'b/1.png': (0, 1),
    'b/deep/deeper/2.JPEG': (1, 1),
    'a/3.PNG': (2, 0),
    'c d/4.webp': (3, 2),
    'a/8@2.png': (9, 0),
  }


def test_folder_without_classes(tmp_path):
  source = open_source(f'folder:{make_folder(tmp_path / "x", ["1.png", "2.png"])}')
  assert source.classes == () and source.num_classes == 0 and 'label' not in source[0] and sorted(numbers(source)) == [0, 1]


def test_folder_splits(tmp_path):
  make_folder(tmp_path / 'x', [f'{split}/{c}/{i}.png' for split in ('train', 'val') for c in 'ab' for i in range(4)])
  train, val = open_source(f'folder:{tmp_path}/x@train'), open_source(f'folder:{tmp_path}/x@val[:50%]')
  assert sorted(numbers(train)) == list(range(8)) and train.classes == ('a', 'b')
  assert len(val) == 4 and set(numbers(val)) <= set(range(8, 16))


def test_a_path_may_hold_an_at_sign(tmp_path):
  make_folder(tmp_path / 'me@home', ['a/1.png', 'a/2.png'])
  assert len(open_source(f'folder:{tmp_path}/me@home')) == 2
  assert len(open_source(f'folder:{tmp_path}/me@home@[:1]')) == 1


def test_a_part_of_a_folder_holds_every_class(tmp_path):
  """And does not depend on where the folder lies or in which order its files were made."""
  names = [f'{c}/{i}.png' for c in 'abcdefgh' for i in range(40)]
  a = open_source(f'folder:{make_folder(tmp_path / "x", names)}@[:20%]')
  b = open_source(f'folder:{make_folder(tmp_path / "y" / "z", names[::-1])}@[:20%]')
  counts = np.bincount([a[i]['label'] for i in range(len(a))], minlength=8)
  assert counts.min() >= 3 and counts.max() <= 16
  assert [os.path.relpath(a.where(i), tmp_path / 'x') for i in range(64)] == [
    os.path.relpath(b.where(i), tmp_path / 'y/z') for i in range(64)
  ]


def test_folder_follows_links_but_not_in_circles(tmp_path):
  make_folder(tmp_path / 'elsewhere', ['1.png'])
  make_folder(tmp_path / 'x', ['a/2.png'])
  (tmp_path / 'x' / 'b').symlink_to(tmp_path / 'elsewhere')
  (tmp_path / 'x' / 'a' / 'up').symlink_to(tmp_path / 'x')
  source = open_source(f'folder:{tmp_path}/x')
  assert source.classes == ('a', 'b') and len(source) == 2


def test_real_folder(real_data):
  source = open_source(f'folder:{real_data}/imagenet_sample')
  assert len(source) == 125 and source.num_classes == 125 and source.classes[0] == 'n01440764'
  for i in range(0, 125, 25):
    assert source.where(i).split('/')[-2] == source.classes[source[i]['label']]
    assert min(decode(source[i]['image']).shape[:2]) > 50
