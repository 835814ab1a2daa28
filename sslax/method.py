"""The contract of a self-supervised method: pure functions over (params, memory, batch), and what it declares of itself.

`params` is what gradient descent trains; `params['encoder']` is what users come for. `memory` is everything else that must
survive to the next step: batch statistics, EMA targets, queues, centres, assignments, frozen networks. `batch` is a dict of
arrays: those of each input that the method declares, and label [B], index [B].

The contract is closed: whatever a trainer or an evaluator asks of a method stands here, and nobody looks for more. A method is a
frozen dataclass of hyper-parameters. It is final: wrap it (`Wrapper`) or write another, never subclass it.
"""

import abc
import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from sslax.errors import UserError

PyTree = Any
Batch = dict[str, jax.Array]
Picture = np.ndarray | str  # [H, W, 3] uint8, or a text

# What a batch holds


class Input(abc.ABC):
  """One modality of a batch: what the host makes of a record. A frozen dataclass; one file a modality in sslax/inputs.

  Loading has two halves: `decode`, without randomness, whose result may be kept in memory; and `draw`, which makes a row of it.
  """

  baseline_name: ClassVar[str] = ''  # what `baseline` gives, in a table: 'raw pixels'

  @abc.abstractmethod
  def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of each array of one row, without the batch's axis."""

  @abc.abstractmethod
  def decode(self, record: Mapping[str, Any]) -> Any:
    """What a record of a source holds of this modality.

    Raises:
      BadRecord: it cannot be used; one line says why. Any other exception is taken for one, except UserError.
    """

  @abc.abstractmethod
  def draw(self, decoded: Any, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
    """One row of what `decode` gave, with the keys and shapes of `shapes`; `rng` None: the one that evaluation takes."""

  def kept_bytes(self) -> int | None:
    """Bytes of what `decode` gives, about; None: too many to keep those of a whole data set in memory."""
    return None

  def evaluation(self) -> 'Input':
    """What probes are given instead: of one record always the same row; default: this."""
    return self

  def evaluated(self, batch: Batch) -> Batch:
    """The arrays of a training batch as those of `evaluation()`, for a probe beside the method; default: as they are."""
    return {key: batch[key] for key in self.evaluation().shapes()}

  def describe(self, records: Sequence[Mapping[str, Any]]) -> str:
    """What these records are, in the summary of a run: '28x28 pixels'; default: nothing."""
    del records
    return ''

  def baseline(self, arrays: dict[str, np.ndarray]) -> np.ndarray | None:
    """[N, D] float32 without any training, which features must beat under the same probe; None: there is none."""
    del arrays
    return None

  def show(self, arrays: dict[str, np.ndarray]) -> list[Picture]:
    """One picture or text for each of N rows of `evaluation()`, for people; default: none."""
    del arrays
    return []


# What a method gives back


class Output(NamedTuple):
  """What `loss` returns beside the scalar."""

  memory: PyTree  # same structure, shapes and dtypes as the memory that went in
  metrics: dict[str, jax.Array]  # scalars to log


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('pooled', 'tokens', 'logits', 'embedding', 'text_embedding', 'layers'),
  meta_fields=('stride',),
)
@dataclasses.dataclass(frozen=True)
class Features:
  """What an encoder, or a method, says of a batch in evaluation mode. None: it does not say that."""

  pooled: jax.Array | None = None  # [B, D] float32: one vector an example
  tokens: jax.Array | None = None  # [B, *grid, D]: one vector a place, without class tokens
  stride: tuple[int, ...] = ()  # what a step in the grid is in the input: pixels, frames, samples
  logits: jax.Array | None = None  # [B, C] of a classifier of its own; [B, L, V] of a language model
  embedding: jax.Array | None = None  # [B, E] unit rows, in one space with `text_embedding`
  text_embedding: jax.Array | None = None  # [B, E] unit rows
  layers: dict[str, jax.Array] = dataclasses.field(default_factory=dict)  # {name: [B, *grid, D]} from the first layer to the last

  @property
  def grid(self) -> tuple[int, ...]:
    """Of the tokens: (rows, columns) of an image; () without tokens."""
    return () if self.tokens is None else tuple(self.tokens.shape[1:-1])

  def named(self) -> dict[str, jax.Array]:
    """All that there is by name; a layer is 'layers/NAME'."""
    found = {
      'pooled': self.pooled,
      'tokens': self.tokens,
      'logits': self.logits,
      'embedding': self.embedding,
      'text_embedding': self.text_embedding,
      **{f'layers/{name}': layer for name, layer in self.layers.items()},
    }
    return {name: array for name, array in found.items() if array is not None}


