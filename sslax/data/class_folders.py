"""Files or clips below a folder: PATH/CLASS/.../NAME, or PATH/NAME without classes. Which classes there are, and the order."""

import hashlib
import os
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from absl import logging

from sslax.data import files
from sslax.errors import UserError

_SPLITS = {'train', 'val', 'valid', 'validation', 'test'}


class Arranged(NamedTuple):
  names: list[str]  # relative to the folder
  labels: np.ndarray | None  # [N] int32; None: no classes
  classes: tuple[str, ...]  # in the order of their names


def root_of(scheme: str, path: str, split: str) -> str:
  """The folder that holds a split, or all.

  Raises:
    UserError: it does not exist.
  """
  path = os.path.expanduser(path)
  root = os.path.join(path, split) if split else path
  if not path or not files.is_dir(root):
    raise files.missing(root) if path else UserError(f'{scheme}: needs a path, as in {scheme}:/data/images')
  return root


def arrange(root: str, folders: Iterable[str], names: Iterable[str], what: str) -> Arranged:
  """Classes of what has been found, and its order: by a hash of the names.

  In the order of the names, `@[:10%]` would hold a tenth of the classes only.

  Args:
    root: the folder.
    folders: those directly in it.
    names: what has been found, relative to it.
    what: it is, for warnings: 'images'.

  Raises:
    UserError: the folders are splits.
  """
  found = [(name.split('/')[0] if '/' in name else '', name) for name in names]
  classes = sorted({top for top, _ in found if top})
  if classes and set(classes) <= _SPLITS:
    raise UserError(f'{root!r} holds splits, not classes: choose one with {" or ".join("@" + name for name in classes)}')
  if classes:
    loose, empty = [name for top, name in found if not top], sorted(set(folders) - {name.split('/')[0] for _, name in found})
    if loose:
      logging.warning('%s: %d %s outside the class folders are left out, %s first', root, len(loose), what, loose[0])
    if empty:
      logging.warning('%s: folders without %s are no classes: %s', root, what, ', '.join(empty[:8]))
    found = [pair for pair in found if pair[0]]
  found.sort(key=lambda pair: (hashlib.blake2b(pair[1].encode('utf-8', 'surrogateescape'), digest_size=8).digest(), pair[1]))
  number = {name: c for c, name in enumerate(classes)}
  labels = np.array([number[top] for top, _ in found], np.int32) if classes else None
  return Arranged([name for _, name in found], labels, tuple(classes))


def held(folders: list[str], names: list[str]) -> str:
  """For an error: what a folder holds instead."""
  found = [name + '/' for name in folders] + [name for name in names if '/' not in name]
  return ', '.join(found[:8] + ['...'] * (len(found) > 8)) or 'nothing'
