"""tfds: features Video and Audio, which TFDS itself cannot even make without TensorFlow."""

import json
import pickle
import shutil
import sys

import numpy as np
import pytest
from data.containers import image, refused

from sslax.data import tfds
from sslax.data.sources import open_source
from sslax.errors import BadRecord

BUILDER = """
import io
import numpy as np
import tensorflow_datasets as tfds
from data.containers import image

class SslaxFilms(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    features = tfds.features
    return self.dataset_info_from_configs(features=features.FeaturesDict({
      'clip': features.Sequence(features.Image(shape=(None, None, 3))),
      'speech': features.Tensor(shape=(None,), dtype=np.int64),
      'stereo': features.Tensor(shape=(None, 2), dtype=np.int16),
      'file': features.Text(),
      'label': features.ClassLabel(num_classes=3),
    }))

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    for i in range(4):
      speech = np.array([0, 40_000]) if i == 3 else np.arange(i)
      yield i, {
        'clip': [io.BytesIO(image(i + 20 * k)) for k in range(i)],
        'speech': speech,
        'stereo': np.arange(2 * i).reshape(-1, 2).astype(np.int16),
        'file': b'RIFF%d' % i + bytes([200]),
        'label': i % 3,
      }
"""
# What TFDS 4.9.10 wrote, where TensorFlow was, for Video(shape=(None, None, None, 3)), Audio(sample_rate=8000), Audio(...,
# shape=(None, 2), dtype=np.int16) and Audio(..., lazy_decode=True, file_format='wav'). What it stored was as above.
AUDIO = {'dtype': 'int64', 'encoding': 'NONE', 'sampleRate': '8000', 'shape': {'dimensions': ['-1']}}
VIDEO = {'dtype': 'uint8', 'encodingFormat': 'png', 'shape': {'dimensions': ['-1', '-1', '-1', '3']}}
NAMES = {'audio': 'audio_feature.Audio', 'video': 'video_feature.Video'}


@pytest.fixture(scope='module')
def films(tmp_path_factory):
  """A prepared version without Video and Audio."""
  root = tmp_path_factory.mktemp('films')
  (root / 'sslax_films_package').mkdir()
  (root / 'sslax_films_package' / '__init__.py').write_text('')
  (root / 'sslax_films_package' / 'sslax_films.py').write_text(BUILDER)
  sys.path.insert(0, str(root))
  from sslax_films_package import sslax_films

  sslax_films.SslaxFilms(data_dir=str(root / 'data'), file_format='array_record').download_and_prepare()
  yield root / 'data' / 'sslax_films' / '1.0.0'
  sys.path.remove(str(root))


def changed(films, folder, **features):
  """A copy whose features.json says that these are Video or Audio, or (None) that they are not there."""
  shutil.copytree(films, folder)
  path = folder / 'features.json'
  description = json.loads(path.read_text())
  for name, (kind, value) in features.items():
    described = {kind: value, 'pythonClassName': f'tensorflow_datasets.core.features.{NAMES.get(kind)}'}
    description['featuresDict']['features'][name] = described
    if kind is None:
      del description['featuresDict']['features'][name]
  path.write_text(json.dumps(description))
  return folder


def test_video_and_samples(films, tmp_path):
  folder = changed(films, tmp_path / 'x' / '1.0.0', clip=('video', VIDEO), speech=('audio', AUDIO))
  source = open_source(f'tfds:{folder}')
  assert len(source) == 4 and source.num_classes == 3
  found = {}
  for i in range(4):
    try:
      found[len(source[i]['video'])] = source[i]
    except BadRecord as error:
      assert 'from 0 to 40000: expected 16 bits' in str(error)
  assert sorted(found) == [0, 1, 2]  # the fourth has samples that nobody can scale
  for n, record in found.items():
    assert record.keys() == {'video', 'audio', 'rate', 'label'} and record['label'] == n
    assert record['video'] == [image(n + 20 * k) for k in range(n)]  # as they are stored: left to our own decoder
    assert record['audio'].dtype == np.int16 and record['audio'].tolist() == list(range(n)) and record['rate'] == 8000
  again = pickle.loads(pickle.dumps(open_source(f'tfds:{folder}@train[:75%]')))
  assert len(again) == 3 and again.where(2) == source.where(2) and 'tensorflow' not in sys.modules


def test_other_layouts_of_sound(films, tmp_path):
  lazy = AUDIO | {'lazyDecode': True, 'fileFormat': 'wav'}
  source = open_source(f'tfds:{changed(films, tmp_path / "a" / "1.0.0", file=("audio", lazy), clip=(None, None))}')
  assert sorted(source[i]['audio'] for i in range(4)) == [b'RIFF%d\xc8' % i for i in range(4)]
  assert source[0].keys() == {'audio', 'label'}  # a file knows its rate
  stereo = {'dtype': 'int16', 'encoding': 'NONE', 'shape': {'dimensions': ['-1', '2']}}
  source = open_source(f'tfds:{changed(films, tmp_path / "b" / "1.0.0", stereo=("audio", stereo))}')
  found = sorted((source[i]['audio'] for i in range(4)), key=len)
  assert [x.shape for x in found] == [(n, 2) for n in range(4)] and found[3].tolist() == [[0, 1], [2, 3], [4, 5]]
  assert 'rate' not in source[0] and 'video' in source[0]  # a sequence of images is one, whatever it is called


def test_no_medium_and_no_text(films, tmp_path):
  folder = changed(films, tmp_path / 'x' / '1.0.0', clip=(None, None), file=(None, None))
  refused(f'tfds:{folder}', 'has no image feature, no video, audio or text; it has ')


def test_by_name_it_needs_tensorflow(tmp_path, monkeypatch):
  """The code of the data set makes the feature: nothing can be done but to say what else can be written."""
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  monkeypatch.setattr(tfds, '_online', lambda: False)
  message = refused('tfds:speech_commands', 'tfds:/DATA_DIR/NAME/[CONFIG/]VERSION')
  assert "No module named 'tensorflow'" in message
