"""The classifier that a method has itself: supervised training, a distilled student, an online probe."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from sslax.errors import UserError
from sslax.evals import features
from sslax.evals.probe import TRAINED, Card, Data, Needs, Probe, Score, Store


@dataclasses.dataclass(frozen=True)
class Classifier(Probe):
  """How often the label of a test example is the largest (is among the five largest) of the method's own logits."""

  def needs(self) -> Needs:
    return Needs(features=('logits',), rows=(TRAINED,))

  def check(self, card: Card, data: Data) -> None:
    shape, name = card.features['logits'].shape, type(card.method).__name__
    if len(shape) != 2:
      raise UserError(f'--probes=classifier: the logits of {name} have shape {list(shape)} and are no classes')
    if shape[1] < data.test.num_classes:
      raise UserError(f'{name} tells {shape[1]} classes apart, and {data.test.name} has {data.test.num_classes}')

  def run(self, store: Store, data: Data) -> Iterator[Score]:
    found = store.labelled(data.test, 'logits')
    logits, label = features.checked(found.values, found.label, name='logits')
    hits = np.argsort(-logits, axis=1, kind='stable')[:, :5] == label[:, None]
    classes = logits.shape[1]
    yield Score('top1', float(hits[:, 0].mean()), 'classifier, top1', chance=1 / classes)
    if classes > 5:
      yield Score('top5', float(hits.any(1).mean()), 'classifier, top5', chance=5 / classes)
