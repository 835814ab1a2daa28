"""TensorFlow Datasets that are prepared as ArrayRecord, read without TensorFlow."""

import os
import socket
import threading

import numpy as np
from absl import logging

from sslax.errors import UserError, suggest

_TEXTS = ('text', 'caption', 'captions', 'sentences')
_INSIDE = ('text', 'raw', 'caption')  # the field of a caption that is a dict: coco_captions has captions {id, text}


class Tfds:
  """A split of a data set, in its stored order; images stay encoded."""

  def __init__(self, name: str, split: str):
    import tensorflow_datasets as tfds  # takes seconds

    builder = _builder(tfds, name)
    if not builder.is_prepared():
      _prepare(name, builder)
    features, splits = builder.info.features, builder.info.splits
    if split not in splits:
      raise UserError(f'tfds:{name} has no split {split!r}.{suggest(split, splits)}')
    keys = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    if not keys:
      raise UserError(f'tfds:{name} has no image feature; it has {", ".join(features)}')
    self._image = 'image' if 'image' in keys else keys[0]
    self._label = next(
      (k for k in _label_keys(builder.info) if k in features and isinstance(features[k], tfds.features.ClassLabel)), ''
    )
    self._text = next((path for path in map(lambda key: _text_path(features, key), _TEXTS) if path), ())
    label = features[self._label] if self._label else None
    self.classes = tuple(label.names) if label else ()
    self.num_classes = label.num_classes if label else 0
    try:
      self._data = builder.as_data_source(split, decoders={self._image: tfds.decode.SkipDecoding()})
    except NotImplementedError as error:  # tfrecord has no random access
      convert = f'--dataset_version_dir={builder.data_dir} --out_file_format=array_record'
      raise UserError(
        f'tfds:{name} is prepared as {builder.info.file_format.value}, which has no random access. Convert it where TensorFlow '
        f'is installed:\n  python -m tensorflow_datasets.scripts.convert_format {convert}'
      ) from error
    self._place = f'{builder.data_dir} {split}'

  def __len__(self):
    return len(self._data)

  def read(self, i):
    try:
      example = self._data[i]
    except Exception as error:  # RuntimeError of the container or an error of protobuf: a bad record like any other
      raise OSError(f'{self.where(i)}: {error}') from error
    record = {'image': example[self._image]}
    if self._label and int(example[self._label]) >= 0:  # -1: a test set without labels
      record['label'] = int(example[self._label])
    if self._text:
      value = example
      for key in self._text:
        value = value[key]
      texts = [t.decode('utf-8', errors='replace') for t in np.atleast_1d(np.asarray(value, object))]
      record['text'] = texts if np.ndim(value) else texts[0]
    return record

  def where(self, i):
    return f'{self._place} record {i}'


def _builder(tfds, name):
  try:
    folder = os.path.expanduser(name)
    if os.path.isdir(folder):
      if not os.path.exists(os.path.join(folder, 'dataset_info.json')):
        raise UserError(f'tfds:{name} is no folder of a prepared version (NAME/[CONFIG/]VERSION with dataset_info.json)')
      return tfds.builder_from_directory(folder)
    return tfds.builder(name, try_gcs=False, data_dir=os.environ.get('TFDS_DATA_DIR'))
  except tfds.core.DatasetNotFoundError as error:
    known = suggest(name.split('/')[0].split(':')[0], tfds.list_builders(with_community_datasets=False))
    raise UserError(f'TensorFlow Datasets has no data set {name!r}.{known if "mean" in known else ""}') from error
  except (
    ValueError,
    AssertionError,
    OSError,
    RuntimeError,
  ) as error:  # no such config, no such version, no data set in the folder
    raise UserError(f'tfds:{name}: {" ".join(str(error).split())[:400]}') from error


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
