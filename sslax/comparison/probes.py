"""Which one number of each probe a comparison shows."""

from collections.abc import Sequence
from typing import NamedTuple

from sslax.evals.probe import Probe, Score


class _Shown(NamedTuple):
  column: str
  caption: str
  score: str = ''  # its name; '': the first


_SHOWN = {  # accuracies; of other probes the first score, under the probe's name
  'knn': _Shown('kNN', 'kNN: weighted vote on all labels of the training set.'),
  'linear': _Shown('linear', 'linear: logistic regression on all labels, its strength chosen on a tenth of the training set.'),
  'fewshot': _Shown('5 labels a class', '5 labels a class: nearest centroid, mean of 10 draws of the labels.', '5'),
}


def column(name: str) -> str:
  """The heading of a probe's column."""
  return _SHOWN[name].column if name in _SHOWN else name


def title(name: str) -> str:
  """The heading of its picture."""
  return f'Accuracy: {column(name)}' if name in _SHOWN else name


def axis(name: str) -> str:
  """What its picture has along the axis."""
  return f'accuracy ({column(name)})' if name in _SHOWN else name


def caption(name: str, probe: Probe) -> str:
  """What its column is."""
  return _SHOWN[name].caption if name in _SHOWN else probe.caption(())


def shown(name: str, scores: Sequence[Score] | None) -> Score | None:
  """The score that stands for a probe; None where the data allows none."""
  wanted = _SHOWN[name].score if name in _SHOWN else ''
  return next((score for score in scores or () if not wanted or score.name == wanted), None)
