"""Each container gives the records that were put into it, from any thread and process; each mistake is answered in words."""

import concurrent.futures
import multiprocessing
import pickle

import numpy as np
import pytest
from data.containers import IMAGES, KINDS, image, make_folder, make_tar, number, numbers, refused, same, shard
from etils import epath
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sslax.data import files, sources
from sslax.data.decode import decode
from sslax.data.sources import open_source
from sslax.errors import UserError

pytestmark = pytest.mark.usefixtures('own_cache')


@pytest.mark.parametrize('kind', KINDS)
def test_protocol(every, kind):
  source = open_source(every[kind])
  assert source.name == every[kind] and len(source) == 10
  assert source.num_classes == (0 if kind == 'text' else len(source.classes or 'abc'))
  for i in (0, np.int64(9)):
    record = source[i]
    assert 'label' not in record if kind == 'text' else type(record['label']) is int and 0 <= record['label'] < source.num_classes
    assert kind not in IMAGES or decode(record['image']).shape[-1] == 3
    assert isinstance(source.where(i), str)
  for i in (-1, 10):
    with pytest.raises(IndexError):
      source[i]
    with pytest.raises(IndexError):
      source.where(i)
  if kind != 'digits':
    assert sorted(numbers(source)) == list(range(10))
    assert all(source[i].get('label', number(source[i]) % 3) == number(source[i]) % 3 for i in range(10))


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
    there = pool.map(numbers, opened)
  assert there == [numbers(source) for source in opened]


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
@given(st.sampled_from(['', *(f'{scheme}:' for scheme in sources.names() if scheme != 'tfds')]), JUNK | RANGE)
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
  refused('folder:gs://bucket/nothing', "'gs://bucket/nothing'")
  (tmp_path / 'x.txt').write_text('é' * 5)
  text = open_source('text:gs://bucket/x.txt?bytes=3')
  assert [text[i]['text'] for i in range(4)] == [b'\xc3\xa9', b'\xc3\xa9\xc3\xa9', b'\xc3\xa9', b'\xc3\xa9']
  clips = open_source('frames:gs://bucket/images@[:1]')
  assert clips.where(0).startswith('gs://bucket/images/') and number(clips[0]) in (0, 1)


def test_remote_without_access_is_a_user_error(monkeypatch):
  class Denied(Exception):
    pass

  def remote(path):
    raise Denied('401 no credentials')

  monkeypatch.setattr(files, 'remote', remote)
  for scheme in ('folder', 'tar', 'arrayrecord'):
    refused(f'{scheme}:gs://bucket/x', '401 no credentials')
    refused(f'{scheme}:gs://bucket/x@train', '401 no credentials')
