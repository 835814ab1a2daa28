"""Test examples and the training examples whose features are nearest."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

from sslax.data.assemble import draw, load
from sslax.evals.features import l2_normalize
from sslax.evals.probe import Data, Figure, Needs, Probe, Score, Store
from sslax.evals.visualisations import neighbours_sheet, png


@dataclasses.dataclass(frozen=True)
class Neighbours(Probe):
  """A sheet of queries, drawn once for all, and their nearest neighbours by cosine."""

  queries: int = 8
  k: int = 8

  in_report: ClassVar[float] = 2

  def needs(self) -> Needs:
    return Needs(labels=False)

  def run(self, store: Store, data: Data) -> Iterator[Score]:
    yield from ()

  def figures(self, store: Store, data: Data, found: Mapping[str, Sequence[Score]]) -> list[Figure]:
    train, test = store.get(data.train), store.get(data.test)
    rows = np.random.default_rng(0).permutation(len(test.label))[: self.queries]
    similarity = l2_normalize(test.values[rows]) @ l2_normalize(train.values).T
    nearest = np.argsort(-similarity, axis=1)[:, : self.k]
    used, place = np.unique(nearest, return_inverse=True)
    name = store.card.method.feature_inputs('pooled')[0]
    shown = {name: store.card.inputs[name].evaluation()}

    def pictures(source, numbers):
      loaded = [draw(shown, load(source, int(i), shown)) for i in numbers]
      return shown[name].show({key: np.stack([row[key] for row in loaded]) for key in loaded[0]})

    queries, gallery = pictures(data.test, test.index[rows]), pictures(data.train, train.index[used])
    if not queries:
      return []
    sheet = neighbours_sheet(
      queries, test.label[rows], gallery, train.label[used], place.reshape(nearest.shape),
      np.take_along_axis(similarity, nearest, 1), data.train.classes or None,
    )  # fmt: skip
    caption = 'Left: test examples. Right: the most similar training examples by cosine of the features.'
    return [Figure('Nearest neighbours', png(sheet), 'png', caption, 'sheet of nearest neighbours')]
