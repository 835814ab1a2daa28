"""Accuracy from a few labels a class, over several draws of which, the same draws for every set of features that is compared."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sslax.errors import UserError, suggest
from sslax.evals import features, logistic
from sslax.evals.probe import Data, Figure, Probe, Score, Store
from sslax.evals.visualisations import bars


@dataclasses.dataclass(frozen=True)
class FewShot(Probe):
  """`low_shot` with the shots that the smallest class has examples for."""

  shots: tuple[int, ...] = (1, 5, 10)
  draws: int = 10
  classifier: str = 'centroid'

  def run(self, store: Store, data: Data) -> Iterator[Score]:
    train, test = store.labelled(data.train), store.labelled(data.test)
    counts = np.bincount(train.label, minlength=data.num_classes)
    shots = tuple(n for n in self.shots if n <= counts.min())
    if not shots:
      raise UserError(
        f'few-shot: class {counts.argmin()} of {data.train.name} has {counts.min()} labelled examples, and needs '
        f'{min(self.shots)}'
      )
    found = low_shot(
      train.values, train.label, test.values, test.label, num_classes=data.num_classes, shots=shots, draws=self.draws, seed=0,
      classifier=self.classifier,
    )  # fmt: skip
    for n, row in found.items():
      rest = {key: value for key, value in row.items() if key not in ('mean', 'std')}
      column = f'{n} label{"s" if n != 1 else ""}'
      yield Score(str(n), row['mean'], column, chance=1 / data.num_classes, spread=row['std'], details=rest)

  def caption(self, scores: Sequence[Score]) -> str:
    how = {'centroid': 'nearest centroid'}.get(self.classifier, self.classifier)
    return (
      f'n labels: accuracy of the {how} with n labels a class, mean +- standard deviation of {self.draws} draws '
      '(the same draws for every row).'
    )

  def figures(self, store: Store, data: Data, found: Mapping[str, Sequence[Score]]) -> list[Figure]:
    means = {name: [score.value for score in scores] for name, scores in found.items()}
    errors = {name: [score.details['stderr'] for score in scores] for name, scores in found.items()}
    shots = [f'{score.name} a class' for score in next(iter(found.values()), ())]
    if not shots:
      return []
    drawn = bars(shots, means, errors, xlabel='labels', ylabel='accuracy')
    caption = f'{self.classifier.capitalize()}; mean of {self.draws} draws, bars show the standard error.'
    return [Figure('Label efficiency', drawn, 'svg', caption, 'accuracy by number of labels')]


def low_shot(
  train_x: Any,
  train_y: Any,
  test_x: Any,
  test_y: Any,
  *,
  num_classes: int,
  shots: Sequence[int] = (1, 5, 10),
  draws: int = 10,
  seed: int = 0,
  classifier: str = 'centroid',
  index: Any = None,
) -> dict[int, dict[str, Any]]:
  """Test accuracy with n labels a class, mean and standard error over draws.

  The draws depend on (seed, train_y) alone, never on the features: what two sets of features share cancels. Within a draw the
  shots are nested, the first n of a permutation inside each class (big_vision evaluators/fewshot_lsr.py).

  Args:
    train_x, test_x: [N, D], [M, D].
    train_y, test_y: [N], [M] integers in [0, num_classes).
    shots: labels a class.
    draws: at least 2.
    classifier: 'centroid': cosine to the mean of a class's unit features. 'ridge': least squares on one-hot labels in {-1, 1} of
      standardised features with a bias feature of 100 and l2 = 2 ** 10 (fewshot_lsr). 'logistic': `logistic.fit` with l2 = 1.
    index: [N] distinct record numbers; given, the draws do not depend on the order of the records.

  Returns:
    {n: {'mean', 'std' (ddof 1), 'stderr': std / sqrt(draws), 'values': [draws] list}}, fractions.

  Raises:
    UserError: a class with fewer examples than the largest shot, draws < 2, an unknown classifier, unfit features.
  """
  train_x, train_y = features.checked(train_x, train_y, num_classes, 'low-shot train')
  test_x, test_y = features.checked(test_x, test_y, num_classes, 'low-shot test')
  if classifier not in _CLASSIFIERS:
    raise UserError(f'low-shot: no classifier {classifier!r}.{suggest(classifier, _CLASSIFIERS)}')
  if draws < 2 or not shots or min(shots) < 1:
    raise UserError(f'low-shot: needs at least 2 draws ({draws}) and 1 label a class ({tuple(shots)}).')
  counts = np.bincount(train_y, minlength=num_classes)
  if counts.min() < max(shots):
    raise UserError(
      f'low-shot: class {counts.argmin()} has {counts.min()} examples, {max(shots)} shots need more: ask for fewer.'
    )
  if index is not None:
    order = np.argsort(np.asarray(index), kind='stable')
    train_x, train_y = train_x[order], train_y[order]
  classify = _CLASSIFIERS[classifier]
  values: dict[int, list[float]] = {n: [] for n in shots}
  for draw in range(draws):
    rng = np.random.default_rng((seed, draw))
    drawn = [rng.permutation(np.flatnonzero(train_y == c))[: max(shots)] for c in range(num_classes)]
    for n in shots:
      chosen = np.concatenate([rows[:n] for rows in drawn])
      values[n].append(float((classify(train_x[chosen], train_y[chosen], test_x, num_classes) == test_y).mean()))
  return {n: _summary(v) for n, v in values.items()}


def _summary(values):
  std = float(np.std(values, ddof=1))
  return {'mean': float(np.mean(values)), 'std': std, 'stderr': std / len(values) ** 0.5, 'values': list(values)}


def _centroid(x, y, test_x, num_classes):
  mean = np.stack([features.l2_normalize(x[y == c]).mean(0) for c in range(num_classes)])
  return (test_x @ features.l2_normalize(mean).T).argmax(1)  # the query's norm scales a whole row


def _ridge(x, y, test_x, num_classes, l2=2.0**10, bias=100.0):
  x, test_x = np.float64(x), np.float64(test_x)
  mean, std = x.mean(0), x.std(0) + 1e-5
  x, test_x = (np.pad((z - mean) / std, ((0, 0), (0, 1)), constant_values=bias) for z in (x, test_x))
  target = 2 * np.eye(num_classes)[y] - 1
  if len(x) < x.shape[1]:  # the same solution from the smaller system
    w = x.T @ np.linalg.solve(x @ x.T + l2 * np.eye(len(x)), target)
  else:
    w = np.linalg.solve(x.T @ x + l2 * np.eye(x.shape[1]), x.T @ target)
  return (test_x @ w).argmax(1)


def _logistic(x, y, test_x, num_classes):
  return logistic.fit(x, y, num_classes, l2=1.0).rank(test_x, 1)[:, 0]


_CLASSIFIERS = {'centroid': _centroid, 'ridge': _ridge, 'logistic': _logistic}
