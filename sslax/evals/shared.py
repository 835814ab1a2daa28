"""What several probes share, who do not import each other."""

from collections.abc import Mapping

import jax
import numpy as np

from sslax.errors import UserError
from sslax.evals.probe import Card, Data, Store
from sslax.evals.visualisations import rgb
from sslax.inputs.text import Text
from sslax.method import Batch, Input, Picture


def caption_input(card: Card) -> tuple[str, Text]:
  """(key in a batch, the input) of the captions of a method.

  Raises:
    UserError: it takes none.
  """
  for value in card.inputs.values():
    if isinstance(value, Text):
      return next(iter(value.shapes())), value
  raise UserError(f'{type(card.method).__name__} takes no captions')


def first_rows(store: Store, data: Data, rows: int) -> dict[str, np.ndarray]:
  """The arrays of the first test examples, as `features` takes them."""
  batch = next(iter(store.batches(data.test)))
  usable = np.flatnonzero(batch['mask'])[:rows]
  return {key: x[usable] for key, x in batch.items() if key not in ('label', 'index', 'mask')}


def shown(inputs: Mapping[str, Input], column: jax.Array | Batch) -> list[Picture]:
  """A column of `Method.pictures` or `Method.view_pictures` as cells of a sheet: images in [0, 1], or arrays that one of the
  method's inputs shows."""
  if not isinstance(column, dict):
    return [rgb(image) for image in np.asarray(column)]
  of_evaluation = [value.evaluation() for value in inputs.values()]
  arrays = {key: np.asarray(x) for key, x in column.items()}
  return next(value for value in of_evaluation if set(value.shapes()) & set(arrays)).show(arrays)


def beside(store: Store, batch: dict[str, np.ndarray]) -> list[np.ndarray]:
  """The inputs of pooled features as pictures; grey squares where they are shown as text."""
  name = store.card.method.feature_inputs('pooled')[0]
  cells = store.card.inputs[name].evaluation().show(batch)
  return [cell if isinstance(cell, np.ndarray) else np.full((64, 64, 3), 200, np.uint8) for cell in cells]
