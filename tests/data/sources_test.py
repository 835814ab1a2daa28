"""Each container gives the records that were put into it, from any thread and process; each mistake is answered in words."""

import concurrent.futures
import functools
import io
import json
import multiprocessing
import os
import pickle
import sys
import tarfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from sslax.data import files, parquet, sources, tar, tfds
from sslax.data.arrayrecord import write_arrayrecord
from sslax.data.decode import decode
from sslax.data.sources import open_source
from sslax.errors import UserError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def image(i):
  """A PNG whose colour says which record it is."""
  out = io.BytesIO()
  Image.fromarray(np.full((2, 3, 3), (i % 256, i // 256, 7), np.uint8)).save(out, 'PNG')
  return out.getvalue()


def number(record):
  pixel = decode(record['image'])[0, 0]
  return int(pixel[0]) + 256 * int(pixel[1])


def numbers(source):
  return [number(source[i]) for i in range(len(source))]


def make_folder(path, names):
  for i, name in enumerate(names):
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(image(i))
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


@pytest.fixture(scope='session')
def tiny(tmp_path_factory):
  """A data set that TFDS has prepared as ArrayRecord without TensorFlow."""
  root = tmp_path_factory.mktemp('tfds')
  (root / 'sslax_tiny_package').mkdir()
  (root / 'sslax_tiny_package' / '__init__.py').write_text('')
  (root / 'sslax_tiny_package' / 'sslax_tiny.py').write_text(BUILDER)
  sys.path.insert(0, str(root))
  from sslax_tiny_package import sslax_tiny

  sslax_tiny.SslaxTiny(data_dir=str(root / 'data'), file_format='array_record').download_and_prepare()
  yield root / 'data'
  sys.path.remove(str(root))


@pytest.fixture
def every(tmp_path):
  """A source of each kind, each with ten or more records."""
  make_folder(tmp_path / 'folder', [f'{"abc"[i % 3]}/{i}.png' for i in range(10)])
  make_parquet(tmp_path / 'x.parquet', 0, 10)
  make_tar(
    tmp_path / 'x.tar', [(f'{i:02d}', {'png': image(i), 'cls': str(i % 3).encode(), 'txt': f't{i}'.encode()}) for i in range(10)]
  )
  make_arrayrecord(tmp_path / 'x.array_record')
  return {
    'digits': 'digits:@test[:10]',
    'folder': f'folder:{tmp_path}/folder',
    'parquet': f'parquet:{tmp_path}/x.parquet',
    'tar': f'tar:{tmp_path}/x.tar',
    'arrayrecord': f'arrayrecord:{tmp_path}/x.array_record',
  }


KINDS = ('digits', 'folder', 'parquet', 'tar', 'arrayrecord')


def same(a, b):
  return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


# ------------------------------------------------------------------------------------------------------------ all containers


@pytest.mark.parametrize('kind', KINDS)
def test_protocol(every, kind):
  source = open_source(every[kind])
  assert source.name == every[kind] and len(source) == 10
  assert source.num_classes == len(source.classes or 'abc')
  for i in (0, np.int64(9)):
    record = source[i]
    assert type(record['label']) is int and 0 <= record['label'] < source.num_classes
    assert decode(record['image']).shape[-1] == 3
    assert isinstance(source.where(i), str)
  for i in (-1, 10):
    with pytest.raises(IndexError):
      source[i]
    with pytest.raises(IndexError):
      source.where(i)
  if kind != 'digits':
    assert sorted(numbers(source)) == list(range(10))
    assert all(source[i]['label'] == number(source[i]) % 3 for i in range(10))


@pytest.mark.parametrize('kind', KINDS)
def test_order_is_the_same_each_time(every, kind):
  a, b = open_source(every[kind]), open_source(every[kind])
  assert all(same(a[i], b[i]) and a.where(i) == b.where(i) for i in range(10))


@pytest.mark.parametrize('kind', KINDS)
def test_pickle(every, kind):
  source = open_source(every[kind])
  source[3]  # whatever it keeps open must not travel
  again = pickle.loads(pickle.dumps(source))
  assert again.name == source.name and again.classes == source.classes
  assert all(same(again[i], source[i]) for i in range(10))


def test_spawned_process(every):
  """What Grain does with a source for its workers."""
  opened = [open_source(every[kind]) for kind in KINDS if kind != 'digits']
  with multiprocessing.get_context('spawn').Pool(1) as pool:
    there = pool.map(_numbers_there, opened)
  assert there == [numbers(source) for source in opened]


def _numbers_there(source):
  return numbers(source)


@pytest.mark.parametrize('kind', KINDS)
def test_threads(every, kind):
  source = open_source(every[kind])
  alone = [source[i] for i in range(10)]
  order = np.random.default_rng(0).integers(0, 10, 400).tolist()
  fresh = open_source(every[kind])
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert all(same(record, alone[i]) for i, record in zip(order, pool.map(fresh.__getitem__, order), strict=True))


@pytest.mark.parametrize('kind', KINDS[1:])
def test_ranges(every, kind):
  whole = numbers(open_source(every[kind]))
  for text, expected in {
    '[:30%]': whole[:3],
    '[2:5]': whole[2:5],
    '[-5:]': whole[-5:],
    '[-20%:]': whole[-2:],
    '[50%:]': whole[5:],
    '[:]': whole,
    '[:-40%]': whole[:-4],
    '[:14%]': whole[:1],
    '[:16%]': whole[:2],
    '[:12.5%]': whole[:1],
  }.items():
    source = open_source(f'{every[kind]}@{text}')
    assert numbers(source) == expected, text
    assert len(source) == len(expected)


@settings(max_examples=50, deadline=None, database=None, derandomize=True)
@given(st.integers(0, 100), st.integers(0, 100))
def test_percents_meet_without_gap_or_overlap(a, b):
  n = len(open_source('digits:@train'))
  cuts = sorted({0, a, b, 100})
  lengths = [_length(f'digits:@train[{x}%:{y}%]') for x, y in zip(cuts, cuts[1:], strict=False)]
  assert sum(lengths) == n
  assert [round(n * (y - 0) / 100) for y in cuts[1:]] == list(np.cumsum(lengths))


def _length(uri):
  return len(open_source(uri))


# ------------------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
  'uri, words',
  [
    ('digit:', 'digits'),
    ('folde:/x', 'folder'),
    ('digits', 'digits:'),
    ('gs://bucket/x', 'folder:gs://bucket/x'),
    ('{tmp}', 'folder:{tmp}'),
    ('{tmp}/x.parquet', 'parquet:{tmp}/x.parquet'),
    ('', 'folder:PATH'),
    ('digits:@trian', 'train'),
    ('digits:/x', 'takes no path'),
    ('digits:@train[:10]%', 'takes no path'),
    ('digits:@train[:x]', "'x'"),
    ('digits:@train[:1298]', '1297'),
    ('digits:@train[:101%]', '1297'),
    ('digits:@train[5:5]', 'no record'),
    ('digits:@train[9:5]', 'no record'),
    ('folder:', 'needs a path'),
    ('folder:{tmp}/nothing/here', "'{tmp}'"),
    ('folder:{tmp}/empyt', 'Did you mean empty'),
    ('folder:~\0', 'zero byte'),
    ('folder:{tmp}/empty', 'nothing'),
    ('folder:{tmp}/texts', 'notes.txt'),
    ('folder:{tmp}/splits', '@train or @val'),
    ('folder:{tmp}/splits@tset', 'no such'),
    ('parquet:', 'no path'),
    ('parquet:{tmp}/*.parquet', "'{tmp}'"),
    ('parquet:{tmp}/texts/notes.txt', 'as Parquet'),
    ('parquet:{tmp}/empty', 'no .parquet files'),
    ('parquet:{tmp}/texts/notes.txt@train', 'no folder'),
    ('tar:{tmp}/texts/notes.txt', 'no tar file'),
    ('tar:{tmp}/x-{{0..3}}.tar', 'x-0.tar'),
    ('tar:{tmp}/x-{{3..0}}.tar', 'must go up'),
    ('tar:{tmp}/x-{{0..99999999}}.tar', 'at most'),
    ('tar:{tmp}/x-{{abc}}.tar', 'a range'),
    ('arrayrecord:{tmp}/texts/notes.txt', 'ArrayRecord'),
    ('folder:{tmp}/@train[:10]%', 'What follows an @'),
  ],
)
def test_mistakes(tmp_path, uri, words):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'texts').mkdir()
  (tmp_path / 'texts' / 'notes.txt').write_text('notes\n' * 50)
  make_folder(tmp_path / 'splits', ['train/a/1.png', 'val/a/1.png'])
  with pytest.raises(UserError) as error:
    open_source(uri.format(tmp=tmp_path))
  assert words.format(tmp=tmp_path) in str(error.value)


TOKENS = '@ [ ] : .. % , - 0 12 5.5 train test { } * ? ?label= / ~ \0 \n x'.split(' ')
JUNK = st.lists(st.sampled_from(TOKENS), max_size=8).map(''.join)
RANGE = st.tuples(JUNK, st.sampled_from(['', '@', '@train']), JUNK, JUNK).map(lambda t: f'{t[0]}{t[1]}[{t[2]}:{t[3]}]')


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.sampled_from(['', *(f'{scheme}:' for scheme in sources.SCHEMES if scheme != 'tfds')]), JUNK | RANGE)
@example('digits:', '@train[x:]')
@example('', '~\0')
def test_any_uri_opens_or_is_a_user_error(scheme, rest):
  try:
    open_source(f'{scheme}/no-such-place/{rest}' if scheme not in ('', 'digits:') else scheme + rest)
  except UserError as error:
    assert str(error)


