"""A map of the test features in two dimensions, coloured by class."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from sslax.evals.probe import Data, Figure, Needs, Probe, Score, Store
from sslax.evals.visualisations import feature_map


@dataclasses.dataclass(frozen=True)
class Map(Probe):
  """PCA and t-SNE of the features of the test set."""

  in_report: ClassVar[float] = 1

  def needs(self) -> Needs:
    return Needs(labels=False)

  def run(self, store: Store, data: Data) -> Iterator[Score]:
    yield from ()

  def figures(self, store: Store, data: Data, found: Mapping[str, Sequence[Score]]) -> list[Figure]:
    if not data.test.num_classes:
      return []
    test, drawn = store.labelled(data.test), []
    for method, shown in (('pca', 'PCA'), ('tsne', 't-SNE')):
      picture = feature_map(test.values, test.label, data.train.classes, method)
      caption = 'Colours are classes; training saw none.'
      drawn.append(Figure(f'Map of the test features ({shown})', picture, 'png', caption, f'{shown} of features'))
    return drawn