# Fields that know the run


class Facts(NamedTuple):
  """What a run knows of itself before its first step."""

  batch_size: int  # global
  total_steps: int
  steps_per_epoch: float
  num_records: int  # of the training set
  num_classes: int  # of its labels; 0: unlabelled


class Setting(abc.ABC):
  """A hyper-parameter that a config writes before the run is known: `Ramp`, `Records`, `Classes`."""

  @abc.abstractmethod
  def settle(self, facts: Facts) -> Any:
    """What stands in its place in a run with these facts.

    Raises:
      UserError: there is no such thing in this run.
    """


@dataclasses.dataclass(frozen=True)
class Records(Setting):
  """The number of records of the training set: rows of a bank of all images, classes of an exemplar head."""

  def settle(self, facts: Facts) -> int:
    return facts.num_records


@dataclasses.dataclass(frozen=True)
class Classes(Setting):
  """The number of classes of the training set."""

  def settle(self, facts: Facts) -> int:
    if not facts.num_classes:
      raise UserError('config.method counts the classes of config.data.train (Classes), and that has no labels')
    return facts.num_classes


def settled(value: Any, facts: Facts) -> Any:
  """`value`, a method say, with every `Setting` replaced by what it is in this run: in wrapped methods, modules, tuples, too.

  Raises:
    UserError: see `Setting.settle`.
  """
  if isinstance(value, Setting):
    return value.settle(facts)
  if isinstance(value, tuple) and type(value) is tuple:
    items = tuple(settled(item, facts) for item in value)
    return value if all(a is b for a, b in zip(items, value, strict=True)) else items
  if not dataclasses.is_dataclass(value) or isinstance(value, type):
    return value
  # 'parent' and 'name' are of Flax: a module outside of a call has none.
  fields = {f.name: vars(value)[f.name] for f in dataclasses.fields(value) if f.init and f.name not in ('parent', 'name')}
  changes = {name: settled(old, facts) for name, old in fields.items()}
  changes = {name: new for name, new in changes.items() if new is not fields[name]}
  return dataclasses.replace(value, **changes) if changes else value


# The method


def encoder_stats(path: str) -> str:
  """Where a path in the state is inside the running statistics of params/encoder, the path of all of them; else ''.

  Statistics of the network behind params[name] are memory['stats'][name]; a `Wrapper` has those of its method in 'inner'.
  """
  found = re.match(r'memory/(inner/)*stats/encoder(?=/|$)', path)
  return found[0] if found else ''