def test_no_permission_is_a_user_error(tmp_path, monkeypatch):
  """Root may read everything, so the refusal is played."""
  make_tar(tmp_path / 'x.tar', [('a', {'png': image(0)})])

  def refuse(*_):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(files, 'open_binary', refuse)
  with pytest.raises(UserError, match='Permission denied'):
    open_source(f'tar:{tmp_path}/x.tar')


# -------------------------------------------------------------------------------------------------------------------- digits


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
def test_digits_are_scikit_learns(monkeypatch):
  """Read from its file, as `load_digits` gives them, which is also what happens if the file is not where it was."""
  quick = sources._load_digits()
  images, labels = quick
  assert images.shape == (1797, 8, 8) and images.dtype == np.uint8 and images.min() == 0 and images.max() == 255
  monkeypatch.setattr(sources.os.path, 'dirname', lambda path: '/no-such-place')
  try:
    slow = sources._load_digits.__wrapped__()
  finally:
    monkeypatch.undo()
  assert np.array_equal(images, slow[0]) and np.array_equal(labels, slow[1])
  from sklearn.datasets import load_digits

  assert np.abs(images / 255 * 16 - load_digits().images).max() <= 0.5 * 16 / 255 + 1e-9
  assert labels.tolist() == load_digits().target.tolist()


