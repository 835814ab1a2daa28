"""The contract of a probe: what is asked of features. One file a probe, found by its name: --probes=knn is evals/knn.py."""

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from sslax.data.sources import Source
from sslax.method import Batch, Features, Input, Method

TRAINED, RANDOM, BASELINE = 'trained', 'random encoder', 'baseline'  # whose features: the run's, untrained, the input itself


class Score(NamedTuple):
  """One number that a probe found."""

  name: str  # in eval.jsonl: 'top1'
  value: float
  column: str  # heading in tables: 'kNN, all labels'
  unit: str = ''  # '' for fractions
  more_is_better: bool | None = True  # None: neither
  chance: float | None = None  # what guessing gives
  spread: float | None = None  # standard deviation over what the probe draws
  details: Mapping[str, Any] = {}  # what else eval.jsonl should hold, JSON types


class Figure(NamedTuple):
  """A picture of a report: PNG bytes, or SVG text."""

  title: str
  data: bytes | str
  kind: str  # 'png' or 'svg'
  caption: str = ''
  alt: str = ''  # what a reader who cannot see it should know; default: the title


class Needs(NamedTuple):
  """What a probe asks for."""

  features: tuple[str, ...] = ('pooled',)  # of the method, by the names of `Features.named`
  labels: bool = True  # both sets must have some
  rows: tuple[str, ...] = (TRAINED, RANDOM, BASELINE)  # of whom it can be asked


class Data(NamedTuple):
  """The sets that a probe works on."""

  train: Source
  test: Source
  pretraining: str  # URI of what the run itself learns from

  @property
  def num_classes(self) -> int:
    return self.train.num_classes


class Card(NamedTuple):
  """What is known of a method without its state."""

  method: Method
  inputs: dict[str, Input]
  features: dict[str, jax.ShapeDtypeStruct]  # by name, the first axis is the batch


class Extracted(NamedTuple):
  """A feature of a whole set, in its order."""

  values: np.ndarray  # [N, ...] float32
  label: np.ndarray  # [N] int32, -1 where a record has none
  index: np.ndarray  # type: ignore[assignment]  # [N] int32, numbers of the records; hides tuple.index

  def labelled(self) -> 'Extracted':
    """Without the rows that have no label."""
    rows = self.label >= 0
    return self if rows.all() else Extracted(*(column[rows] for column in self))


class Store(abc.ABC):
  """The features of one row of a table: of the trained method, of a random one, or what needs no training. Extracted once."""

  card: Card
  name: str  # 'SimCLR', 'random encoder', 'raw pixels'
  row: str  # TRAINED, RANDOM, BASELINE
  params: Any  # of the method; None for BASELINE
  memory: Any
  batch_size: int  # that divides over the devices
  threads: int  # for decoding

  @abc.abstractmethod
  def get(self, source: Source, feature: str = 'pooled') -> Extracted:
    """A feature of every record of a set that can be used."""

  def labelled(self, source: Source, feature: str = 'pooled') -> Extracted:
    """The same without the records that have no label; how many those are is said once."""
    return self.get(source, feature).labelled()

  @abc.abstractmethod
  def map(self, source: Source, function: Callable[[Features, Batch], dict[str, jax.Array]]) -> dict[str, np.ndarray]:
    """`function` of the features and the arrays of each batch, on device: {name: [N, ...]} of all usable records."""

  @abc.abstractmethod
  def encode(self, batch: Mapping[str, jax.Array | np.ndarray]) -> Features:
    """The features of arrays in the form of evaluation, compiled once for each shape."""

  @abc.abstractmethod
  def batches(self, source: Source, feature: str = 'pooled') -> Iterator[dict[str, np.ndarray]]:
    """Batches of `pipeline.eval_batches` with the inputs that this feature needs."""


class Probe(abc.ABC):
  """A frozen dataclass of settings. Its name is that of its file, or what the config calls it."""

  in_report: ClassVar[float] = 0  # place of its figures in every report, asked for or not; 0: only where it was asked for

  def needs(self) -> Needs:
    return Needs()

  def check(self, card: Card, data: Data) -> None:  # noqa: B027 (most have nothing to check)
    """Raises UserError where the method or the data cannot answer, before any work; needs() is checked already."""

  @abc.abstractmethod
  def run(self, store: Store, data: Data) -> Iterator[Score]:
    """What it finds, the headline first; nothing for a probe that only draws."""

  def caption(self, scores: Sequence[Score]) -> str:
    """A sentence under the table that says what its columns are."""
    del scores
    return ''

  def figures(self, store: Store, data: Data, found: Mapping[str, Sequence[Score]]) -> list[Figure]:
    """Pictures for the report of `store`; `found`: this probe's scores of every row, by the row's name."""
    del store, data, found
    return []
