"""The number of a batch -> the batch: decoding by threads, replacement of bad records, what each input draws at random."""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from sslax.data.sources import Source
from sslax.errors import BadRecord, UserError
from sslax.method import Input

TRIES = 100  # how many records in a row may be bad
BAD = (OSError, ValueError)  # what a record raises that cannot be used: BadRecord is a ValueError

Inputs = Mapping[str, Input]


class Loaded(NamedTuple):
  """A record that can be used."""

  decoded: tuple[Any, ...]  # by each input, in their order
  label: int  # -1: it has none


def load(source: Source, i: int, inputs: Inputs) -> Loaded:
  """Record i, decoded by each input; raises one of BAD where it cannot be used."""
  record = source[i]
  label = record['label'] if source.num_classes else -1
  return Loaded(tuple(_guarded(value.decode, record) for value in inputs.values()), label)


def draw(inputs: Inputs, loaded: Loaded, seed: int | None = None, row: int = 0) -> dict[str, np.ndarray]:
  """One row of every input.

  Args:
    seed, row: of what inputs draw at random, `row` counting in the endless stream; seed None: as evaluation has it.
  """
  arrays: dict[str, np.ndarray] = {}
  for place, (value, decoded) in enumerate(zip(inputs.values(), loaded.decoded, strict=True)):
    # One generator for each row of the stream and input, whoever computes it. A key instead of a seed: no entropy pool, 10 times
    # cheaper.
    rng = None if seed is None else np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, place, row]))
    arrays |= _guarded(value.draw, decoded, rng)
  return arrays


def _guarded(function, *args):
  """What decoders raise on hostile bytes is of any kind: one record is no reason to end a run, and too many are."""
  try:
    return function(*args)
  except (UserError, *BAD):
    raise
  except Exception as error:
    raise BadRecord(f'{type(error).__name__}: {one_line(error)}') from error


def empty(inputs: Inputs, n: int) -> dict[str, np.ndarray]:
  """Arrays of zeros for n rows of these inputs."""
  return {key: np.zeros((n, *s.shape), s.dtype) for value in inputs.values() for key, s in value.shapes().items()}


def one_line(error: BaseException) -> str:
  """What an exception says, without line breaks."""
  return ' '.join(str(error).split())[:300] or type(error).__name__


@dataclasses.dataclass(kw_only=True)
class Training:
  """See `pipeline.train_batches`.

  Grain maps over whole batches and not over records: the threads then share the rows of one batch, so that `prefetch` batches
  are in memory on any number of cores (Grain's own threads need a batch each).
  """

  source: Source
  inputs: dict[str, Input]
  batch_size: int
  seed: int
  cached: bool
  process_index: int
  process_count: int
  threads: int

  def __post_init__(self) -> None:
    self.order = grain.MapDataset.range(len(self.source)).seed(self.seed).shuffle().repeat(None)
    self.pool = concurrent.futures.ThreadPoolExecutor(self.threads, 'sslax-decode')
    self.kept = np.full(len(self.source), None, object) if self.cached else None  # Loaded, or why a record cannot be used

  def __reduce__(self) -> tuple[Any, ...]:  # to a worker process goes what it was made from, never the pool nor what it keeps
    return _again, (type(self), {f.name: vars(self)[f.name] for f in dataclasses.fields(self)})

  def __call__(self, step: int) -> dict[str, np.ndarray]:
    b = self.batch_size // self.process_count
    first = step * self.batch_size + self.process_index * b
    wanted = np.array([self.order[row] for row in range(first, first + b)], np.int32)
    out = empty(self.inputs, b) | {'index': np.empty(b, np.int32), 'wanted': wanted}
    if self.source.num_classes:
      out['label'] = np.empty(b, np.int32)
    _each(self.pool, self.threads, lambda j: self._fill(out, j, int(wanted[j]), first + j), range(b))
    return out

  def _fill(self, out, j, wanted, row):
    """Puts record `wanted`, or the first one after it that can be used, into row j of `out`."""
    first = None
    for k in range(min(TRIES, len(self.source))):
      index = (wanted + k) % len(self.source)
      try:
        loaded = self._load(index)
        arrays = draw(self.inputs, loaded, self.seed, row)
      except BAD as error:
        first = first or f'{self.source.where(index)}: {one_line(error)}'
        continue
      for key, array in arrays.items():
        out[key][j] = array
      if 'label' in out:
        out['label'][j] = loaded.label
      out['index'][j] = index
      return
    raise UserError(
      f'{self.source.name}: {k + 1} records in a row cannot be read, the first is {first}. Check that the files are there '
      'and whole.'
    )

  def _load(self, index):
    if self.kept is None:
      return load(self.source, index, self.inputs)
    if self.kept[index] is None:
      try:
        self.kept[index] = load(self.source, index, self.inputs)
      except BAD as error:
        self.kept[index] = error.with_traceback(None)  # frames would keep what they hold alive
    if isinstance(self.kept[index], Exception):
      raise self.kept[index]
    return self.kept[index]


@dataclasses.dataclass(kw_only=True)
class Evaluation:
  """See `pipeline.eval_batches`."""

  source: Source
  inputs: dict[str, Input]
  batch_size: int
  process_index: int
  process_count: int
  threads: int

  def __post_init__(self) -> None:
    self.pool = concurrent.futures.ThreadPoolExecutor(self.threads, 'sslax-decode')

  def __call__(self, step: int) -> dict[str, np.ndarray]:
    b = self.batch_size // self.process_count
    first = step * self.batch_size + self.process_index * b
    index = np.arange(first, first + b)
    out = empty(self.inputs, b) | {
      'label': np.full(b, -1, np.int32),
      'index': np.where(index < len(self.source), index, -1).astype(np.int32),
      'mask': np.zeros(b, bool),
    }
    _each(self.pool, self.threads, lambda j: self._fill(out, j), np.flatnonzero(out['index'] >= 0).tolist())
    return out

  def _fill(self, out, j):
    try:
      loaded = load(self.source, int(out['index'][j]), self.inputs)
      arrays = draw(self.inputs, loaded)
    except BAD:  # counted by `pipeline.Batches`
      return
    for key, array in arrays.items():
      out[key][j] = array
    out['label'][j] = loaded.label
    out['mask'][j] = True


def _each(pool: concurrent.futures.Executor, threads: int, function: Callable[[int], None], rows: Sequence[int]) -> None:
  """function(row) for all rows by the threads of the pool, in chunks, as a task costs as much as a small image."""

  def each(chunk: Sequence[int]) -> None:
    for row in chunk:
      function(row)

  n = 4 * threads
  list(pool.map(each, filter(len, (rows[k::n] for k in range(n)))))


def _again(make, fields):
  return make(**fields)
