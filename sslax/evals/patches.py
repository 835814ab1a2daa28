"""What the patches of images have in common: their features in three colours."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

from sslax.evals.probe import RANDOM, TRAINED, Data, Figure, Needs, Probe, Score, Store
from sslax.evals.shared import beside, first_rows
from sslax.evals.visualisations import enlarged, png, rgb, sheet


@dataclasses.dataclass(frozen=True)
class Patches(Probe):
  """`patch_pca` of the first test examples, of encoders that give a grid of tokens."""

  rows: int = 8

  in_report: ClassVar[float] = 5

  def needs(self) -> Needs:
    return Needs(labels=False, rows=(TRAINED, RANDOM))

  def run(self, store: Store, data: Data) -> Iterator[Score]:
    yield from ()

  def figures(self, store: Store, data: Data, found: Mapping[str, Sequence[Score]]) -> list[Figure]:
    batch = first_rows(store, data, self.rows)
    out = store.encode(batch)
    if len(out.grid) != 2 or min(out.grid) < 2:  # one place, or a line of them, is no picture
      return []
    components = patch_pca(np.asarray(out.tokens))
    cells = [[image, enlarged(rgb(c), image.shape[0])] for image, c in zip(beside(store, batch), components, strict=True)]
    caption = 'The first three principal components of all patches of these examples; like colours, like features.'
    picture = png(sheet(cells, column_labels=['input', 'components 1-3']))
    return [Figure('Patch features in three colours', picture, 'png', caption, 'principal components of patches')]


def patch_pca(tokens: np.ndarray) -> np.ndarray:
  """The first three principal components of all patch tokens together as red, green and blue (Oquab et al. 2023, figure 1).

  Args:
    tokens: [B, h, w, D].

  Returns:
    [B, h, w, 3] in [0, 1], each component between its 1st and 99th percentile; the sign makes the larger part of it positive.
  """
  x = np.asarray(tokens, np.float64)
  flat = x.reshape(-1, x.shape[-1])
  flat = flat - flat.mean(0)
  components = np.linalg.svd(np.cov(flat.T))[0][:, :3]
  z = flat @ components
  z = z * np.where(np.abs(z.max(0)) < np.abs(z.min(0)), -1.0, 1.0)
  low, high = np.percentile(z, (1, 99), axis=0)
  z = np.clip((z - low) / np.maximum(high - low, 1e-12), 0, 1)
  return z.reshape(*x.shape[:-1], 3)
