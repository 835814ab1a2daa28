"""From a source to the batches of one process, by way of Grain. The position in the stream is the step: nothing to save.

A worker process imports the main module: a script that asks for workers keeps its code under `if __name__ == '__main__':`.
"""

import concurrent.futures
import dataclasses
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from sslax.data import decode, host, text
from sslax.data.sources import Source
from sslax.errors import UserError

MAX_PIXELS = 100_000_000
CACHE_BYTES = 256 * 2**20  # decoded images are kept in memory up to this much
STEPS = 2**48  # more than anybody trains
TRIES = 100  # how many records in a row may be bad
BAD = (OSError, ValueError)  # what a record raises that cannot be used: decode.DecodeError is a ValueError


class Batches(Iterator):
  """Iterator over dicts of arrays. Close it (or use `with`): threads, worker processes and shared memory end with it."""

  def __init__(self, iterator, pool):
    self._iterator, self._pool = iterator, pool
    self.bad = 0  # records masked out so far, by `eval_batches`

  def __next__(self) -> dict[str, np.ndarray]:
    batch = next(self._iterator)
    if 'mask' in batch:
      self.bad += int(np.sum(~batch['mask'] & (batch['index'] >= 0)))
    return batch

  def close(self):
    self._iterator.close()
    self._pool.shutdown(wait=False, cancel_futures=True)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def check(source: Source, batch_size: int):
  """Raises UserError where `source` is empty or holds less than one batch."""
  if not len(source):
    raise UserError(f'{source.name}: there is no record in it. Check the path or pattern.')
  if len(source) < batch_size:
    raise UserError(f'{source.name}: {len(source)} records are less than one batch of {batch_size}. Lower batch_size.')


def probe(source: Source, n: int = 16, *, max_pixels: int = MAX_PIXELS, captioned: bool = False) -> list[tuple[int, int]]:
  """Decodes `n` evenly spaced records before anything expensive starts.

  Args:
    source: where the records are.
    n: how many to try.
    max_pixels: as in `decode.decode`.
    captioned: whether a record needs a caption, too.

  Returns:
    (height, width) in pixels of those that could be decoded.

  Raises:
    UserError: the source is empty, or not one of the records can be used.
  """
  check(source, 1)
  sizes, errors, reasons = [], [], []
  for i in np.unique(np.linspace(0, len(source) - 1, n).astype(int)).tolist():
    try:
      sizes.append(load(source, i, max_pixels, captioned)[0].shape[:2])
    except BAD as error:
      errors.append(error)
      reasons.append(f'{source.where(i)}: {error}')
  if not sizes and all(isinstance(error, text.NoCaption) for error in errors):
    raise UserError(
      f'{source.name}: not one of {len(errors)} records has a caption that can be used, which config.data.text asks for: '
      f'{"; ".join(reasons[:3])}. Name a source with captions, such as digits:captions@train.'
    )
  if not sizes:
    raise UserError(
      f'{source.name}: not one of {len(reasons)} records can be read: {"; ".join(reasons[:3])}. '
      'Check that these are images and that they may be read.'
    )
  return sizes


