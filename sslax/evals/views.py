"""The pretext task: training examples and the views that the loss compares."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import jax
import numpy as np
from PIL import Image

from sslax.data import pipeline
from sslax.data.sources import Source, open_source
from sslax.errors import UserError
from sslax.evals.probe import Data, Figure, Needs, Probe, Score, Store
from sslax.evals.shared import shown
from sslax.evals.visualisations import png, sheet
from sslax.method import Method


@dataclasses.dataclass(frozen=True)
class Views(Probe):
  """Rows of the run's own training set and what `Method.views` makes of them."""

  rows: int = 8

  in_report: ClassVar[float] = 6

  def needs(self) -> Needs:
    return Needs(features=(), labels=False)

  def run(self, store: Store, data: Data) -> Iterator[Score]:
    yield from ()

  def figures(self, store: Store, data: Data, found: Mapping[str, Sequence[Score]]) -> list[Figure]:
    try:
      picture = views_sheet(store.card.method, open_source(data.pretraining), rows=self.rows)
    except UserError as error:  # the evaluator may run where the training data is not
      print(f'no sheet of views: {error}')
      return []
    caption = 'Original examples and the views that the loss compares.'
    return [Figure('The pretext task', png(picture), 'png', caption, 'sheet of views')]


def views_sheet(method: Method, source: Source, *, rows: int = 8, seed: int = 0) -> Image.Image:
  """One row an example: the original, then its views as the loss sees them, with the normalisation undone.

  Args:
    rows: examples.
    seed: of the choice of examples and of the views.

  Raises:
    UserError: the data cannot be read.
  """
  inputs = method.inputs()
  with pipeline.train_batches(source, inputs, batch_size=rows, seed=seed, threads=1, cache=False) as batches:
    batch = next(batches)
  batch.pop('wanted')
  originals = [cells for value in inputs.values() if (cells := _originals(value.evaluation(), source, batch['index']))]
  drawn = jax.jit(lambda rng, batch: method.view_pictures(method.views(rng, batch)))(jax.random.key(seed), batch)
  names = sorted(drawn, key=lambda name: [int(part) if part.isdigit() else part for part in name.split()])
  columns = [*originals, *(shown(inputs, drawn[name]) for name in names)]
  if not columns:
    raise UserError(f'{type(method).__name__} has no views to look at')
  labels = None
  if 'label' in batch:
    labels = [source.classes[k] if source.classes and k >= 0 else str(k) for k in batch['label'].tolist()]
  titles = ['original', *list(inputs)[1 : len(originals)], *names]
  return sheet([list(row) for row in zip(*columns, strict=True)], labels, titles[: len(columns)] if originals else names)


def _originals(value, source, index):
  rows = [value.draw(value.decode(source[int(i)]), None) for i in index]
  return value.show({key: np.stack([row[key] for row in rows]) for key in rows[0]})
