"""What several tests of sources share."""

import sys

import pytest
from data import containers


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture(scope='session')
def tiny(tmp_path_factory):
  """A data set that TFDS has prepared as ArrayRecord without TensorFlow."""
  root = tmp_path_factory.mktemp('tfds')
  (root / 'sslax_tiny_package').mkdir()
  (root / 'sslax_tiny_package' / '__init__.py').write_text('')
  (root / 'sslax_tiny_package' / 'sslax_tiny.py').write_text(containers.BUILDER)
  sys.path.insert(0, str(root))
  from sslax_tiny_package import sslax_tiny

  sslax_tiny.SslaxTiny(data_dir=str(root / 'data'), file_format='array_record').download_and_prepare()
  yield root / 'data'
  sys.path.remove(str(root))


@pytest.fixture
def every(tmp_path):
  """A source of each of KINDS, each with ten records."""
  image, pairs = containers.image, range(10)
  containers.make_folder(tmp_path / 'folder', [f'{"abc"[i % 3]}/{i}.png' for i in pairs])
  containers.make_parquet(tmp_path / 'x.parquet', 0, 10)
  more = [{'cls': str(i % 3).encode(), 'txt': f't{i}'.encode()} for i in pairs]
  containers.make_tar(tmp_path / 'x.tar', [(f'{i:02d}', {'png': image(i)} | more[i]) for i in pairs])
  containers.make_tar(tmp_path / 'v.tar', [(f'{i:02d}', {'mp4': b'%d' % i} | more[i]) for i in pairs])
  containers.make_arrayrecord(tmp_path / 'x.array_record')
  containers.make_clips(tmp_path / 'clips', [f'{"abc"[i % 3]}/{i}' for i in pairs])
  (tmp_path / 'x.txt').write_bytes(b''.join(b'%08d' % i for i in pairs))
  return {
    'digits': 'digits:@test[:10]',
    'folder': f'folder:{tmp_path}/folder',
    'parquet': f'parquet:{tmp_path}/x.parquet',
    'tar': f'tar:{tmp_path}/x.tar',
    'arrayrecord': f'arrayrecord:{tmp_path}/x.array_record',
    'frames': f'frames:{tmp_path}/clips',
    'videos': f'tar:{tmp_path}/v.tar',
    'outside': f'{containers.CIRCLES}:Circles:10',
    'text': f'text:{tmp_path}/x.txt?bytes=8',
  }
