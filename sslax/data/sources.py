"""Where records come from, named by a URI: `SCHEME:REST[@SPLIT]`. A source is random access, picklable and safe in threads."""

import functools
import hashlib
import importlib.util
import operator
import os
import re
from typing import Any, Protocol

import numpy as np
from absl import logging

from sslax.data import files
from sslax.errors import UserError, suggest

SCHEMES = {
  'digits': 'digits:[captions]  (handwritten digits that come with scikit-learn, and captions of them; @train, @test, @all)',
  'tfds': 'tfds:NAME[/CONFIG][:VERSION]  or  tfds:/FOLDER/OF/A/VERSION',
  'folder': 'folder:PATH  (CLASS/IMAGE.jpg, or images without classes)',
  'parquet': 'parquet:PATTERN[?text=COLUMN]  (the Hugging Face layout)',
  'tar': 'tar:PATTERN[?label=FIELD]  (the WebDataset layout)',
  'arrayrecord': 'arrayrecord:PATTERN  (written by sslax.data.arrayrecord.write_arrayrecord)',
}
WORDS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
CAPTIONS = (
  'a handwritten {}',
  'the digit {}',
  'a picture of the number {}',
  'a scan of the number {}',
  'somebody wrote the figure {}',
  'the number {} on paper',
)
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.gif', '.bmp')

_SPLIT = re.compile(r'@(?P<name>[A-Za-z]\w*)?(\[(?P<start>[^\[\]:]*):(?P<stop>[^\[\]:]*)\])?$')
_FIELDS = {'tar': re.compile(r'\?label=([^@?]+)'), 'parquet': re.compile(r'\?text=([^@?]+)')}
_BOUND = re.compile(r'(-?\d+(?:\.\d+)?)%|(-?\d+)')


class Source(Protocol):
  """Records by number.

  A record is a dict: `image` (encoded bytes, or uint8 `[H, W, 3]` or `[H, W]`); `label` (int; absent where the source has no
  classes, -1 where only this record has none); `text` (str or a list of str; absent where there is none). A record that cannot be
  read raises OSError or ValueError.
  """

  name: str  # the URI that it was opened from
  classes: tuple[str, ...]  # () where there are no labels or their names are unknown
  num_classes: int  # 0 where there are no labels

  def __len__(self) -> int: ...

  def __getitem__(self, i: int) -> dict[str, Any]: ...

  def where(self, i: int) -> str:
    """The place of record i for a human: a path, 'shard.tar::key.jpg', 'x.parquet row 17'."""


def open_source(uri: str) -> Source:
  """Opens what a URI names; nothing is read but lists, headers and labels.

  SPLIT is `name`, `name[a:b]` or `[a:b]`; a and b count records, or are percents of them (rounded to the nearest record, as in
  TFDS), and may be negative: `digits:@train[:10%]`, `tar:/data/{00..31}.tar@[-500:]`. A range is contiguous in the order of the
  source, which is the same on each machine and in each run.

  `name[n:balanced]` takes as many records of one class as of another, together about n (a count or a percent; at least one of
  each class): `tfds:cifar10@train[1%:balanced]`. They are drawn once for all; a smaller n draws a part of what a larger one does.

  Args:
    uri: see `SCHEMES`; `gs://` paths work for folder, parquet and tar.

  Raises:
    UserError: no such scheme, file, split, or nothing usable in it.
  """
  scheme, colon, rest = uri.partition(':')
  if '\0' in uri:
    raise UserError(f'{uri!r} holds a zero byte, which no path can')
  if not colon or scheme not in SCHEMES:
    raise UserError(_bad_scheme(uri, scheme))
  field = _FIELDS[scheme].search(rest) if scheme in _FIELDS else None
  rest = rest[: field.start()] + rest[field.end() :] if field else rest
  try:
    split = _find_split(scheme, rest)
    name, start, stop = (split['name'] or '', split['start'], split['stop']) if split else ('', None, None)
    rest = rest[: split.start()] if split else rest
    container = _open_container(scheme, rest, name, field[1] if field else '')
  except UserError:
    raise
  except Exception as error:  # no permission, a disk that fails; and each remote file system has exceptions of its own
    if not isinstance(error, (OSError, ImportError)) and not files.is_remote(rest):
      raise
    raise UserError(f'cannot open {uri!r}: {type(error).__name__}: {" ".join(str(error).split())[:300]}') from error
  n = len(container)
  if (stop or '').strip() == 'balanced':
    return _View(container, uri, _balanced(container, start, uri))
  first, last = _bound(start, n, 0, uri), _bound(stop, n, n, uri)
  if first >= last:
    raise UserError(f'{uri!r} selects no record: the range is {first} to {last} of {n}')
  return _View(container, uri, range(first, last))