# -------------------------------------------------------------------------------------------------------------------- folder


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


# ------------------------------------------------------------------------------------------------------------------- parquet


def test_parquet_files_and_rows(tmp_path):
  make_parquet(tmp_path / 'train-00000.parquet', 0, 10, group=4)
  make_parquet(tmp_path / 'train-00001.parquet', 10, 7, group=3)
  make_parquet(tmp_path / 'test-00000.parquet', 17, 3)
  source = open_source(f'parquet:{tmp_path}/train-*.parquet')
  assert numbers(source) == list(range(17)) and source.classes == ('cat', 'dog', 'emu')
  assert [source[i]['label'] for i in range(17)] == [i % 3 for i in range(17)]
  assert (
    source.where(0) == f'{tmp_path}/train-00000.parquet row 0' and source.where(16) == f'{tmp_path}/train-00001.parquet row 6'
  )
  assert numbers(open_source(f'parquet:{tmp_path}@test')) == [17, 18, 19]
  with pytest.raises(UserError, match='@test or @train'):
    open_source(f'parquet:{tmp_path}')


def test_parquet_columns(tmp_path):
  images = pa.array([image(i) for i in range(6)])
  make_parquet(tmp_path / 'a.parquet', 0, 6, names=(), image=None, label=None, img=images, caption=pa.array(list('uvwxyz')))
  source = open_source(f'parquet:{tmp_path}/a.parquet')
  assert source.num_classes == 0 and 'label' not in source[0] and source[5]['text'] == 'z' and numbers(source) == list(range(6))
  make_parquet(
    tmp_path / 'b.parquet',
    0,
    6,
    names=(),
    label=None,
    fine_label=pa.array([0, 4, 2, None, 1, 1]),
    text=pa.array([['a', 'b']] * 6),
  )
  source = open_source(f'parquet:{tmp_path}/b.parquet')
  assert (source.num_classes, source.classes) == (5, ()) and [source[i]['label'] for i in range(6)] == [0, 4, 2, -1, 1, 1]
  assert source[0]['text'] == ['a', 'b']
  make_parquet(tmp_path / 'c.parquet', 0, 6, label=pa.array([-1] * 6))  # a Hugging Face test set without labels
  source = open_source(f'parquet:{tmp_path}/c.parquet')
  assert source.num_classes == 0 and source.classes == () and 'label' not in source[0]
  pq.write_table(pq.read_table(tmp_path / 'b.parquet'), tmp_path / 'd.parquet', write_statistics=False)
  assert open_source(f'parquet:{tmp_path}/d.parquet').num_classes == 5
  make_parquet(tmp_path / 'e.parquet', 0, 2, image=pa.array([{'bytes': image(0), 'path': ''}, {'bytes': None, 'path': 'x.png'}]))
  assert open_source(f'parquet:{tmp_path}/e.parquet')[1]['image'] == b''


