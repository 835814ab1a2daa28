"""TensorFlow Datasets that are prepared as ArrayRecord, read without TensorFlow."""

import json
import os
import socket
import threading
from typing import Any

import numpy as np
from absl import logging

from sslax.data import record
from sslax.errors import UserError, suggest
from sslax.io import extras

_TEXTS = ('text', 'caption', 'captions', 'sentences')
_INSIDE = ('text', 'raw', 'caption')  # the field of a caption that is a dict: coco_captions has captions {id, text}
_FEATURES = 'tensorflow_datasets.core.features'


class Tfds:
  """A split of a data set, in its stored order; images stay encoded.

  `video` is a feature Video, or a Sequence of Image, which is what TFDS makes of a video: encoded frames. `audio` is a feature
  Audio: a file, if the data set decodes lazily, else samples.
  """

  def __init__(self, name: str, split: str):
    tfds: Any = extras.need('tensorflow_datasets', 'tfds')  # takes seconds

    class Skip(tfds.decode.SkipDecoding):
      def decode_batch_example_np(self, serialized_example):  # of a sequence, which TFDS forgot
        return list(serialized_example)

    self._made_of = (name, split)
    builder, rates = _builder(tfds, name)
    if not builder.is_prepared():
      _prepare(name, builder)
    features, splits = builder.info.features, builder.info.splits
    if split not in splits:
      raise UserError(f'tfds:{name} has no split {split!r}.{suggest(split, splits)}')
    self._media = {}
    for medium in record.SUFFIXES:
      keys = list(rates) if medium == 'audio' else [key for key, f in features.items() if _medium(tfds, f) == medium]
      if keys:
        self._media[medium] = medium if medium in keys else keys[0]
    self._rate = rates.get(self._media.get('audio'))
    self._label = next(
      (k for k in _label_keys(builder.info) if k in features and isinstance(features[k], tfds.features.ClassLabel)), ''
    )
    self._text = next((path for path in map(lambda key: _text_path(features, key), _TEXTS) if path), ())
    if not self._media and not self._text:
      raise UserError(f'tfds:{name} has no image feature, no video, audio or text; it has {", ".join(features)}')
    label = features[self._label] if self._label else None
    self.classes = tuple(label.names) if label else ()
    self.num_classes = label.num_classes if label else 0
    skipped = {key: Skip() for medium, key in self._media.items() if medium != 'audio'}
    try:
      self._data = builder.as_data_source(split, decoders=skipped)
    except NotImplementedError as error:  # tfrecord has no random access
      convert = f'--dataset_version_dir={builder.data_dir} --out_file_format=array_record'
      raise UserError(
        f'tfds:{name} is prepared as {builder.info.file_format.value}, which has no random access. Convert it where TensorFlow '
        f'is installed:\n  python -m tensorflow_datasets.scripts.convert_format {convert}'
      ) from error
    self._place = f'{builder.data_dir} {split}'

  # What TFDS pickles of a data set is its folder, and read in its own way again it would need TensorFlow.
  def __reduce__(self) -> tuple[Any, ...]:
    return type(self), self._made_of

  def __len__(self) -> int:
    return len(self._data)

  def read(self, i: int) -> dict[str, Any]:
    try:
      example = self._data[i]
    except Exception as error:  # RuntimeError of the container or an error of protobuf: a bad record like any other
      raise OSError(f'{self.where(i)}: {error}') from error
    found = {medium: example[key] for medium, key in self._media.items()}
    if isinstance(found.get('audio'), np.ndarray):
      found['audio'] = record.samples(found['audio'])
      found |= {'rate': self._rate} if self._rate else {}
    if self._label and int(example[self._label]) >= 0:  # -1: a test set without labels
      found['label'] = int(example[self._label])
    if self._text:
      value = example
      for key in self._text:
        value = value[key]
      texts = [t.decode('utf-8', errors='replace') for t in np.atleast_1d(np.asarray(value, object))]
      found['text'] = texts if np.ndim(value) else texts[0]
    return found

  def where(self, i: int) -> str:
    return f'{self._place} record {i}'


def _builder(tfds, name):
  """The builder, and {feature: its rate in Hz, 0 where nobody says} of the sounds."""
  try:
    folder = os.path.expanduser(name)
    if os.path.isdir(folder):
      if not os.path.exists(os.path.join(folder, 'dataset_info.json')):
        raise UserError(f'tfds:{name} is no folder of a prepared version (NAME/[CONFIG/]VERSION with dataset_info.json)')
      return _from_folder(tfds, folder)
    builder = tfds.builder(name, try_gcs=False, data_dir=os.environ.get('TFDS_DATA_DIR'))
    features = (builder.info.features or {}).items()
    return builder, {key: f.sample_rate or 0 for key, f in features if isinstance(f, tfds.features.Audio)}
  except tfds.core.DatasetNotFoundError as error:
    known = suggest(name.split('/')[0].split(':')[0], tfds.list_builders(with_community_datasets=False))
    raise UserError(f'TensorFlow Datasets has no data set {name!r}.{known if "mean" in known else ""}') from error
  except ImportError as error:  # features Video and Audio, and some builders
    raise UserError(
      f'tfds:{name} needs by its name what is not installed here ({" ".join(str(error).split())[:200]}). Once it is prepared, '
      'perhaps elsewhere, name the folder of the version, which needs no TensorFlow: tfds:/DATA_DIR/NAME/[CONFIG/]VERSION'
    ) from error
  except (
    ValueError,
    AssertionError,
    OSError,
    RuntimeError,
  ) as error:  # no such config, no such version, no data set in the folder
    raise UserError(f'tfds:{name}: {" ".join(str(error).split())[:400]}') from error


