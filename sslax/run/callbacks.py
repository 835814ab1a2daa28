"""What watches a run: its log, its health, its progress bar. Others (online kNN, a clock) come from outside."""

import sys
import time
from typing import TYPE_CHECKING

import jax
from tqdm import tqdm

from sslax.run.health import Health
from sslax.run.metrics import MetricWriter
from sslax.step import TrainState

if TYPE_CHECKING:
  from sslax.run.session import Session


class Callback:
  """Every method may be left out. Called on every process: begin, for each step dispatched and settled, close."""

  def begin(self, session: 'Session') -> None:
    """The state is restored and the step compiled."""

  def dispatched(self, step: int, state: TrainState) -> dict[str, float]:
    """`step` steps are done on the device, or will be: further metrics of that state, for the log."""
    del step, state
    return {}

  def settled(self, step: int, values: dict[str, float], extra: dict[str, float]) -> None:
    """The metrics of that step, all finite; `extra`: what `dispatched` of all callbacks gave."""

  def close(self) -> None:
    """The run is over, one way or the other; `begin` may not have been called."""


class Log(Callback):
  """metrics.jsonl and TensorBoard."""

  _writer: MetricWriter | None = None

  def begin(self, session: 'Session') -> None:
    self._session, self._writer, self._running = session, MetricWriter(session.workdir, session.start), time.time()

  def rate(self, step: int) -> float:
    """Examples a second since the run began or was resumed."""
    return self._session.run.config.batch_size * (step - self._session.start) / (time.time() - self._running)

  def settled(self, step: int, values: dict[str, float], extra: dict[str, float]) -> None:
    assert self._writer is not None, 'begin comes first'
    run = self._session.run
    if step % run.config.log.every_steps == 0 or extra or step == run.total_steps:
      self._writer.write(step, {**values, **extra})
      self._writer.timing(step, {'images_per_second': self.rate(step)})
    if step == run.total_steps:
      self._session.status.fields['images_per_second'] = round(self.rate(step), 1)

  def close(self) -> None:
    if self._writer is not None:
      self._writer.close()


class HealthWatch(Callback):
  """Named warnings on the terminal and in status.json."""

  def begin(self, session: 'Session') -> None:
    self._status = session.status
    self._health = Health(session.status.fields['warnings'])
    session.status.fields['warnings'] = self._health.warnings

  def settled(self, step: int, values: dict[str, float], extra: dict[str, float]) -> None:
    for message in self._health.update(step, values):
      self._status.update()
      if jax.process_index() == 0:
        tqdm.write(f'warning: {message}', file=sys.stderr)  # above the bar, not through it


class ProgressBar(Callback):
  """Examples, rate, time left, loss and what other callbacks measured last."""

  _bar: tqdm | None = None

  def begin(self, session: 'Session') -> None:
    run = session.run
    self._rows = run.config.batch_size
    self._shown: dict[str, str] = {}
    self._bar = tqdm(
      total=run.total_steps * self._rows,
      initial=session.start * self._rows,
      unit='rec',
      unit_scale=True,
      desc=type(run.method).__name__,
      dynamic_ncols=True,
      mininterval=0.5 if sys.stderr.isatty() else 15,
      disable=jax.process_index() != 0,
    )

  def settled(self, step: int, values: dict[str, float], extra: dict[str, float]) -> None:
    assert self._bar is not None, 'begin comes first'
    self._shown.update(loss=f'{values["loss"]:.4f}', **{key: f'{value:.3f}' for key, value in extra.items()})
    self._bar.set_postfix(self._shown, refresh=False)
    self._bar.update(self._rows)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.close()
