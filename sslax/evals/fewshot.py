"""Accuracy from a few labels a class, over several draws of which, the same draws for every set of features that is compared."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sslax.errors import UserError, suggest
from sslax.evals import features, linear


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

  The draws depend on (seed, train_y) alone, never on the features: compare two sets of features with `paired`. Within a draw the
  shots are nested, the first n of a permutation inside each class (big_vision evaluators/fewshot_lsr.py).

  Args:
    train_x, test_x: [N, D], [M, D].
    train_y, test_y: [N], [M] integers in [0, num_classes).
    shots: labels a class.
    draws: at least 2.
    classifier: 'centroid': cosine to the mean of a class's unit features. 'ridge': least squares on one-hot labels in {-1, 1} of
      standardised features with a bias feature of 100 and l2 = 2 ** 10 (fewshot_lsr). 'logistic': `linear.fit` with l2 = 1.
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
  classify, values = _CLASSIFIERS[classifier], {n: [] for n in shots}
  for draw in range(draws):
    rng = np.random.default_rng((seed, draw))
    drawn = [rng.permutation(np.flatnonzero(train_y == c))[: max(shots)] for c in range(num_classes)]
    for n in shots:
      chosen = np.concatenate([rows[:n] for rows in drawn])
      values[n].append(float((classify(train_x[chosen], train_y[chosen], test_x, num_classes) == test_y).mean()))
  return {n: _summary(v) for n, v in values.items()}


def paired(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
  """(mean of a - b, its standard error) for values [draws] of the same draws: what they share cancels.

  Raises:
    UserError: lengths that differ, or fewer than 2.
  """
  if len(a) != len(b) or len(a) < 2:
    raise UserError(f'paired: {len(a)} and {len(b)} values; needs the same draws, at least 2.')
  summary = _summary(np.asarray(a, np.float64) - np.asarray(b, np.float64))
  return summary['mean'], summary['stderr']


def _summary(values):
  std = float(np.std(values, ddof=1))
  return {'mean': float(np.mean(values)), 'std': std, 'stderr': std / len(values) ** 0.5, 'values': list(values)}


def _centroid(x, y, test_x, num_classes):
  mean = np.stack([features.unit(x[y == c]).mean(0) for c in range(num_classes)])
  return (test_x @ features.unit(mean).T).argmax(1)  # the query's norm scales a whole row


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
  return linear.fit(x, y, num_classes, l2=1.0).rank(test_x, 1)[:, 0]


_CLASSIFIERS = {'centroid': _centroid, 'ridge': _ridge, 'logistic': _logistic}