class Method(abc.ABC):
  """See the module's docstring. `rng` and `step` go to everyone, also to those that do not need them today."""

  @property
  def uses_labels(self) -> bool:
    """True: `label` may influence the parameters (supervised methods)."""
    return False

  @property
  def label_classes(self) -> int:
    """Labels that it reads are below it; 0: it reads none, or takes any."""
    return 0

  def inputs(self) -> dict[str, Input]:
    """What a batch must hold, {'image': Image(32)}; the order counts: it decides which random numbers each one gets."""
    return {}

  @property
  def modules(self) -> dict[str, Any]:
    """The network behind each part of `params` that a network made, {'encoder': ResNet()}: optimizers and sharding ask them."""
    return {}

  @abc.abstractmethod
  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    """(params, memory) for views of these shapes; params has the key 'encoder'."""

  def views(self, rng: jax.Array, batch: Batch) -> PyTree:
    """The pretext task, on device; default: the batch as it is."""
    del rng
    return batch

  @abc.abstractmethod
  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    """([] loss, Output). The whole global batch is visible: nothing is gathered, no rank is asked."""

  def after(self, params: PyTree, memory: PyTree, step: jax.Array) -> tuple[PyTree, PyTree]:
    """(params, memory) once the optimizer has moved the parameters: EMA, projections, clustering; default: unchanged."""
    del step
    return params, memory

  @abc.abstractmethod
  def features(self, params: PyTree, memory: PyTree, batch: Batch) -> Features:
    """In evaluation mode, for the arrays of `evaluation()` of those inputs that are in the batch. Rows are independent."""

  def feature_inputs(self, name: str) -> tuple[str, ...]:
    """Which inputs `features` needs for the feature of this name; default: all."""
    del name
    return tuple(self.inputs())

  def augmented(self, rng: jax.Array, batch: Batch) -> Batch | None:
    """Two random views of each row, {key: [B, 2, ...]} as `features` takes them; None: it draws no views."""
    del rng, batch
    return None

  def view_pictures(self, views: PyTree) -> Mapping[str, jax.Array | Batch]:
    """What `views` returned, for people: columns as in `pictures`; default: nothing to see."""
    del views
    return {}

  def pictures(self, params: PyTree, memory: PyTree, batch: Batch, rng: jax.Array) -> Mapping[str, jax.Array | Batch]:
    """What the method predicts, for people: {column: [B, H, W, 3] in [0, 1], or arrays that its input shows}."""
    del params, memory, batch, rng
    return {}

  def grafts(self) -> tuple[str, ...]:
    """Parts of the state that must come from elsewhere, ('memory/teacher',): a run whose `config.graft` lacks them is refused."""
    return ()


@dataclasses.dataclass(frozen=True)
class Wrapper(Method):
  """A method around another one, whose memory is memory['inner']. All is the inner one's until a wrapper says otherwise."""

  inner: Method

  @property
  def uses_labels(self) -> bool:
    return self.inner.uses_labels

  @property
  def label_classes(self) -> int:
    return self.inner.label_classes

  def inputs(self) -> dict[str, Input]:
    return self.inner.inputs()

  @property
  def modules(self) -> dict[str, Any]:
    return self.inner.modules

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    params, inner = self.inner.init(rng, views)
    return params, {'inner': inner}

  def views(self, rng: jax.Array, batch: Batch) -> PyTree:
    return self.inner.views(rng, batch)

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    loss, out = self.inner.loss(params, memory['inner'], views, rng, step)
    return loss, Output({**memory, 'inner': out.memory}, out.metrics)

  def after(self, params: PyTree, memory: PyTree, step: jax.Array) -> tuple[PyTree, PyTree]:
    params, inner = self.inner.after(params, memory['inner'], step)
    return params, {**memory, 'inner': inner}

  def features(self, params: PyTree, memory: PyTree, batch: Batch) -> Features:
    return self.inner.features(params, memory['inner'], batch)

  def feature_inputs(self, name: str) -> tuple[str, ...]:
    return self.inner.feature_inputs(name)

  def augmented(self, rng: jax.Array, batch: Batch) -> Batch | None:
    return self.inner.augmented(rng, batch)

  def view_pictures(self, views: PyTree) -> Mapping[str, jax.Array | Batch]:
    return self.inner.view_pictures(views)

  def pictures(self, params: PyTree, memory: PyTree, batch: Batch, rng: jax.Array) -> Mapping[str, jax.Array | Batch]:
    return self.inner.pictures(params, memory['inner'], batch, rng)

  def grafts(self) -> tuple[str, ...]:
    return tuple(path.replace('memory/', 'memory/inner/', 1) for path in self.inner.grafts())
