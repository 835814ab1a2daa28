"""tar: images, videos and sounds in one shard, and members that a URI asks for."""

import json
import random

import numpy as np
import pytest
from data.containers import image, make_tar, numbers, refused, shard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sslax.data import files, tar_index
from sslax.data.schemes import tar
from sslax.data.sources import open_source

pytestmark = pytest.mark.usefixtures('own_cache')

SUFFIXES = ('jpg', 'png', 'mp4', 'webm', 'flac', 'ogg', 'txt', 'json', 'cls', 'npy', 'seg.png', 'ply')


def test_a_record_is_what_shares_a_key_and_has_a_medium(tmp_path):
  records = [
    ('a', {'mp4': b'video', 'cls': b'2', 'txt': b'one'}),
    ('b', {'FLAC': b'sound', 'json': b'{"label": 1}'}),
    ('c', {'wav': b'second', 'png': b'image', 'mkv': b'film', 'opus': b'third', 'jpg': b'other'}),
    ('d', {'txt': b'text alone', 'npy': b'no'}),
    ('e', {'jpg': b'still', 'mp4': b'moving'}),
  ]
  source = open_source(f'tar:{make_tar(tmp_path / "x.tar", records)}')
  assert [source[i] for i in range(len(source))] == [
    {'video': b'video', 'label': 2, 'text': 'one'},
    {'audio': b'sound', 'label': 1},
    {'image': b'image', 'video': b'film', 'audio': b'second', 'label': -1},
    {'image': b'still', 'video': b'moving', 'label': -1},
  ]
  places = [source.where(i).split('::')[1] for i in range(4)]
  assert places == ['a.mp4', 'b.flac', 'c.png', 'e.jpg'] and source.num_classes == 3


def test_other_members_come_where_they_are_asked_for(tmp_path):
  records = [
    ('a', {'png': image(0), 'npy': b'array', 'seg.png': b'mask', 'json': b'{"x": 1}', 'cls': b'7'}),
    ('b', {'npy': b'no medium'}),
    ('c', {'png': image(2), 'PLY': b'points'}),
  ]
  path = make_tar(tmp_path / 'x.tar', records)
  plain = open_source(f'tar:{path}')
  assert [plain[i].keys() for i in range(2)] == [{'image', 'label'}] * 2
  source = open_source(f'tar:{path}?fields=npy, ply,seg.png,json,npy')
  assert source[0] == plain[0] | {'npy': b'array', 'seg.png': b'mask', 'json': b'{"x": 1}'}
  assert source[1] == plain[1] | {'ply': b'points'}
  assert open_source(f'tar:{path}?fields=PLY,cls')[0] == plain[0] | {'cls': b'7'}
  refused(f'tar:{path}?fields=npz', 'has a member .npz, which ?fields= asks for. Did you mean npy?')
  refused(f'tar:{path}?fields=,', 'names nothing')
  for name in ('image', 'video', 'audio', 'text', 'label', 'rate'):
    refused(f'tar:{path}?fields=npy,{name}', f'{name!r} is what a record has anyway')


