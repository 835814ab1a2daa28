"""tar: shards in the WebDataset layout."""

import json
import os
import tarfile

import pytest
from data.containers import image, make_tar, numbers, shard
from hypothesis import given, settings
from hypothesis import strategies as st

from sslax.data import tar_index
from sslax.data.decode import decode
from sslax.data.sources import open_source
from sslax.errors import UserError

pytestmark = pytest.mark.usefixtures('own_cache')


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
  make_tar(tmp_path / 'a.tar', [('a', {'txt': b'x', 'npy': b'y'})])
  make_tar(tmp_path / 'b.tar', [('a', {'png': image(0), 'cls': b'cat'})])
  (tmp_path / 'c.tar').write_bytes(b'')
  with tarfile.open(tmp_path / 'd.tar.gz', 'w:gz') as t:
    t.add(tmp_path / 'a.tar', 'x.png')
  for name, words in {
    'a.tar': 'begins with a.txt, a.npy',
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
  scan = tar_index._scan
  monkeypatch.setattr(tar_index, '_scan', lambda *args: scans.append(args) or scan(*args))
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


def test_real_tar(real_data):
  source = open_source(f'tar:{real_data}/fashion_captions/train-{{00000..00001}}.tar?label=label')
  assert len(source) == 6383 and source.num_classes == 40 and 'Tshirts' in source.classes
  assert source[0]['text'] == 'Nike Men As Ss Cruiser Yellow T-Shirts' and source.classes[source[0]['label']] == 'Tshirts'
  assert all(decode(source[i]['image']).shape == (80, 60, 3) for i in range(0, 6383, 500))
  assert open_source(f'tar:{real_data}/fashion_captions@test?label=label').classes == source.classes
  coco = open_source(f'tar:{real_data}/coco_captions@train')
  assert len(coco) == 400 and coco.num_classes == 0 and len(coco[0]['text']) == 5