class _View:
  """Some records of a container, by their numbers there: the one place that checks an index."""

  def __init__(self, container, name, numbers):
    self.name, self.classes, self.num_classes = name, container.classes, container.num_classes
    self._container, self._numbers = container, numbers

  def __len__(self):
    return len(self._numbers)

  def __getitem__(self, i):
    record = self._container.read(self._index(i))
    return record | {'label': record.get('label', -1)} if self.num_classes else record

  def where(self, i):
    return self._container.where(self._index(i))

  def __repr__(self):
    return f'{self.name} ({len(self)} records, {self.num_classes} classes)'

  def _index(self, i):
    i = operator.index(i)
    if not 0 <= i < len(self):
      raise IndexError(f'record {i} of {len(self)} in {self.name}')
    return int(self._numbers[i])


def _open_container(scheme, rest, split, field):
  """The heavy imports happen here, for the one container that is used."""
  if scheme == 'digits':
    return Digits(rest, split or 'train')
  if scheme == 'folder':
    return Folder(rest, split)
  if scheme == 'parquet':
    from sslax.data.parquet import Parquet

    return Parquet(files.expand(rest, '.parquet', split), field)
  if scheme == 'tar':
    from sslax.data.tar import Tar

    return Tar(files.expand(rest, '.tar', split), field)
  if scheme == 'arrayrecord':
    from sslax.data.arrayrecord import ArrayRecord

    return ArrayRecord(files.expand(rest, '.array_record', split))
  from sslax.data.tfds import Tfds

  return Tfds(rest, split or 'train')


def _find_split(scheme, rest):
  found = _SPLIT.search(rest)
  if not found or found[0] == '@' or (scheme != 'digits' and files.exists(os.path.expanduser(rest))):  # a path may hold an @
    return None
  return found


def _balanced(container, text, uri):
  """[M] record numbers, ascending: the same number of each class that occurs; `text` says how many in all."""
  labels = _labels(container) if container.num_classes else np.array([], np.int64)
  of_class = {int(c): np.flatnonzero(labels == c) for c in np.unique(labels[labels >= 0])}
  if not of_class:
    raise UserError(f'{uri!r}: a balanced part needs labels, and there are none')
  wanted = _bound(text, sum(map(len, of_class.values())), 0, uri)
  if not text.strip() or float(text.strip().rstrip('%')) <= 0:
    raise UserError(f'{text!r} in {uri!r}: write how many records in all, as in [100:balanced], or a percent, [1%:balanced]')
  each = max(1, round(wanted / len(of_class)))
  c, smallest = min(((c, len(numbers)) for c, numbers in of_class.items()), key=lambda pair: pair[1])
  if each > smallest:
    name = container.classes[c] if container.classes else c
    raise UserError(
      f'{uri!r} asks for {each} of each class, and class {name!r} has {smallest}: at most {smallest * len(of_class)} in all'
    )
  # A permutation of each class, of which the first are taken: shares of 1 % and 10 % are nested.
  drawn = [np.random.default_rng([0, c]).permutation(numbers)[:each] for c, numbers in of_class.items()]
  return np.sort(np.concatenate(drawn))


def _labels(container):
  """[N] int64, -1 where a record has none. A container without `labels()` is read through, but no image is decoded."""
  if hasattr(container, 'labels'):
    return np.asarray(container.labels(), np.int64)

  def label(i):
    try:
      return container.read(i).get('label', -1)
    except (OSError, ValueError):  # a bad record belongs to no class
      return -1

  return np.array([label(i) for i in range(len(container))], np.int64)


def _bound(text, n, default, uri):
  """'10%', '-5%', '100', '' -> a record number in [0, n]."""
  text = (text or '').strip()
  if not text:
    return default
  found = _BOUND.fullmatch(text)
  if not found:
    raise UserError(
      f'{text!r} in {uri!r} is no bound: write a count (100, -100) or a percent (10%, -5%); [1%:balanced] for a balanced part'
    )
  percent, count = found.groups()
  at = round(float(percent) * n / 100) if percent else int(count)
  if abs(at) > n:
    raise UserError(f'{text!r} in {uri!r} is beyond the {n} records that there are')
  return at + n if text.startswith('-') else at


def _bad_scheme(uri, scheme):
  forms = '\n  '.join(SCHEMES.values())
  path = os.path.expanduser(uri)
  if '://' in uri:
    hint = f' Put the container before it: folder:{uri}, parquet:{uri}, tar:{uri}.'
  elif os.path.isdir(path):
    hint = f' It is a folder; if it holds images: folder:{uri}'
  elif (near := {'.parquet': 'parquet', '.tar': 'tar', '.array_record': 'arrayrecord'}.get(os.path.splitext(uri)[1])) is not None:
    hint = f' Did you mean {near}:{uri}?'
  else:
    hint = suggest(scheme, SCHEMES)
  return (
    f'{uri!r} does not begin with a known scheme.{hint}\nA source is one of\n  {forms}\neach followed by @SPLIT where wanted.'
  )


