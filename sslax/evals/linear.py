"""The linear probe: logistic regression on frozen features, with all labels."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from sslax.evals.logistic import L2, probe
from sslax.evals.probe import Data, Probe, Score, Store


@dataclasses.dataclass(frozen=True)
class Linear(Probe):
  """`probe` with all labels of the training set: logistic regression, its strength chosen on a tenth of the set."""

  l2: tuple[float, ...] = L2
  max_iter: int = 100  # each strength starts from the last one's solution

  def run(self, store: Store, data: Data) -> Iterator[Score]:
    train, test = store.labelled(data.train), store.labelled(data.test)
    # Of a set with one record a class nothing can be held out for a choice: the middle strength it is then.
    l2 = self.l2 if np.bincount(train.label).max() > 1 else (1.0,)
    found = probe(train.values, train.label, test.values, test.label, data.num_classes, l2=l2, max_iter=self.max_iter)
    yield Score(
      'accuracy', float(found['accuracy']), 'linear, all labels', chance=1 / data.num_classes,
      details={'top5': float(found['top5']), 'l2': float(found['l2'])},
    )  # fmt: skip

  def caption(self, scores: Sequence[Score]) -> str:
    return 'linear: logistic regression on all labels, regularisation chosen on a tenth of the training set.'
