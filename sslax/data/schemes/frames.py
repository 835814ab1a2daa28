"""frames: videos as folders of images."""

import collections
import os
import re
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from absl import logging

from sslax.data import class_folders, files, record
from sslax.errors import UserError

FORM = 'frames:PATH  (CLASS/CLIP/0001.jpg, or CLIP/0001.jpg without classes: a clip is a folder of images)'
SUFFIX = ''


def open_container(rest: str, split: str) -> 'Clips':
  return Clips(rest, split)


class Frames(Sequence[bytes]):
  """The encoded images of a clip in the natural order of their names (2.jpg before 10.jpg); each is read when it is asked for."""

  def __init__(self, folder: str, names: tuple[str, ...]):
    self._folder, self._names = folder, names

  def __len__(self) -> int:
    return len(self._names)

  @overload
  def __getitem__(self, i: int) -> bytes: ...
  @overload
  def __getitem__(self, i: slice) -> 'Frames': ...
  def __getitem__(self, i: int | slice) -> 'bytes | Frames':
    if isinstance(i, slice):
      return Frames(self._folder, self._names[i])
    return files.read(f'{self._folder}/{self._names[i]}')[0]

  def __repr__(self) -> str:
    return f'{len(self)} frames in {self._folder}'


class Clips:
  """PATH/CLASS/.../CLIP/NAME.jpg with classes in the order of their names, or PATH/CLIP/NAME.jpg, or one clip in PATH itself.

  A clip is a folder of images in which no other folder of images lies; images elsewhere are left out. The clips are ordered by a
  hash of their path, as in `folder:`.
  """

  def __init__(self, path: str, split: str = ''):
    root = class_folders.root_of('frames', path, split)
    folders, names = files.walk(root)
    images = collections.defaultdict(list)
    for name in names:
      if record.medium_of_file(name) == 'image':
        images[os.path.dirname(name)].append(os.path.basename(name))
    if not images:
      suffixes = ' '.join(f'.{suffix}' for suffix in record.SUFFIXES['image'])
      raise UserError(f'no folder of images ({suffixes}) in {root!r}; it holds: {class_folders.held(folders, names)}')
    outer = {folder for name in images for folder in _above(name)}
    stray = [f'{folder}/{images[folder][0]}'.lstrip('/') for folder in images if folder in outer]
    if stray:
      logging.warning('%s: images beside folders of images are no frames and left out, %s first', root, stray[0])
    clips = [folder for folder in images if folder not in outer]
    self._root = root.rstrip('/')
    self._names, self._labels, self.classes = class_folders.arrange(root, folders, clips, 'clips')
    self._frames = [tuple(sorted(images[name], key=_natural)) for name in self._names]
    self.num_classes = len(self.classes)

  def __len__(self) -> int:
    return len(self._names)

  def labels(self) -> np.ndarray | None:
    return self._labels

  def read(self, i: int) -> dict[str, Any]:
    found = {'video': Frames(self.where(i), self._frames[i])}
    return found if self._labels is None else found | {'label': int(self._labels[i])}

  def where(self, i: int) -> str:
    return f'{self._root}/{self._names[i]}'.rstrip('/')


def _above(name):
  """The folders that 'a/b/c' lies in: 'a/b', 'a', ''."""
  while name:
    name = os.path.dirname(name)
    yield name


def _natural(name):
  parts = re.split(r'(\d+)', name)  # text and numbers in turn, so that texts meet texts
  return [int(part) if k % 2 else part for k, part in enumerate(parts)], name