def test_parquet_mistakes(tmp_path):
  make_parquet(tmp_path / 'a.parquet', 0, 4)
  make_parquet(tmp_path / 'b.parquet', 0, 4, label=None, names=())
  make_parquet(tmp_path / 'c.parquet', 0, 4, image=None)
  make_parquet(tmp_path / 'd.parquet', 0, 4, names=('one', 'two'))
  for name, words in {'[ab]': "column 'label'", 'c': 'no image column', 'd': 'names only 2'}.items():
    with pytest.raises(UserError, match=words):
      open_source(f'parquet:{tmp_path}/{name}.parquet')


def test_parquet_reads_a_row_group_once_while_it_fits(tmp_path, monkeypatch):
  make_parquet(tmp_path / 'x.parquet', 0, 40, group=4)
  reads = []
  load = parquet.Parquet._load
  monkeypatch.setattr(parquet.Parquet, '_load', lambda self, g: reads.append(g) or load(self, g))
  order = np.random.default_rng(0).permutation(40).tolist()
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert [number(r) for r in pool.map(open_source(f'parquet:{tmp_path}/x.parquet').__getitem__, order)] == order
  assert sorted(reads) == list(range(10))
  monkeypatch.setattr(parquet, 'CACHE_BYTES', 3 * 4 * (len(image(0)) + 20))  # three groups
  source = open_source(f'parquet:{tmp_path}/x.parquet')
  assert [number(source[i]) for i in order] == order
  assert 1 <= len(source._container._cache) <= 3 and set(source._container._cache) == set(source._container._sizes)


def test_parquet_goes_on_after_a_failed_read(tmp_path, monkeypatch):
  make_parquet(tmp_path / 'x.parquet', 0, 4)
  source = open_source(f'parquet:{tmp_path}/x.parquet')
  os.rename(tmp_path / 'x.parquet', tmp_path / 'y.parquet')
  with pytest.raises(OSError):
    source[0]
  os.rename(tmp_path / 'y.parquet', tmp_path / 'x.parquet')
  assert number(source[0]) == 0


# ----------------------------------------------------------------------------------------------------------------------- tar


def shard(tmp_path, name, first, n, **more):
  return make_tar(
    tmp_path / name, [(f'k{i:03d}', {'png': image(i)} | {k: v(i) for k, v in more.items()}) for i in range(first, first + n)]
  )


def test_tar_shards(tmp_path):
  for s in range(12):
    shard(tmp_path, f'x-{s:05d}.tar', 3 * s, 3, cls=lambda i: str(i % 5).encode())
  for pattern, expected in {
    'x-{00000..00011}.tar': range(36),
    'x-*.tar': range(36),
    'x-0000{8,9}.tar': range(24, 30),
    'x-{00010..00011}.tar,{T}/x-00000.tar': [30, 31, 32, 33, 34, 35, 0, 1, 2],
    'x-00001.tar,{T}/x-0000[01].tar': [3, 4, 5, 0, 1, 2],
  }.items():
    source = open_source(f'tar:{tmp_path}/{pattern}'.replace('{T}', str(tmp_path)))
    assert numbers(source) == list(expected)
    assert [source[i]['label'] for i in range(len(source))] == [n % 5 for n in expected]
  assert source.num_classes == 5 and source.classes == ()
  assert source.where(4) == f'{tmp_path}/x-00000.tar::k001.png'
  assert len(open_source(f'tar:{tmp_path}@[:50%]')) == 18


def test_tar_members(tmp_path):
  records = [
    ('a/x', {'JPG': image(0), 'txt': b'\xef\xbb\xbfone\xff', 'json': b'{"label": 3, "caption": "no"}'}),
    ('b/x', {'png': image(1), 'json': b'{"captions": ["p", "q"], "label": "word"}', 'txt': b'no'}),
    ('b/y', {'webp': image(2), 'json': b'{"caption": "c", "cls": 1}', 'seg.png': b'no', 'pkl': b'no', 'pyd': b'no'}),
    ('b/z', {'png': image(3), 'json': b'not json'}),
    ('b/text only', {'txt': b'no image'}),
    ('b/.hidden', {'png': b'no'}),
  ]
  source = open_source(f'tar:{make_tar(tmp_path / "x.tar", records)}')
  assert numbers(source) == [0, 1, 2, 3] and source.num_classes == 4
  assert [source[i]['label'] for i in range(4)] == [3, -1, 1, -1]
  assert [source[i].get('text') for i in range(4)] == ['one\ufffd', ['p', 'q'], 'c', None]
  assert source.where(0).endswith('x.tar::a/x.jpg')


