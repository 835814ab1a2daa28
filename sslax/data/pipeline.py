"""From a source to the batches of one process, by way of Grain. The position in the stream is the step: nothing to save.

A worker process imports the main module: a script that asks for workers keeps its code under `if __name__ == '__main__':`.
"""

import concurrent.futures
import os
import signal
from collections.abc import Iterator
from typing import Self

import grain
import numpy as np
from absl import flags

from sslax.data import assemble
from sslax.data.sources import Source
from sslax.errors import UserError

CACHE_BYTES = 256 * 2**20  # decoded records are kept in memory up to this much
STEPS = 2**48  # more than anybody trains


class Batches(Iterator[dict[str, np.ndarray]]):
  """Iterator over dicts of arrays. Close it (or use `with`): threads, worker processes and shared memory end with it."""

  def __init__(self, iterator: grain.DatasetIterator, pool: concurrent.futures.Executor):
    self._iterator, self._pool = iterator, pool
    self.bad = 0  # records masked out so far, by `eval_batches`

  def __next__(self) -> dict[str, np.ndarray]:
    batch = next(self._iterator)
    if 'mask' in batch:
      self.bad += int(np.sum(~batch['mask'] & (batch['index'] >= 0)))
    return batch

  def close(self) -> None:
    self._iterator.close()
    self._pool.shutdown(wait=False, cancel_futures=True)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def check(source: Source, batch_size: int) -> None:
  """Raises UserError where `source` is empty or holds less than one batch."""
  if not len(source):
    raise UserError(f'{source.name}: there is no record in it. Check the path or pattern.')
  if len(source) < batch_size:
    raise UserError(f'{source.name}: {len(source)} records are less than one batch of {batch_size}. Lower batch_size.')


def probe(source: Source, inputs: assemble.Inputs, n: int = 16) -> str:
  """Decodes `n` evenly spaced records before anything expensive starts.

  Args:
    source: where the records are.
    inputs: what is made of them.
    n: how many to try.

  Returns:
    What they are, for people: '28x28 pixels'; '' where no input says.

  Raises:
    UserError: the source is empty, or not one of the records can be used.
  """
  check(source, 1)
  good, failed, reasons = [], set(), []
  for i in np.unique(np.linspace(0, len(source) - 1, n).astype(int)).tolist():
    try:
      for name, value in inputs.items():
        failed.add(name)
        one = {name: value}
        assemble.draw(one, assemble.load(source, i, one), seed=0)
        failed.discard(name)
      good.append(source[i])
    except assemble.BAD as error:
      reasons.append(f'{source.where(i)}: {assemble.one_line(error)}')
  if not good:
    what = ' and '.join(sorted(failed)) or 'record'
    raise UserError(
      f'{source.name}: not one of {len(reasons)} records can be used as {what}: {"; ".join(reasons[:3])}. '
      f'Check that these hold {what} and that they may be read.'
    )
  return ', '.join(filter(None, (value.describe(good) for value in inputs.values())))