def train_batches(
  source: Source,
  *,
  batch_size: int,
  seed: int,
  image_size: int,
  crops: Sequence[Any] = (),
  crop_on: str = 'device',
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  threads: int = 0,
  workers: int = 0,
  prefetch: int = 2,
  cache: bool | str = 'auto',
  max_pixels: int = MAX_PIXELS,
  tokenize: Any = None,
) -> Batches:
  """Shuffled batches without end: each record once per epoch, a new order in each; a batch may straddle two epochs.

  Batch s holds rows s * B ... (s + 1) * B - 1 of one endless stream and a process holds a contiguous block of them: the blocks
  of all processes in their order are the same global batch, bit for bit, for any `process_count`, `workers`, `threads`, `cache`
  and `start_step`. A record that cannot be read is replaced by the next one that can. Of several captions one is drawn, anew in
  each epoch, as a function of the seed and the row of the stream alone.

  Args:
    source: where the records are.
    batch_size: B, of all processes together.
    seed: of the order and of the crops, below 2**32.
    image_size: S, pixels.
    crops: sslax.method.Crop for each group of views; used where `crop_on` is 'host'.
    crop_on: 'device': whole images, shorter side S, cut to a square; 'host': random resized crops of the full-size image.
    start_step: the first batch to yield.
    process_index: of this process.
    process_count: of all processes.
    threads: that decode, in each process; 0: one for each core.
    workers: processes that decode beside this one; threads are enough for Pillow, which frees the interpreter's lock.
    prefetch: batches prepared ahead (by each worker).
    cache: keep decoded images in memory (in each worker); 'auto': up to 256 MiB. For crop_on='device' only.
    max_pixels: as in `decode.decode`.
    tokenize: a tokenizer of `sslax.data.text`: batches have `text`, and a record without a usable caption is a bad one.

  Returns:
    Batches of arrays with b = B / process_count rows: image `[b, S, S, 3]` uint8, or crops `[b, V, s, s, 3]` uint8 (crops_1,
    crops_2, ... for further groups); label `[b]` int32 if the source has labels; text `[b, L]` int32 with `tokenize`;
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
  if crop_on not in ('device', 'host'):
    raise UserError(f"data.crop_on is {crop_on!r}: it must be 'device' or 'host'.")
  if crop_on == 'host' and not crops:
    raise UserError("data.crop_on is 'host', but this method asks for no crops. Use data.crop_on=device.")
  if cache == 'auto':
    cache = len(source) * image_size**2 * 3 <= CACHE_BYTES
  threads = threads or _cores()
  crops = tuple(crops) if crop_on == 'host' else ()
  train = _Train(
    source=source,
    batch_size=batch_size,
    seed=seed,
    image_size=image_size,
    crops=crops,
    cached=bool(cache) and not crops,
    process_index=process_index,
    process_count=process_count,
    threads=max(1, threads // max(1, workers)),
    max_pixels=max_pixels,
    tokenize=tokenize,
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
  *,
  batch_size: int,
  image_size: int,
  resize: int,
  threads: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  prefetch: int = 2,
  max_pixels: int = MAX_PIXELS,
  tokenize: Any = None,
) -> Batches:
  """The whole source in its order, once: shorter side to `resize`, central square of `image_size`.

  Args:
    source: where the records are.
    batch_size: B, of all processes together.
    image_size: S, pixels.
    resize: pixels, at least S.
    threads: that decode; 0: one for each core.
    process_index: of this process.
    process_count: of all processes.
    prefetch: batches prepared ahead.
    max_pixels: as in `decode.decode`.
    tokenize: a tokenizer of `sslax.data.text`: batches have `text`, and a record without a usable caption is a bad one.

  Returns:
    Batches of arrays with b = B / process_count rows: image `[b, S, S, 3]` uint8; label `[b]` int32, -1 where there is none; text
    `[b, L]` int32, the first caption, with `tokenize`; index `[b]` int32, -1 in the padding of the last batch; mask `[b]` bool, 1
    is a record, 0 is padding or a record that cannot be read (never replaced; their number so far is the attribute `bad`). Each
    process yields the same number of batches.

  Raises:
    UserError: sizes that do not fit.
  """
  check(source, 1)
  if batch_size % process_count:
    raise UserError(f'batch_size {batch_size} does not divide by {process_count} processes.')
  if image_size > resize:
    raise UserError(f'The central crop ({image_size} pixels) is larger than the resized image ({resize} pixels).')
  evaluation = _Eval(
    source=source,
    batch_size=batch_size,
    image_size=image_size,
    resize=resize,
    process_index=process_index,
    process_count=process_count,
    threads=threads or _cores(),
    max_pixels=max_pixels,
    tokenize=tokenize,
  )
  data = grain.MapDataset.range(-(-len(source) // batch_size)).map(evaluation)
  return Batches(iter(data.to_iter_dataset(_reading(prefetch))), evaluation.pool)


def captions(source: Source, i: int) -> list[str]:
  """The usable captions of record i in their order, [] where there is none; raises OSError or ValueError like the source."""
  return text.usable(source[i].get('text'))


def load(source: Source, i: int, max_pixels: int, captioned: bool) -> tuple[np.ndarray, int, list[str]]:
  """(image `[H, W, 3]` uint8, label or -1, usable captions) of record i; raises one of BAD, also where `captioned` finds none."""
  record = source[i]
  image = decode.decode(record['image'], max_pixels=max_pixels)
  found = text.usable(record.get('text')) if captioned else []
  if captioned and not found:
    raise text.NoCaption(f'no usable caption: the text is {ascii(record.get("text"))[:80]}')
  return image, record['label'] if source.num_classes else -1, found


@dataclasses.dataclass(kw_only=True)
class _Train:
  """Number of the batch -> the batch.

  Grain maps over whole batches and not over records: the threads then share the rows of one batch, so that `prefetch` batches
  are in memory on any number of cores (Grain's own threads need a batch each), and one numpy call gathers cached rows.
  """

  source: Source
  batch_size: int
  seed: int
  image_size: int
  crops: tuple[Any, ...]
  cached: bool
  process_index: int
  process_count: int
  threads: int
  max_pixels: int
  tokenize: Any

  def __post_init__(self):
    self.order = grain.MapDataset.range(len(self.source)).seed(self.seed).shuffle().repeat(None)
    self.pool = concurrent.futures.ThreadPoolExecutor(self.threads, 'sslax-decode')
    self.cache = self._empty(len(self.source)) if self.cached else None  # row i: what comes out when record i is wanted

  def __reduce__(self):  # to a worker process goes what it was made from, never the pool nor the cache
    return _again, (type(self), {f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

  def __call__(self, step: int) -> dict[str, np.ndarray]:
    b = self.batch_size // self.process_count
    first = step * self.batch_size + self.process_index * b
    wanted = np.array([self.order[row] for row in range(first, first + b)], np.int32)
    if self.cached:
      missing = np.unique(wanted[self.cache['index'][wanted] < 0])
      _each(self.pool, self.threads, lambda i: self._fill(self.cache, i, i, None), missing.tolist())
      out = {key: value[wanted] for key, value in self.cache.items()}
    else:
      out = self._empty(b)
      _each(self.pool, self.threads, lambda j: self._fill(out, j, int(wanted[j]), first + j), range(b))
    out['wanted'] = wanted
    if self.tokenize:
      out['text'] = np.stack([self.tokenize(self._draw(found, first + j)) for j, found in enumerate(out.pop('captions'))])
    return out

  def _draw(self, captions, row):
    """One of the captions; the 1 keeps this generator apart from that of the crops."""
    rng = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 1, row]))
    return captions[rng.integers(len(captions))]

  def _empty(self, n):
    groups = {_key(g): (c.count, c.size, c.size, 3) for g, c in enumerate(self.crops)}
    groups = groups or {'image': (self.image_size, self.image_size, 3)}
    out = {key: np.empty((n, *shape), np.uint8) for key, shape in groups.items()}
    if self.source.num_classes:
      out['label'] = np.empty(n, np.int32)
    if self.tokenize:
      out['captions'] = np.empty(n, object)  # a list of str each: the cache keeps them all, for another one each epoch
    return out | {'index': np.full(n, -1, np.int32)}

  def _fill(self, out, j, i, row):
    """Puts record i (or its replacement) into row j of `out`; `row`: its number in the endless stream."""
    image, label, captions, index = _load_good(self.source, i, self.max_pixels, bool(self.tokenize))
    if self.crops:
      # One generator for each row of the stream, whoever computes it. A key instead of a seed: no entropy pool, 10 times cheaper.
      rng = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, row]))
      for g, crop in enumerate(self.crops):
        for v in range(crop.count):
          out[_key(g)][j, v] = host.random_resized_crop(rng, image, crop.size, crop.area, crop.ratio)
    else:
      out['image'][j] = host.resize_center_crop(image, self.image_size, self.image_size)
    if 'label' in out:
      out['label'][j] = label
    if 'captions' in out:
      out['captions'][j] = captions
    out['index'][j] = index  # last: in the cache it says that the row is complete


@dataclasses.dataclass(kw_only=True)
class _Eval:
  """Number of the batch -> the batch."""

  source: Source
  batch_size: int
  image_size: int
  resize: int
  process_index: int
  process_count: int
  threads: int
  max_pixels: int
  tokenize: Any

  def __post_init__(self):
    self.pool = concurrent.futures.ThreadPoolExecutor(self.threads, 'sslax-decode')

  def __call__(self, step: int) -> dict[str, np.ndarray]:
    b = self.batch_size // self.process_count
    first = step * self.batch_size + self.process_index * b
    index = np.arange(first, first + b)
    out = {
      'image': np.zeros((b, self.image_size, self.image_size, 3), np.uint8),
      'label': np.full(b, -1, np.int32),
      'index': np.where(index < len(self.source), index, -1).astype(np.int32),
      'mask': np.zeros(b, bool),
    }
    if self.tokenize:
      out['text'] = np.zeros((b, self.tokenize.length), np.int32)
    _each(self.pool, self.threads, lambda j: self._fill(out, j), np.flatnonzero(out['index'] >= 0).tolist())
    return out

  def _fill(self, out, j):
    try:
      image, label, captions = load(self.source, int(out['index'][j]), self.max_pixels, bool(self.tokenize))
    except BAD:
      return
    out['image'][j] = host.resize_center_crop(image, self.resize, self.image_size)
    out['label'][j] = label
    if self.tokenize:
      out['text'][j] = self.tokenize(captions[0])
    out['mask'][j] = True


def _load_good(source, wanted, max_pixels, captioned):
  """(image, label, captions, index) of the first record from `wanted` on that can be read."""
  first = None
  for k in range(min(TRIES, len(source))):
    index = (wanted + k) % len(source)
    try:
      return *load(source, index, max_pixels, captioned), index
    except BAD as error:
      first = first or f'{source.where(index)}: {error}'
  raise UserError(
    f'{source.name}: {k + 1} records in a row cannot be read, the first is {first}. Check that the files are there and whole.'
  )


def _each(pool: concurrent.futures.Executor, threads: int, function: Callable[[int], None], rows: Iterable[int]):
  """function(row) for all rows by the threads of the pool, in chunks, as a task costs as much as a small image."""
  n = 4 * threads
  list(pool.map(lambda chunk: [function(row) for row in chunk], filter(len, (rows[k::n] for k in range(n)))))


def _again(make, fields):
  return make(**fields)


def _key(group):
  return f'crops_{group}' if group else 'crops'


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
