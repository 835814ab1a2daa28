"""Which probes a comparison shows, and which one figure of each."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Shown(NamedTuple):
  """A column of the table."""

  column: str
  figure: Callable[[dict[str, Any]], float | None]  # of a probe's values; None where the data allows none
  caption: str


PROBES = {
  'knn': Shown('kNN', lambda values: values['top1'], 'kNN: weighted vote on all labels of the training set.'),
  'linear': Shown(
    'linear',
    lambda values: values['accuracy'],
    'linear: logistic regression on all labels, its strength chosen on a tenth of the training set.',
  ),
  'fewshot': Shown(
    '5 labels a class',
    lambda values: values.get('5', {}).get('mean'),
    '5 labels a class: nearest centroid, mean of 10 draws of the labels.',
  ),
}