def test_tar_words_are_classes_only_when_asked(tmp_path):
  fields = lambda i: json.dumps({'label': 'zyx'[i % 3], 'id': 10 + i, 'kind': ['b', 7][i % 2]}).encode()
  path = shard(tmp_path, 'x.tar', 0, 6, json=fields)
  assert open_source(f'tar:{path}').num_classes == 0
  for uri in (f'tar:{path}?label=label@[1:]', f'tar:{path}@[1:]?label=label'):
    source = open_source(uri)
    assert source.classes == ('x', 'y', 'z') and [source[i]['label'] for i in range(5)] == [1, 0, 2, 1, 0]
  assert open_source(f'tar:{path}?label=kind').classes == ('7', 'b')
  source = open_source(f'tar:{path}?label=id')
  assert (source.classes, source.num_classes, source[2]['label']) == ((), 16, 12)
  with pytest.raises(UserError, match="no field 'lable'.*it has label, id, kind"):
    open_source(f'tar:{path}?label=lable')


def test_tar_mistakes(tmp_path):
  make_tar(tmp_path / 'a.tar', [('a', {'txt': b'x', 'mp4': b'y'})])
  make_tar(tmp_path / 'b.tar', [('a', {'png': image(0), 'cls': b'cat'})])
  (tmp_path / 'c.tar').write_bytes(b'')
  with tarfile.open(tmp_path / 'd.tar.gz', 'w:gz') as t:
    t.add(tmp_path / 'a.tar', 'x.png')
  for name, words in {
    'a.tar': 'begins with a.txt, a.mp4',
    'b.tar': "holds 'cat'",
    'c.tar': 'no tar file',
    'd.tar.gz': 'gunzip',
  }.items():
    with pytest.raises(UserError, match=words):
      open_source(f'tar:{tmp_path}/{name}')


def test_tar_cut_off(tmp_path):
  """Every record before the cut is there and right; the one that was cut is not."""
  path = shard(tmp_path, 'x.tar', 0, 8, txt=lambda i: f't{i}'.encode() * 200)
  whole = path.read_bytes()
  with tarfile.open(path) as t:
    ends = [m.offset_data + m.size for m in t.getmembers() if m.name.endswith('.txt')]
  for cut in [*range(ends[1], ends[-1], 397), ends[3], ends[3] - 1, ends[3] + 700]:
    path.write_bytes(whole[:cut])
    source = open_source(f'tar:{path}')
    complete = sum(end <= cut for end in ends)
    assert numbers(source) == list(range(len(source))) and complete - 1 <= len(source) <= complete
    assert all(source[i]['text'] == f't{i}' * 200 for i in range(len(source)))


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(
  edits=st.lists(st.tuples(st.integers(0, 8191), st.binary(min_size=1, max_size=12)), max_size=4), cut=st.integers(0, 12_000)
)
def test_damaged_tar_is_a_user_error_or_fewer_records(tmp_path_factory, edits, cut):
  path = shard(tmp_path_factory.mktemp('damaged'), 'x.tar', 0, 4, json=lambda i: b'{"label": 1}')
  data = bytearray(path.read_bytes())
  for at, new in edits:
    data[at : at + len(new)] = new
  path.write_bytes(data[:cut])
  try:
    source = open_source(f'tar:{path}')
  except UserError:
    return
  assert 1 <= len(source) <= 4
  assert all(isinstance(source[i]['image'], bytes) for i in range(len(source)))


def test_tar_index_is_kept_and_follows_the_shard(tmp_path, monkeypatch):
  path = shard(tmp_path, 'x.tar', 0, 3)
  scans = []
  scan = tar._scan
  monkeypatch.setattr(tar, '_scan', lambda *args: scans.append(args) or scan(*args))
  assert numbers(open_source(f'tar:{path}')) == numbers(open_source(f'tar:{path}')) == [0, 1, 2]
  assert len(scans) == 1 and (tmp_path / '.x.tar.index.npz').exists()
  stat = path.stat()
  shard(tmp_path, 'x.tar', 5, 3)  # as large as before
  os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
  assert numbers(open_source(f'tar:{path}')) == [5, 6, 7] and len(scans) == 2
  (tmp_path / '.x.tar.index.npz').write_bytes(b'PK\3\4 damaged')
  assert numbers(open_source(f'tar:{path}')) == [5, 6, 7] and len(scans) == 3
  assert [p.name for p in sorted(tmp_path.iterdir()) if p.is_file()] == ['.x.tar.index.npz', 'x.tar']


