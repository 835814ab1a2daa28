"""tfds: data sets prepared as ArrayRecord, without TensorFlow."""

import pickle
import sys
import time

import pytest
from data.containers import number, numbers, refused

from sslax.data import tfds
from sslax.data.sources import open_source
from sslax.errors import UserError


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
  refused('tfds:cifar1O', 'Did you mean cifar10')
  start = time.monotonic()
  message = refused('tfds:cifar10@train', 'no network')
  assert time.monotonic() - start < 10
  assert f"tfds.builder('cifar10', data_dir='{tmp_path}', file_format='array_record').download_and_prepare()" in message
  refused('tfds:cifar10:9.9.9', 'only: ')
  refused('tfds:mnist/nothing', 'nothing not found')
  refused(f'tfds:{tmp_path}', str(tmp_path))


def test_tfds_prepares_where_there_is_a_network(tmp_path, monkeypatch):
  import tensorflow_datasets

  calls = []

  def prepare(self, **options):
    calls.append((self.name, options))
    raise RuntimeError('TensorFlow is\nmissing')

  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  monkeypatch.setattr(tfds, '_online', lambda: True)
  monkeypatch.setattr(tensorflow_datasets.core.DatasetBuilder, 'download_and_prepare', prepare)
  refused('tfds:cifar10', 'preparing it failed: TensorFlow is missing')
  assert calls == [('cifar10', {'file_format': 'array_record'})]


def test_tfds_in_a_format_without_random_access(tiny, tmp_path):
  version = tmp_path / 'sslax_tiny' / '1.0.0'
  version.mkdir(parents=True)
  for path in (tiny / 'sslax_tiny' / '1.0.0').iterdir():
    data = path.read_bytes().replace(b'array_record', b'tfrecord')
    (version / path.name.replace('array_record', 'tfrecord')).write_bytes(data)
  message = refused(f'tfds:{version}', 'prepared as tfrecord')
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
