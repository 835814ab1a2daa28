"""A part of a source, by the numbers of its records."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sslax.data.sources import Source


class Subset:
  """Records of a source in the order of `numbers`."""

  def __init__(self, source: Source, numbers: np.ndarray):
    self.name, self.classes, self.num_classes = source.name, source.classes, source.num_classes
    self._source, self._numbers = source, numbers

  def __len__(self) -> int:
    return len(self._numbers)

  def __getitem__(self, i: int) -> dict[str, Any]:
    return self._source[int(self._numbers[i])]

  def where(self, i: int) -> str:
    return self._source.where(int(self._numbers[i]))


def subset(source: Source, numbers: Sequence[int] | np.ndarray) -> Source:
  """The records of `source` with these numbers."""
  return Subset(source, np.asarray(numbers))
