"""A run in its workdir: restore, step, save, close. What watches it are callbacks."""

import contextlib
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from sslax.data import pipeline
from sslax.data.bad import BadRecords
from sslax.errors import Diverged, Interrupted
from sslax.io.versions import versions
from sslax.run import config as configs
from sslax.run import graft, sharding
from sslax.run.callbacks import Callback
from sslax.run.checkpoint import Checkpointer, state_hash
from sslax.run.faults import Status, barrier, read_status
from sslax.run.prepare import Run
from sslax.run.watchdog import LINGER, Watchdog
from sslax.step import TrainState, init_state


class Session:
  """The state of a run, from `restore` to `close`. `loop.train` calls its methods in their order.

  Attributes:
    run, workdir: what it was made from.
    state: the TrainState after the step that was dispatched last.
    start: the step that it began at, 0 or that of a checkpoint.
    status: workdir/status.json.
    compile_seconds: of the step.
  """

  def __init__(self, run: Run, workdir: pathlib.Path, callbacks: Sequence[Callback] = ()):
    self.run, self.workdir, self.callbacks = run, workdir, tuple(callbacks)
    config = run.config
    self._checkpointer = Checkpointer(
      workdir,
      every_steps=config.checkpoint.every_steps,
      keep=config.checkpoint.keep,
      keep_every=config.checkpoint.keep_every,
      meta={'config': config.to_json(), 'versions': versions(), 'facts': run.facts._asdict()},
    )
    self.status = Status(
      workdir,
      step=0,
      total_steps=run.total_steps,
      reason='starting',
      last_checkpoint=None,
      bad_records=0,
      warnings=read_status(workdir).get('warnings', []),
    )
    self._dog = Watchdog(
      workdir / f'stacks.{jax.process_index()}.txt',
      config.stall_timeout,
      on_stall=lambda: self.status.update(reason='stalled', last_checkpoint=self.newest()),
      # The end of process 0 is that of all.
      linger=LINGER if jax.process_index() or jax.process_count() == 1 else 2 * LINGER,
    )
    self.state: TrainState  # from `restore` on
    self.start, self.compile_seconds, self._restored, self._made = 0, 0.0, False, time.time()
    self._batches: pipeline.Batches | None = None
    self._pending: tuple[int, dict[str, jax.Array], dict[str, float]] | None = None  # of the step that was dispatched last

  def newest(self) -> int | None:
    """The step of the newest checkpoint that is whole."""
    return max(self._checkpointer.steps(), default=None)

  @property
  def stalled(self) -> bool:
    """Whether the watchdog is ending this process: what goes wrong from then on is a consequence."""
    return self._dog.stalled

  def restore(self, lowered: Any) -> None:
    """The newest good checkpoint, or a fresh state; the compiled step; the batches from there on.

    Args:
      lowered: of `run.lower()`.
    """
    run, config = self.run, self.run.config
    barrier('ready')
    found = self._checkpointer.restore(run.abstract_state)
    for message in self._checkpointer.damaged:
      print(f'warning: {message}', file=sys.stderr)
    if found:
      self.state, self.start = found
      self._restored = True
      print(f'resuming at step {self.start} of {run.total_steps}')
    else:
      init = jax.jit(lambda b: init_state(run.method, run.tx, config.seed, b), out_shardings=run.state_sharding())
      self.state = graft.apply(run.grafts, init(_zeros(run.abstract_batch)))
      self.status.fields['warnings'] = []
    if jax.process_index() == 0:
      configs.save(config, self.workdir)
    began = time.time()
    self._compiled = lowered.compile()  # ahead of time: it cannot compile a second time, whatever it is called with
    self.compile_seconds = time.time() - began
    barrier('compiled')
    self._batches = train_batches(run, self.start)
    suffix = f'.{jax.process_index()}' if jax.process_count() > 1 else ''
    path = self.workdir / f'bad_records{suffix}.jsonl'
    self._bad = BadRecords(run.source, path, config.data.max_bad_fraction, inputs=run.inputs)
    self._rows = sharding.batch_sharding(run.mesh)
    self.status.update(step=self.start, reason='running', last_checkpoint=self.newest())
    for callback in self.callbacks:
      callback.begin(self)

  def step(self, number: int) -> None:
    """Dispatches step `number` (0 is the first), then reads what the one before it gave.

    Raises:
      Diverged: see `settle`.
      UserError: too many bad records.
    """
    assert self._batches is not None, 'restore comes first'
    batch = next(self._batches)
    self._bad.update(batch.pop('wanted'), batch['index'])
    self.state, metrics = self._compiled(self.state, sharding.global_batch(batch, self._rows))
    # ORDER MATTERS: step n is dispatched, now read n-1: the device never waits for the host.
    self.settle()
    if number > self.start:  # the first step waits for the slowest process to compile
      self._dog.beat()
    else:
      self.status.update(first_step_seconds=round(time.time() - self._made, 2))
    done = number + 1
    extra: dict[str, float] = {}
    with self._dog.slow():
      for callback in self.callbacks:
        extra |= callback.dispatched(done, self.state)
    self._pending = (done, metrics, extra)
    self.status.update(now=False, step=done, bad_records=self._bad.count)
    if self._checkpointer.due(done) and done < self.run.total_steps:
      self.save(done)

  def settle(self) -> None:
    """Reads the metrics of the step that was dispatched last, and hands them to the callbacks.

    Raises:
      Diverged: they are not finite.
    """
    if self._pending is None:
      return
    (step, on_device, extra), self._pending = self._pending, None
    values = {key: float(value) for key, value in on_device.items()}
    if not values.pop('finite'):
      culprits = [key for key, value in values.items() if not np.isfinite(value)] or ['memory']
      raise Diverged(f'step {step}: {", ".join(culprits)} not finite; last good checkpoint: {self.newest()}')
    values['learning_rate'] = float(self.run.learning_rate(step - 1))
    values['epoch'] = step / self.run.steps_per_epoch
    for callback in self.callbacks:
      callback.settled(step, values, extra)

  def save(self, step: int, *, wait: bool = False) -> None:
    """Saves the state after `step` steps, unless there is a checkpoint of it."""
    self.settle()  # ORDER MATTERS: nothing is saved before its step is known to be finite
    if step not in self._checkpointer.steps():
      self._checkpointer.save(step, self.state, wait=wait)
    # The one being saved counts when it is whole.
    self.status.update(step=step, last_checkpoint=self.newest(), bad_records=self._bad.count)

  def interrupt(self, step: int) -> None:
    """Saves what there is before the process ends; a run that has done nothing since it was restored has nothing new."""
    with self._dog.slow():
      if step > self.start or not self._restored:
        self.save(step, wait=True)
      self._checkpointer.wait()
    self.status.update(step=step, reason='interrupted', last_checkpoint=self.newest())

  def finish(self) -> None:
    """The last checkpoint, and what the run says of itself at its end."""
    with self._dog.slow():  # storage may take its time for the last one
      self.save(self.run.total_steps, wait=True)
      self._checkpointer.wait()
    self.status.update(reason='done', last_checkpoint=self.newest(), state_hash=state_hash(self.state))

  @contextlib.contextmanager
  def slow(self) -> Iterator[None]:
    """Inside, the watchdog is patient."""
    with self._dog.slow():
      yield

  def close(self, error: BaseException | None = None) -> None:
    """Ends threads and files; waits for a checkpoint that is being saved where that is safe."""
    for callback in self.callbacks:
      callback.close()
    if self._batches is not None:
      self._batches.close()
    # A save waits for all processes. After a failure that only this one may have seen it would keep this one for ever.
    if jax.process_count() == 1 or isinstance(error, (type(None), Interrupted, Diverged)):
      with self._dog.slow():
        self._checkpointer.close()
    self._dog.close()


def train_batches(run: Run, start_step: int) -> pipeline.Batches:
  """This process's part of the batches from `start_step` on."""
  data = run.config.data
  caches: dict[str, bool | str] = {'on': True, 'off': False, 'auto': 'auto'}
  return pipeline.train_batches(
    run.source,
    run.inputs,
    batch_size=run.config.batch_size,
    seed=run.config.seed,
    start_step=start_step,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    threads=data.threads,
    workers=data.workers,
    prefetch=data.prefetch,
    cache=caches[data.cache],
  )


def _zeros(abstract_batch):
  def zeros(a):
    return jax.make_array_from_callback(a.shape, a.sharding, lambda place: np.zeros(a.shape, a.dtype)[place])

  return {key: zeros(a) for key, a in abstract_batch.items()}