def train_batches(
  source: Source,
  inputs: assemble.Inputs,
  *,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  threads: int = 0,
  workers: int = 0,
  prefetch: int = 2,
  cache: bool | str = 'auto',
) -> Batches:
  """Shuffled batches without end: each record once per epoch, a new order in each; a batch may straddle two epochs.

  Batch s holds rows s * B ... (s + 1) * B - 1 of one endless stream and a process holds a contiguous block of them: the blocks
  of all processes in their order are the same global batch, bit for bit, for any `process_count`, `workers`, `threads`, `cache`
  and `start_step`. A record that cannot be used is replaced by the next one that can. What an input draws at random (crops, one
  of several captions) is a function of the seed, the row of the stream and the input's place among the others.

  Args:
    source: where the records are.
    inputs: what is made of them, {'image': ..., 'text': ...}.
    batch_size: B, of all processes together.
    seed: of the order and of what inputs draw, below 2**32.
    start_step: the first batch to yield.
    process_index: of this process.
    process_count: of all processes.
    threads: that decode, in each process; 0: one for each core.
    workers: processes that decode beside this one; threads are enough for Pillow, which frees the interpreter's lock.
    prefetch: batches prepared ahead (by each worker).
    cache: keep decoded records in memory (in each worker); 'auto': up to 256 MiB. Of inputs that allow it only.

  Returns:
    Batches of arrays with b = B / process_count rows: those of the inputs, [b, ...]; label `[b]` int32 if the source has labels;
    wanted `[b]` int32, the records that were drawn, and index `[b]` int32, those that were used: they differ where a record was
    replaced.

  Raises:
    UserError: sizes that do not fit; while iterating, 100 bad records in a row.
  """
  check(source, batch_size)
  if batch_size % process_count:
    raise UserError(f'batch_size {batch_size} does not divide by {process_count} processes.')
  if not 0 <= seed < 2**32:
    raise UserError(f'seed {seed} is not between 0 and 2**32 - 1.')
  sizes = [value.kept_bytes() for value in inputs.values()]
  kept = [size for size in sizes if size is not None]
  keepable = len(kept) == len(sizes)
  if cache == 'auto':
    cache = keepable and len(source) * sum(kept) <= CACHE_BYTES
  threads = threads or _cores()
  train = assemble.Training(
    source=source,
    inputs=dict(inputs),
    batch_size=batch_size,
    seed=seed,
    cached=bool(cache) and keepable,
    process_index=process_index,
    process_count=process_count,
    threads=max(1, threads // max(1, workers)),
  )
  data = grain.MapDataset.range(start_step, STEPS).map(train)
  data = data.to_iter_dataset(_reading(prefetch))
  if workers:
    if not flags.FLAGS.is_parsed():  # Grain reads absl flags, which nobody parses in a notebook or a test
      flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=max(1, prefetch))
    data = data.mp_prefetch(options, worker_init_fn=_ignore_signals)
  return Batches(iter(data), train.pool)


def eval_batches(
  source: Source,
  inputs: assemble.Inputs,
  *,
  batch_size: int,
  threads: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  prefetch: int = 2,
) -> Batches:
  """The whole source in its order, once, as `evaluation()` of the inputs makes it.

  Args:
    source: where the records are.
    inputs: of the method; their evaluation is taken.
    batch_size: B, of all processes together.
    threads: that decode; 0: one for each core.
    process_index: of this process.
    process_count: of all processes.
    prefetch: batches prepared ahead.

  Returns:
    Batches of arrays with b = B / process_count rows: those of the inputs, [b, ...], 0 where there is no record; label `[b]`
    int32, -1 where there is none; index `[b]` int32, -1 in the padding of the last batch; mask `[b]` bool, 1 is a record, 0 is
    padding or a record that cannot be used (never replaced; their number so far is the attribute `bad`). Each process yields the
    same number of batches.

  Raises:
    UserError: sizes that do not fit.
  """
  check(source, 1)
  if batch_size % process_count:
    raise UserError(f'batch_size {batch_size} does not divide by {process_count} processes.')
  evaluation = assemble.Evaluation(
    source=source,
    inputs={name: value.evaluation() for name, value in inputs.items()},
    batch_size=batch_size,
    process_index=process_index,
    process_count=process_count,
    threads=threads or _cores(),
  )
  data = grain.MapDataset.range(-(-len(source) // batch_size)).map(evaluation)
  return Batches(iter(data.to_iter_dataset(_reading(prefetch))), evaluation.pool)


def _cores():
  """Cores that this process may use: under SLURM or in a container fewer than the machine has."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _reading(prefetch):
  # Always set: the default prefetches 500 elements, which are batches here.
  return grain.ReadOptions(num_threads=max(1, min(2, prefetch)), prefetch_buffer_size=max(1, prefetch))


def _ignore_signals(worker_index, worker_count):
  """SLURM and Ctrl-C signal the whole process group; a dead worker would end the run before the last checkpoint is written."""
  del worker_index, worker_count
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  signal.signal(signal.SIGINT, signal.SIG_IGN)
