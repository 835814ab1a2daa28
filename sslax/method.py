"""The contract of a self-supervised method: five pure functions over (params, memory, batch).

`params` is what gradient descent trains; `params['encoder']` is what users come for. `memory` is everything else that must
survive to the next step: batch statistics, EMA targets, queues, centres, assignments, frozen networks. `batch` is a dict of
arrays: image [B, H, W, 3] uint8, crops [B, V, H, W, 3] uint8, text [B, L], label [B], index [B], ...

A method is a frozen dataclass of hyper-parameters. It is final: wrap it or write another, never subclass it.
"""

import abc
from typing import Any, ClassVar, NamedTuple

import jax

PyTree = Any


class Output(NamedTuple):
  """What `loss` returns beside the scalar."""

  memory: PyTree  # same structure, shapes and dtypes as the memory that went in
  metrics: dict[str, jax.Array]  # scalars to log


class Crop(NamedTuple):
  """Random-resized crops that the host cuts from the full-size image (Inception style)."""

  count: int  # views of this kind
  size: int  # pixels, square
  area: tuple[float, float] = (0.08, 1.0)  # fraction of the image's area
  ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height, drawn log-uniformly


class Method(abc.ABC):
  """See the module's docstring. `rng` and `step` go to everyone, also to those that do not need them today."""

  uses_labels: ClassVar[bool] = False  # True: `label` may influence the parameters (supervised methods)
  uses_text: ClassVar[bool] = False  # True: batches must have `text`, so config.data.text must name a tokenizer

  @abc.abstractmethod
  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    """(params, memory) for views of these shapes; params has the key 'encoder'."""

  def views(self, rng: jax.Array, batch: dict[str, jax.Array]) -> PyTree:
    """The pretext task, on device; default: the batch as it is."""
    del rng
    return batch

  @abc.abstractmethod
  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    """([] loss, Output). The whole global batch is visible: nothing is gathered, no rank is asked."""

  def after(self, params: PyTree, memory: PyTree, step: jax.Array) -> tuple[PyTree, PyTree]:
    """(params, memory) once the optimizer has moved the parameters: EMA, projections; default: unchanged."""
    del step
    return params, memory

  @abc.abstractmethod
  def features(self, params: PyTree, memory: PyTree, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """{'pooled': [B, D], ...} in evaluation mode for batch['image'] [B, H, W, 3] uint8. Rows are independent."""

  def pictures(self, params: PyTree, memory: PyTree, batch: dict[str, jax.Array], rng: jax.Array) -> dict[str, jax.Array]:
    """What the method predicts, for people: {column: [B, H, W, 3] in [0, 1]} from batch['image']; default: nothing to see."""
    del params, memory, batch, rng
    return {}

  def grafts(self) -> tuple[str, ...]:
    """Parts of the state that must come from elsewhere, ('memory/teacher',): a run whose `config.graft` lacks them is refused."""
    return ()

  def crops(self) -> tuple[Crop, ...]:
    """What the host cuts when `data.crop_on == 'host'`: group g arrives as batch['crops'] (g = 0) or batch[f'crops_{g}']."""
    return ()
