"""parquet: rows of files in the Hugging Face layout."""

import concurrent.futures
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.containers import image, make_parquet, number, numbers

from sslax.data import parquet
from sslax.data.decode import decode
from sslax.data.sources import open_source
from sslax.errors import UserError


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


def test_real_parquet(real_data):
  train, test = open_source(f'parquet:{real_data}/cifar10@train'), open_source(f'parquet:{real_data}/cifar10/test-*.parquet')
  assert (len(train), len(test)) == (50_000, 10_000) and train.classes == test.classes
  assert train.classes[:3] == ('airplane', 'automobile', 'bird') and train.num_classes == 10
  assert np.bincount([test[i]['label'] for i in range(10_000)]).tolist() == [1000] * 10
  assert decode(train[49_999]['image']).shape == (32, 32, 3)
  assert len(open_source(f'parquet:{real_data}/tiny_imagenet_50@validation').classes) == 50