def test_tar_index_leaves_a_read_only_folder_alone(tmp_path, tmp_path_factory, monkeypatch):
  cache = tmp_path_factory.mktemp('cache')
  monkeypatch.setenv('XDG_CACHE_HOME', str(cache))
  path = shard(tmp_path, 'x.tar', 0, 3)
  os.chmod(tmp_path, 0o555)
  try:
    assert numbers(open_source(f'tar:{path}')) == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ['x.tar'] and len(list((cache / 'sslax').iterdir())) == 1
  finally:
    os.chmod(tmp_path, 0o755)


# --------------------------------------------------------------------------------------------------------------- arrayrecord


def test_arrayrecord_round_trip(tmp_path):
  records = [{'image': image(i), 'label': np.int64(i % 3), 'text': [f'é{i}', 'x']} for i in range(5)]
  assert write_arrayrecord(str(tmp_path / 'a.array_record'), records, num_classes=3) == 5
  source = open_source(f'arrayrecord:{tmp_path}/a.array_record')
  assert [source[i] for i in range(5)] == records and (source.num_classes, source.classes) == (3, ())
  assert source.where(4) == f'{tmp_path}/a.array_record record 4'
  digits = open_source('digits:@test[:20]')
  write_arrayrecord(str(tmp_path / 'b.array_record'), digits)
  source = open_source(f'arrayrecord:{tmp_path}/b.array_record')
  assert source.classes == digits.classes
  assert all(
    np.array_equal(decode(source[i]['image']), decode(digits[i]['image'])) and source[i]['label'] == digits[i]['label']
    for i in range(20)
  )
  both = open_source(f'arrayrecord:{tmp_path}/b.array_record,{tmp_path}/a.array_record')
  assert (
    both[20]['image'] == image(0)
    and both.where(20) == f'{tmp_path}/a.array_record record 0'
    and both.where(19).endswith('record 19')
  )


def test_arrayrecord_bare_images(tmp_path):
  from array_record.python.array_record_module import ArrayRecordWriter

  bmp = io.BytesIO()
  Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(bmp, 'BMP')
  bare = [image(0), bmp.getvalue(), image(2)]
  writer = ArrayRecordWriter(str(tmp_path / 'a.array_record'), 'group_size:1')
  for data in bare:
    writer.write(data)
  writer.close()
  source = open_source(f'arrayrecord:{tmp_path}/a.array_record')
  assert [source[i] for i in range(3)] == [{'image': data} for data in bare] and source.num_classes == 0
  writer = ArrayRecordWriter(str(tmp_path / 'b.array_record'), 'group_size:1')
  writer.write(b'something else')
  writer.close()
  with pytest.raises(UserError, match='neither an image'):
    open_source(f'arrayrecord:{tmp_path}/b.array_record')


def test_arrayrecord_writer_asks_for_classes(tmp_path):
  for records, more in (([{'image': image(0), 'label': 1}], {}), ([{'image': image(0), 'label': 3}], {'num_classes': 3})):
    with pytest.raises(ValueError, match='classes'):
      write_arrayrecord(str(tmp_path / 'x.array_record'), records, **more)
  assert not (tmp_path / 'x.array_record').exists()


