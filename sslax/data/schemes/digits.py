"""digits: handwritten digits, which need no download."""

import functools
import pathlib
from typing import Any

import numpy as np

from sslax.errors import UserError, suggest

FORM = 'digits:[captions]  (handwritten digits that come with sslax, and captions of them; @train, @test, @all)'
FILE = pathlib.Path(__file__).parents[1] / 'digits.csv.gz'
SUFFIX = ''

WORDS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
CAPTIONS = (
  'a handwritten {}',
  'the digit {}',
  'a picture of the number {}',
  'a scan of the number {}',
  'somebody wrote the figure {}',
  'the number {} on paper',
)


def open_container(rest: str, split: str) -> 'Digits':
  return Digits(rest, split or 'train')


class Digits:
  """1,797 handwritten digits of 8x8 pixels, grey, 0..16 scaled to 0..255: the file that scikit-learn ships, without a change.

  E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, the test part, UCI Machine Learning Repository,
  https://doi.org/10.24432/C50P49, CC BY 4.0. That part has no split: `test` is 50 of each class, drawn once with seed 0;
  `train` is the other 1,297. With `digits:captions` the text of a record is its label in each of CAPTIONS, in words and in
  figures: 'a handwritten three', ...
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

  def __len__(self) -> int:
    return len(self._labels)

  def labels(self) -> np.ndarray:
    return self._labels

  def read(self, i: int) -> dict[str, Any]:
    label = int(self._labels[i])
    record = {'image': self._images[i], 'label': label}
    names = (WORDS[label], str(label))
    return record | {'text': [form.format(name) for form in CAPTIONS for name in names]} if self._captioned else record

  def where(self, i: int) -> str:
    return f'digits image {self._index[i]}'


@functools.cache
def _load_digits() -> tuple[np.ndarray, np.ndarray]:
  """`[1797, 8, 8]` uint8, `[1797]` int64."""
  data = np.loadtxt(FILE, delimiter=',')
  return np.round(data[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), data[:, -1].astype(np.int64)
