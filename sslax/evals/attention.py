"""What a vision transformer looks at: pictures that need no labels."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from sslax.evals.probe import RANDOM, TRAINED, Data, Figure, Needs, Probe, Score, Store
from sslax.evals.shared import beside, first_rows
from sslax.evals.visualisations import heat, png, sheet
from sslax.method import Method
from sslax.models import net


@dataclasses.dataclass(frozen=True)
class Attention(Probe):
  """Maps of the last block's heads on the first test examples, beside these."""

  rows: int = 8
  heads: int = 6  # at most

  in_report: ClassVar[float] = 4

  def needs(self) -> Needs:
    return Needs(labels=False, rows=(TRAINED, RANDOM))

  def run(self, store: Store, data: Data) -> Iterator[Score]:
    yield from ()

  def figures(self, store: Store, data: Data, found: Mapping[str, Sequence[Score]]) -> list[Figure]:
    batch = first_rows(store, data, self.rows)
    maps = attention_maps(store.card.method, store.params, store.memory, batch)
    if maps is None:
      return []
    originals = beside(store, batch)
    heads, cells = min(maps.shape[1], self.heads), []
    for i, image in enumerate(originals):
      cells.append([image, *(heat(m, image.shape[0]) for m in (maps[i].mean(0), *maps[i, :heads]))])
    labels = ['input', 'mean of heads', *(f'head {h + 1}' for h in range(heads))]
    caption = 'Attention of the class token (without one: of all patches) to the patches; bright is much.'
    picture = png(sheet(cells, column_labels=labels))
    return [Figure('Where the last block looks', picture, 'png', caption, 'attention maps')]


def attention_maps(method: Method, params: Any, memory: Any, batch: Mapping[str, jax.Array | np.ndarray]) -> np.ndarray | None:
  """Attention of the last block's class token to the patches, a map for each head (Caron et al. 2021, figure 1).

  Networks without a class token: the mean over all queries, how much a patch is looked at.

  Args:
    batch: as `method.features` takes it.

  Returns:
    [B, heads, h, w], each map sums to 1; None where the encoder has no attention over a grid of patches that can be seen: a
    ResNet, or blocks under `scan`.
  """

  @jax.jit
  def maps(params, memory, batch):
    out, calls = net.captured_calls(lambda: method.features(params, memory, batch), method='attend')
    if not calls or len(out.grid) != 2:
      return None
    q, k = calls[-1][:2]
    first = k.shape[1] - math.prod(out.grid)  # class tokens in front
    if first < 0:
      return None
    weights = jax.nn.softmax(jnp.einsum('bqhd,bkhd->bhqk', q, k).astype(jnp.float32) / math.sqrt(q.shape[-1]), axis=-1)
    rows = weights[:, :, 0] if first else weights.mean(2)
    rows = rows[:, :, first:]
    return (rows / rows.sum(-1, keepdims=True)).reshape(*rows.shape[:2], *out.grid)

  try:
    found = maps(params, memory, batch)
  except jax.errors.UnexpectedTracerError:  # scanned blocks
    return None
  return None if found is None else np.asarray(found)
