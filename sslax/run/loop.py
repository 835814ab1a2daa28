"""The training loop. It knows no method and no modality by name."""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from sslax.errors import Diverged, Interrupted, UserError
from sslax.run.callbacks import Callback, HealthWatch, Log, ProgressBar
from sslax.run.checkpoint import SaveFailed
from sslax.run.faults import StopRequest, read_status
from sslax.run.prepare import Run
from sslax.run.session import Session
from sslax.step import TrainState


def finished(workdir: pathlib.Path, total_steps: int) -> bool:
  """True when the last run here reached its end."""
  status = read_status(workdir)
  return status.get('reason') == 'done' and status.get('step') == total_steps


def train(run: Run, lowered: Any, workdir: pathlib.Path, stop: StopRequest, callbacks: Sequence[Callback] = ()) -> TrainState:
  """Runs to the end, from the newest good checkpoint if there is one.

  Args:
    lowered: of `run.lower()`.
    stop: the flag that SIGTERM sets; read once a step.
    callbacks: beside log, health and progress bar; theirs come first.

  Raises:
    Interrupted: asked to stop; the state is saved.
    Diverged: a value is not finite; the last checkpoint is from before.
    UserError: too many bad records.
  """
  session = Session(run, workdir, [*callbacks, HealthWatch(), Log(), ProgressBar()])
  try:
    session.restore(lowered)
    for step in range(session.start, run.total_steps):
      if stop.agreed(step):
        session.interrupt(step)
        raise Interrupted(f'{stop.signal or "preempted"} at step {step}; saved in {workdir}; the same command goes on')
      session.step(step)
    session.finish()
    return session.state
  except Diverged:
    session.status.update(reason='diverged')
    raise
  except SaveFailed as error:  # disk full, storage gone: older checkpoints are whole, and a restart goes on from them
    session.status.update(reason=f'save failed: {error}')
    raise Interrupted(str(error)) from error
  except UserError as error:
    session.status.update(reason=f'user error: {error}'[:500])
    raise
  except Interrupted:
    raise
  except Exception as error:
    if not session.stalled:
      session.status.update(reason=f'failed: {type(error).__name__}: {error}'[:500])
    raise
  finally:
    session.close(sys.exception())
