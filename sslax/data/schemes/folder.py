"""folder: files in the folders of their classes."""

import collections
from typing import Any

import numpy as np
from absl import logging

from sslax.data import class_folders, files, record
from sslax.errors import UserError

FORM = 'folder:PATH  (CLASS/IMAGE.jpg, or images without classes; videos and sounds likewise)'
SUFFIX = ''


def open_container(rest: str, split: str) -> 'Folder':
  return Folder(rest, split)


class Folder:
  """PATH/CLASS/.../NAME.jpg with classes in the order of their names, or files directly in PATH without labels.

  A record has `image`, `video` or `audio`, as the suffix of its file says. The records are ordered by a hash of their path.
  """

  def __init__(self, path: str, split: str = ''):
    root = class_folders.root_of('folder', path, split)
    folders, names = files.walk(root)
    found = [name for name in names if record.medium_of_file(name)]
    if not found:
      looked = [f'{record.PLURALS[medium]} (.{" .".join(suffixes)})' for medium, suffixes in record.SUFFIXES.items()]
      raise UserError(f'no {", ".join(looked[:-1])} or {looked[-1]} in {root!r}; it holds: {class_folders.held(folders, names)}')
    kinds = {record.medium_of_file(name) for name in found}
    what = record.PLURALS[min(kinds)] if len(kinds) == 1 else 'files'
    self._root = root
    self._names, self._labels, self.classes = class_folders.arrange(root, folders, found, what)
    self.num_classes = len(self.classes)
    counts = collections.Counter(map(record.medium_of_file, self._names))
    if len(counts) > 1:
      told = ', '.join(f'{counts[medium]} {record.PLURALS[medium]}' for medium in record.SUFFIXES if medium in counts)
      logging.warning('%s holds %s: a record is one of them', root, told)

  def __len__(self) -> int:
    return len(self._names)

  def labels(self) -> np.ndarray | None:
    return self._labels

  def read(self, i: int) -> dict[str, Any]:
    found = {record.medium_of_file(self._names[i]): files.read(self.where(i))[0]}
    return found if self._labels is None else found | {'label': int(self._labels[i])}

  def where(self, i: int) -> str:
    return f'{self._root.rstrip("/")}/{self._names[i]}'