def _from_folder(tfds, folder):
  """As `_builder`, without TensorFlow.

  TFDS needs it as soon as it makes a feature Video or Audio, although what it stores for these is what it stores for a
  Sequence(Image) and a Tensor: so it is told that those are there.
  """
  with open(os.path.join(folder, 'features.json'), encoding='utf-8') as file:
    description = json.load(file)
  features = description.get('featuresDict', {}).get(
    'features', {}
  )  # {}: written by a TFDS before 4.5, which had no such classes
  rates = {key: int(f['audio'].get('sampleRate', 0)) for key, f in features.items() if 'audio' in f}
  if not rates and not any('video' in f for f in features.values()):
    return tfds.builder_from_directory(folder), {}
  from tensorflow_datasets.core import dataset_info, read_only_builder

  description['featuresDict']['features'] = {key: _stored_as(f) for key, f in features.items()}
  info = dataset_info.read_from_json(os.path.join(folder, 'dataset_info.json'))
  info.features.CopyFrom(tfds.features.FeatureConnector.from_json(description).to_proto())
  return read_only_builder.builder_from_metadata(folder, info), rates


def _stored_as(feature):
  """The description of a feature without Video and Audio, as features.json has it."""
  if 'video' in feature:
    video = feature['video']
    length, *shape = video.get('shape', {}).get('dimensions') or ['-1', '-1', '-1', '3']
    image = {'dtype': video.get('dtype', 'uint8'), 'shape': {'dimensions': shape}}
    inside = {'pythonClassName': f'{_FEATURES}.image_feature.Image', 'image': image}
    return {'pythonClassName': f'{_FEATURES}.sequence_feature.Sequence', 'sequence': {'feature': inside, 'length': length}}
  if 'audio' in feature:
    audio = feature['audio']
    lazy = {'dtype': 'string', 'shape': {}, 'encoding': 'none'}  # the file
    samples = {'dtype': audio['dtype'], 'shape': audio['shape'], 'encoding': audio.get('encoding', 'none').lower()}
    return {'pythonClassName': f'{_FEATURES}.tensor_feature.Tensor', 'tensor': lazy if audio.get('lazyDecode') else samples}
  return feature


def _medium(tfds, feature):
  if isinstance(feature, tfds.features.Image):
    return 'image'
  if isinstance(feature, tfds.features.Sequence) and isinstance(feature.feature, tfds.features.Image):
    return 'video'
  return ''


def _text_path(features, key):
  """Where the strings of a feature are: (key,), (key, field) for a sequence of dicts, () if it holds none."""
  if key not in features:
    return ()
  feature = features[key]
  feature = getattr(feature, 'feature', feature)  # of a sequence
  if hasattr(feature, 'items'):
    field = next((field for field in _INSIDE if field in feature), '')
    return (key, field) if field and _is_text(feature[field]) else ()
  return (key,) if _is_text(feature) else ()


def _is_text(feature):
  return np.dtype(feature.np_dtype).kind in 'OSU'


def _label_keys(info):
  keys = info.supervised_keys
  return [*([keys[1]] if keys and isinstance(keys[1], str) else []), 'label', 'labels']


def _prepare(name, builder):
  """Downloads and prepares it where the network allows; TFDS alone would try for minutes where it does not."""
  folder = f"data_dir='{os.environ['TFDS_DATA_DIR']}', " if 'TFDS_DATA_DIR' in os.environ else ''
  arguments = f"'{name}', {folder}file_format='array_record'"
  remedy = (
    'Prepare it where there is a network (and TensorFlow, if the data set encodes its images itself), then set TFDS_DATA_DIR:\n'
    f'  python -c "import tensorflow_datasets as tfds; tfds.builder({arguments}).download_and_prepare()"'
  )
  if not _online():
    raise UserError(f'tfds:{name} is not prepared in {builder.data_dir}, and there is no network here. {remedy}')
  logging.info('preparing tfds:%s in %s', name, builder.data_dir)
  try:
    builder.download_and_prepare(file_format='array_record')
  except Exception as error:
    raise UserError(
      f'tfds:{name} is not prepared, and preparing it failed: {" ".join(str(error).split())[:300]}. {remedy}'
    ) from error


def _online(host: str = 'storage.googleapis.com', seconds: float = 3.0) -> bool:
  """Whether a connection opens in this time; in a thread because looking up the name knows no time limit."""
  connected = threading.Event()

  def connect():
    try:
      socket.create_connection((host, 443), timeout=seconds).close()
      connected.set()
    except OSError:
      pass

  thread = threading.Thread(target=connect, daemon=True)
  thread.start()
  thread.join(seconds)
  return connected.is_set()