@functools.cache
def _load_digits():
  """`[1797, 8, 8]` uint8, `[1797]` int64: the file that `load_digits` reads, without the 4 s of importing scikit-learn."""
  spec = importlib.util.find_spec('sklearn')
  if not spec:
    raise UserError('digits: needs scikit-learn, which brings the images: pip install scikit-learn')
  try:
    data = np.loadtxt(os.path.join(os.path.dirname(spec.origin), 'datasets', 'data', 'digits.csv.gz'), delimiter=',')
  except OSError:  # a version that keeps it elsewhere
    from sklearn.datasets import load_digits

    data = np.column_stack(load_digits(return_X_y=True))
  return np.round(data[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), data[:, -1].astype(np.int64)


class Digits:
  """The 1,797 handwritten 8x8 digits of scikit-learn (UCI optdigits, its test part), grey, 0..16 scaled to 0..255.

  scikit-learn has no split of its own. `test` is 50 of each class, drawn once with seed 0; `train` is the other 1,297. With
  `digits:captions` the text of a record is its label in each of CAPTIONS, in words and in figures: 'a handwritten three', ...
  """

  def __init__(self, rest: str, split: str):
    if rest not in ('', 'captions'):
      raise UserError(
        f'digits: takes no path, but was given {rest!r}: write digits:@train, digits:@test or digits:@all, or '
        'digits:captions@train and so on for captions'
      )
    self._captioned = bool(rest)
    if split not in ('train', 'test', 'all'):
      raise UserError(f'digits: has no split {split!r}.{suggest(split, ("train", "test", "all"))}')
    images, labels = _load_digits()
    rng = np.random.default_rng(0)
    test = np.sort(np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:50] for c in range(10)]))
    index = {'test': test, 'all': np.arange(len(labels)), 'train': np.setdiff1d(np.arange(len(labels)), test)}[split]
    self._images, self._labels, self._index = images[index], labels[index], index
    self.classes, self.num_classes = tuple('0123456789'), 10

  def __len__(self):
    return len(self._labels)

  def labels(self):
    return self._labels

  def read(self, i):
    label = int(self._labels[i])
    record = {'image': self._images[i], 'label': label}
    names = (WORDS[label], str(label))
    return record | {'text': [form.format(name) for form in CAPTIONS for name in names]} if self._captioned else record

  def where(self, i):
    return f'digits image {self._index[i]}'


class Folder:
  """PATH/CLASS/.../IMAGE.jpg with classes in the order of their names, or images directly in PATH without labels.

  The records are ordered by a hash of their path: in the order of the names, `@[:10%]` would hold a tenth of the classes only.
  """

  def __init__(self, path: str, split: str = ''):
    path = os.path.expanduser(path)
    root = os.path.join(path, split) if split else path
    if not path or not files.is_dir(root):
      raise files.missing(root) if path else UserError('folder: needs a path, as in folder:/data/images')
    folders, names = files.walk(root)
    found = [(name.split('/')[0] if '/' in name else '', name) for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    classes = sorted({top for top, _ in found if top})
    if not found:
      held = [name + '/' for name in folders] + [name for name in names if '/' not in name]
      held = ', '.join(held[:8] + ['...'] * (len(held) > 8)) or 'nothing'
      raise UserError(f'no images ({" ".join(IMAGE_SUFFIXES)}) in {root!r}; it holds: {held}')
    if classes and set(classes) <= {'train', 'val', 'valid', 'validation', 'test'}:
      raise UserError(f'{root!r} holds splits, not classes: choose one with {" or ".join("@" + name for name in classes)}')
    if classes:
      loose, empty = [name for top, name in found if not top], sorted(set(folders) - set(classes))
      if loose:
        logging.warning('%s: %d images outside the class folders are left out, %s first', root, len(loose), loose[0])
      if empty:
        logging.warning('%s: folders without images are no classes: %s', root, ', '.join(empty[:8]))
      found = [pair for pair in found if pair[0]]
    found.sort(key=lambda pair: (hashlib.blake2b(pair[1].encode('utf-8', 'surrogateescape'), digest_size=8).digest(), pair[1]))
    number = {name: c for c, name in enumerate(classes)}
    self._root, self._names = root, [name for _, name in found]
    self._labels = np.array([number[top] for top, _ in found], np.int32) if classes else None
    self.classes, self.num_classes = tuple(classes), len(classes)

  def __len__(self):
    return len(self._names)

  def labels(self):
    return self._labels

  def read(self, i):
    record = {'image': files.read(self.where(i))[0]}
    return record if self._labels is None else record | {'label': int(self._labels[i])}

  def where(self, i):
    return f'{self._root.rstrip("/")}/{self._names[i]}'
