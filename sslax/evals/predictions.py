"""What a method predicts, on test examples."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import jax

from sslax.evals.probe import RANDOM, TRAINED, Data, Figure, Needs, Probe, Score, Store
from sslax.evals.shared import first_rows, shown
from sslax.evals.visualisations import png, sheet


@dataclasses.dataclass(frozen=True)
class Predictions(Probe):
  """`Method.pictures` of the first test examples."""

  rows: int = 8

  in_report: ClassVar[float] = 3

  def needs(self) -> Needs:
    return Needs(labels=False, rows=(TRAINED, RANDOM))

  def run(self, store: Store, data: Data) -> Iterator[Score]:
    yield from ()

  def figures(self, store: Store, data: Data, found: Mapping[str, Sequence[Score]]) -> list[Figure]:
    batch = first_rows(store, data, self.rows)
    names: list[str] = []

    @jax.jit
    def predictions(params, memory, batch, rng):
      columns = store.card.method.pictures(params, memory, batch, rng)
      names[:] = columns  # jit would give them back in the order of the alphabet
      return list(columns.values())

    drawn = predictions(store.params, store.memory, batch, jax.random.key(0))
    if not drawn:
      return []
    columns = [shown(store.card.inputs, column) for column in drawn]
    cells = [list(row) for row in zip(*columns, strict=True)]
    picture = png(sheet(cells, column_labels=names))
    return [
      Figure('What the method predicts', picture, 'png', 'Test examples; what is random is drawn anew.', 'sheet of predictions')
    ]