def test_each_part_is_read_once_and_nothing_else(tmp_path, monkeypatch):
  members = {'mp4': b'v' * 10, 'ogg': b'a' * 20, 'txt': b't' * 30, 'npy': b'n' * 40, 'cls': b'1', 'bin': b'b' * 50}
  path = make_tar(tmp_path / 'x.tar', [('a', members), ('b', members)])
  plain, source = open_source(f'tar:{path}'), open_source(f'tar:{path}?fields=npy')
  reads = []
  read = files.read
  monkeypatch.setattr(files, 'read', lambda path, spans=None: reads.append([size for _, size in spans]) or read(path, spans))
  assert source[1]['npy'] == b'n' * 40 and plain[0]['audio'] == b'a' * 20
  assert reads == [[10, 20, 30, 40], [10, 20, 30]]


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(
  st.lists(st.tuples(st.sampled_from(['a', 'b', 'd/a', 'd/b', 'c']), st.sampled_from(SUFFIXES)), max_size=24), st.integers(1, 3)
)
@example([('a', 'mp4'), ('b', 'mp4'), ('a', 'flac'), ('b', 'npy'), ('d/a', 'npy'), ('a', 'npy'), ('d/a', 'jpg')], 1)
@example([('a', 'jpg'), ('a', 'png'), ('a', 'jpg')], 1)
@pytest.mark.slow
def test_members_belong_to_their_key(tmp_path_factory, members, shards):
  """In any order, over several shards; of one name the last counts."""
  folder = tmp_path_factory.mktemp('tar')
  expected, begun = [], 0
  for s in range(shards):
    part = members[s * len(members) // shards : (s + 1) * len(members) // shards]
    content = [(key, suffix, b'%d' % (begun + k)) for k, (key, suffix) in enumerate(part)]
    begun += len(part)
    make_tar(folder / f'{s}.tar', [(key, {suffix: data}) for key, suffix, data in content])
    found = {}
    for key, suffix, data in content:
      found.setdefault(key, {})[suffix] = data
    expected += [(s, key, parts) for key, parts in found.items()]
  first = lambda parts, suffixes: next((parts[suffix] for suffix in parts if suffix in suffixes), None)
  media = lambda parts: {
    'image': first(parts, ('jpg', 'png')),
    'video': first(parts, ('mp4', 'webm')),
    'audio': first(parts, ('flac', 'ogg')),
  }
  expected = [(s, key, parts) for s, key, parts in expected if any(media(parts).values())]
  uri = f'tar:{folder}/{{0..{shards - 1}}}.tar'
  if not expected:
    refused(uri, 'no images, videos or sounds')
    return
  asked = [suffix for suffix in ('npy', 'seg.png', 'ply') if any(suffix in parts for _, _, parts in expected)]
  source = open_source(f'{uri}?fields={",".join(asked)}' if asked else uri)
  assert len(source) == len(expected)
  for i, (s, key, parts) in enumerate(expected):
    record = source[i]
    wanted = {name: data for name, data in media(parts).items() if data is not None}
    wanted |= {suffix: parts[suffix] for suffix in asked if suffix in parts}
    assert {name: record[name] for name in record if name not in ('label', 'text')} == wanted
    assert record.get('text') == (parts['txt'].decode() if 'txt' in parts else None)
    assert record.get('label', -1) == (int(parts['cls']) if 'cls' in parts else -1)
    assert source.where(i).startswith(f'{folder}/{s}.tar::{key}.')


def test_an_index_of_an_earlier_version_is_made_again(tmp_path):
  """As version 1 wrote it: images alone."""
  path = make_tar(tmp_path / 'x.tar', [('a', {'mp4': b'film', 'npy': b'array'}), ('b', {'png': image(1)})])
  stamp = f'1 {files.version(str(path))} '
  old = {'key': np.array([b'b']), 'suffix': np.array([b'png']), 'spans': np.array([[[0, 9], [0, -1], [0, -1]]])}
  kept = tmp_path / '.x.tar.index.npz'
  np.savez(kept, **old, label=np.array([-1]), stamp=np.array(stamp))
  source = open_source(f'tar:{path}?fields=npy')
  assert source[0] == {'video': b'film', 'npy': b'array'} and numbers(open_source(f'tar:{path}@[1:]')) == [1]
  with np.load(kept) as index:
    assert str(index['stamp']).startswith('2 ')


def test_one_index_serves_all_fields(tmp_path, monkeypatch):
  path = make_tar(tmp_path / 'x.tar', [('a', {'mp4': b'film', 'npy': b'array', 'json': b'{"c": "x"}'})])
  open_source(f'tar:{path}')
  scans = []
  scan = tar_index._scan
  monkeypatch.setattr(tar_index, '_scan', lambda *args: scans.append(args) or scan(*args))
  assert open_source(f'tar:{path}?fields=npy')[0] == {'video': b'film', 'npy': b'array'} and scans == []
  assert open_source(f'tar:{path}?fields=npy&label=c').classes == ('x',) and len(scans) == 1


def test_only_what_may_be_read_is_kept_in_memory(tmp_path):
  shard(tmp_path, 'x.tar', 0, 5, cls=lambda i: b'%d' % i, npy=lambda i: b'n')
  container = tar.Tar([str(tmp_path / 'x.tar')])
  assert container._parts == ('image',) and container._spans.shape == (5, 1, 2)


def test_many_suffixes(tmp_path):
  """A name with several dots is a key and a long suffix, and thousands of those must not make a table of thousands of columns."""
  records = [('img', {f'{i:04d}.txt': b'no' for i in range(300)} | {'png': image(3)})]
  random.Random(0).shuffle(records)
  source = open_source(f'tar:{make_tar(tmp_path / "x.tar", records)}?fields=0007.txt')
  assert numbers(source) == [3] and source[0]['0007.txt'] == b'no'


# ----------------------------------------------------------------------------------------------------------------- real data

NAMES = {
  'environment_sounds': ('class', 'audio', b'OggS', 320, 80),
  'actions': ('class', 'video', b'ftyp', 48, 24),
  'talking_faces': ('color', 'video', b'ftyp', 369, 81),
}


@pytest.mark.parametrize('name', NAMES)
def test_real_names_of_classes(real_data, name):
  """`KEY.cls` gives numbers; a field of `KEY.json` gives their names, and the numbers are the same."""
  field, medium, magic, *counts = NAMES[name]
  names = tuple((real_data / name / 'classes.txt').read_text().split('\n')[:-1])
  for split, n in zip(('train', 'test'), counts, strict=True):
    numbered = open_source(f'tar:{real_data}/{name}@{split}?fields=json')
    named = open_source(f'tar:{real_data}/{name}@{split}?label={field}')
    assert len(numbered) == len(named) == n and numbered.classes == () and named.classes == names
    assert numbered.num_classes == named.num_classes == len(names)
    for i in range(n):
      record = numbered[i]
      assert record['label'] == named[i]['label'] and record[medium] == named[i][medium] and magic in record[medium][:12]
      assert names[record['label']] == json.loads(record['json'])[field]
    assert np.bincount(numbered._container.labels()).min() > 0


def test_real_spoken_digits(real_data):
  train, test = (open_source(f'tar:{real_data}/spoken_digits@{split}') for split in ('train', 'test'))
  assert (len(train), len(test), train.num_classes, train.classes) == (2000, 1000, 10, ())
  assert all(train[i]['audio'][:4] == b'fLaC' and train[i].keys() == {'audio', 'label'} for i in range(0, 2000, 50))
  assert np.bincount([test[i]['label'] for i in range(1000)]).tolist() == [100] * 10
  speakers = [open_source(f'tar:{real_data}/spoken_digits@{split}?label=speaker').classes for split in ('train', 'test')]
  assert len(speakers[0]) == 4 and len(speakers[1]) == 2 and not set(speakers[0]) & set(speakers[1])
  assert len(open_source(f'tar:{real_data}/spoken_digits@train[10%:balanced]')) == 200