def test_arrayrecord_damage(tmp_path):
  """A damaged record raises what the pipeline replaces; a cut file does not open."""
  records = [{'image': np.random.default_rng(i).integers(0, 256, (64, 64, 3)).astype(np.uint8)} for i in range(40)]
  path = tmp_path / 'x.array_record'
  write_arrayrecord(str(path), records)
  data = bytearray(path.read_bytes())
  path.write_bytes(data[: len(data) // 2])
  with pytest.raises(UserError, match='x.array_record'):
    open_source(f'arrayrecord:{path}')
  data[200_000:200_100] = bytes(100)
  path.write_bytes(data)
  source, bad = open_source(f'arrayrecord:{path}'), 0
  for i in range(40):
    try:
      assert np.array_equal(decode(source[i]['image']), records[i]['image'])
    except (OSError, ValueError):
      bad += 1
  assert 1 <= bad <= 2


# ---------------------------------------------------------------------------------------------------------------------- tfds


def test_tfds(tiny, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tiny))
  train, test = open_source('tfds:sslax_tiny'), open_source('tfds:sslax_tiny:1.0.0@test')
  assert (len(train), len(test)) == (12, 5) and train.classes == ('even', 'odd') and train.num_classes == 2
  assert sorted(numbers(train)) == list(range(12))
  for i in range(12):
    record = train[i]
    assert record['label'] == number(record) % 2 and type(record['label']) is int and record['text'] == f'number {number(record)}'
    assert isinstance(record['image'], bytes)  # left to our own decoder
  by_path = open_source(f'tfds:{tiny}/sslax_tiny/1.0.0@train[:25%]')
  assert numbers(by_path) == numbers(train)[:3] and 'record 2' in by_path.where(2)
  assert numbers(pickle.loads(pickle.dumps(train))) == numbers(train)
  assert 'tensorflow' not in sys.modules
  with pytest.raises(UserError, match='Did you mean test'):
    open_source('tfds:sslax_tiny@tset')


def test_tfds_that_is_not_prepared(tmp_path, monkeypatch):
  """Answered at once: TFDS alone would try to download for minutes."""
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  monkeypatch.setattr(tfds, '_online', lambda: False)
  open_source_error('tfds:cifar1O', 'Did you mean cifar10')
  start = time.monotonic()
  message = open_source_error('tfds:cifar10@train', 'no network')
  assert time.monotonic() - start < 10
  assert f"tfds.builder('cifar10', data_dir='{tmp_path}', file_format='array_record').download_and_prepare()" in message
  open_source_error('tfds:cifar10:9.9.9', 'only: ')
  open_source_error('tfds:mnist/nothing', 'nothing not found')
  open_source_error(f'tfds:{tmp_path}', str(tmp_path))


def test_tfds_prepares_where_there_is_a_network(tmp_path, monkeypatch):
  import tensorflow_datasets

  calls = []

  def prepare(self, **options):
    calls.append((self.name, options))
    raise RuntimeError('TensorFlow is\nmissing')

  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  monkeypatch.setattr(tfds, '_online', lambda: True)
  monkeypatch.setattr(tensorflow_datasets.core.DatasetBuilder, 'download_and_prepare', prepare)
  open_source_error('tfds:cifar10', 'preparing it failed: TensorFlow is missing')
  assert calls == [('cifar10', {'file_format': 'array_record'})]


def test_tfds_in_a_format_without_random_access(tiny, tmp_path):
  version = tmp_path / 'sslax_tiny' / '1.0.0'
  version.mkdir(parents=True)
  for path in (tiny / 'sslax_tiny' / '1.0.0').iterdir():
    data = path.read_bytes().replace(b'array_record', b'tfrecord')
    (version / path.name.replace('array_record', 'tfrecord')).write_bytes(data)
  message = open_source_error(f'tfds:{version}', 'prepared as tfrecord')
  assert f'convert_format --dataset_version_dir={version} --out_file_format=array_record' in message


def test_the_network_test_ends_in_time(monkeypatch):
  """Also where the look-up of a name hangs, which knows no time limit."""

  class Socket:
    def close(self):
      pass

  monkeypatch.setattr(tfds.socket, 'create_connection', lambda *_, **__: time.sleep(2.5) or Socket())
  start = time.monotonic()
  assert not tfds._online(seconds=0.2) and time.monotonic() - start < 2
  monkeypatch.setattr(tfds.socket, 'create_connection', lambda *_, **__: Socket())
  assert tfds._online()

  def refuse(*_, **__):
    raise OSError

  monkeypatch.setattr(tfds.socket, 'create_connection', refuse)
  assert not tfds._online()


def open_source_error(uri, words):
  with pytest.raises(UserError) as error:
    open_source(uri)
  assert words in str(error.value)
  return str(error.value)


# -------------------------------------------------------------------------------------------------------------- remote paths


def test_remote(tmp_path, monkeypatch):
  """gs:// by way of etils; a folder plays the bucket."""
  make_folder(tmp_path / 'images', ['a/0.png', 'b/deep/1.png', '.x/2.png'])
  for s in range(2):
    shard(tmp_path, f'x-{s}.tar', 3 * s, 3, txt=lambda i: f't{i}'.encode())
  monkeypatch.setattr(files, 'remote', lambda path: epath.Path(path.replace('gs://bucket', str(tmp_path))))
  folder = open_source('folder:gs://bucket/images')
  assert folder.classes == ('a', 'b') and sorted(numbers(folder)) == [0, 1] and folder.where(0).startswith('gs://bucket/images/')
  monkeypatch.setattr(files, '_glob', lambda pattern: [f'gs://bucket/x-{s}.tar' for s in range(2)])
  for pattern in ('x-{0..1}.tar', 'x-*.tar'):
    source = open_source(f'tar:gs://bucket/{pattern}')
    assert numbers(source) == list(range(6)) and source[4]['text'] == 't4' and source.where(5) == 'gs://bucket/x-1.tar::k005.png'
  assert not list(tmp_path.glob('.x-*'))  # the index of a remote shard is kept on this machine
  open_source_error('folder:gs://bucket/nothing', "'gs://bucket/nothing'")


def test_remote_without_access_is_a_user_error(monkeypatch):
  class Denied(Exception):
    pass

  def remote(path):
    raise Denied('401 no credentials')

  monkeypatch.setattr(files, 'remote', remote)
  for scheme in ('folder', 'tar', 'arrayrecord'):
    open_source_error(f'{scheme}:gs://bucket/x', '401 no credentials')
    open_source_error(f'{scheme}:gs://bucket/x@train', '401 no credentials')


# ------------------------------------------------------------------------------------------------------------ balanced parts


def labels_of(source):
  return [source[i]['label'] for i in range(len(source))]


@pytest.mark.parametrize('kind', KINDS[1:])
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
  monkeypatch.setattr(sources.Folder, 'read', None)
  monkeypatch.setattr(sources.Digits, 'read', None)
  monkeypatch.setattr(tar.Tar, 'read', None)
  monkeypatch.setattr(parquet.Parquet, 'read', None)
  for kind in ('folder', 'tar', 'parquet'):
    assert len(open_source(f'{every[kind]}@[6:balanced]')) == 6
  assert len(open_source('digits:@test[50%:balanced]')) == 250


def test_balanced_of_a_split_and_of_tfds(tiny, tmp_path):
  assert sorted(labels_of(open_source(f'tfds:{tiny}/sslax_tiny/1.0.0@train[50%:balanced]'))) == [0, 0, 0, 1, 1, 1]
  make_folder(tmp_path, [f'{split}/{c}/{i}.png' for split in ('train', 'val') for c in 'ab' for i in range(5)])
  assert labels_of(open_source(f'folder:{tmp_path}@val[4:balanced]')).count(1) == 2


def test_balanced_that_cannot_be(tmp_path):
  make_folder(tmp_path, [f'{i}.png' for i in range(4)])
  open_source_error(f'folder:{tmp_path}@[50%:balanced]', 'needs labels')
  for text, words in {
    '': 'how many records in all',
    '0': 'how many records in all',
    '-5': 'how many records in all',
    '-1%': 'how many records in all',
    '101%': 'beyond the 1297',
    'all': 'is no bound',
    '100%': "asks for 130 of each class, and class '8' has 124: at most 1240",
  }.items():
    open_source_error(f'digits:@train[{text}:balanced]', words)
  open_source_error('digits:@train[1%:balancd]', '[1%:balanced]')


# ----------------------------------------------------------------------------------------------------------------- real data


def test_real_parquet(real_data):
  train, test = open_source(f'parquet:{real_data}/cifar10@train'), open_source(f'parquet:{real_data}/cifar10/test-*.parquet')
  assert (len(train), len(test)) == (50_000, 10_000) and train.classes == test.classes
  assert train.classes[:3] == ('airplane', 'automobile', 'bird') and train.num_classes == 10
  assert np.bincount([test[i]['label'] for i in range(10_000)]).tolist() == [1000] * 10
  assert decode(train[49_999]['image']).shape == (32, 32, 3)
  assert len(open_source(f'parquet:{real_data}/tiny_imagenet_50@validation').classes) == 50


def test_real_tar(real_data):
  source = open_source(f'tar:{real_data}/fashion_captions/train-{{00000..00001}}.tar?label=label')
  assert len(source) == 6383 and source.num_classes == 40 and 'Tshirts' in source.classes
  assert source[0]['text'] == 'Nike Men As Ss Cruiser Yellow T-Shirts' and source.classes[source[0]['label']] == 'Tshirts'
  assert all(decode(source[i]['image']).shape == (80, 60, 3) for i in range(0, 6383, 500))
  assert open_source(f'tar:{real_data}/fashion_captions@test?label=label').classes == source.classes
  coco = open_source(f'tar:{real_data}/coco_captions@train')
  assert len(coco) == 400 and coco.num_classes == 0 and len(coco[0]['text']) == 5


def test_real_folder(real_data):
  source = open_source(f'folder:{real_data}/imagenet_sample')
  assert len(source) == 125 and source.num_classes == 125 and source.classes[0] == 'n01440764'
  for i in range(0, 125, 25):
    assert source.where(i).split('/')[-2] == source.classes[source[i]['label']]
    assert min(decode(source[i]['image']).shape[:2]) > 50
