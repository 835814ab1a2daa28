"""One run of a comparison: trained to its end with a clock beside it, then probed."""

import pathlib
import shutil
import time
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np

from sslax.comparison.journal import Journal
from sslax.comparison.probes import shown
from sslax.comparison.stop import Stop
from sslax.evals.probe import TRAINED
from sslax.evaluation import picks
from sslax.evaluation.evaluation import Evaluation, Settings
from sslax.evaluation.online import OnlineKNN, online_knn
from sslax.run import loop
from sslax.run.callbacks import Callback
from sslax.run.prepare import prepare
from sslax.run.session import Session
from sslax.run.summary import summary
from sslax.step import TrainState


class Clock(Callback):
  """Tells the journal which seconds are training and which are not: start and compilation, and what `others` measure.

  Make it right before `loop.train`, which begins with the session from which status.json counts its first_step_seconds.
  """

  def __init__(self, journal: Journal, stop: Stop, online: Sequence[OnlineKNN] = ()):
    """
    Args:
      online: called by way of this callback, which takes its time.
    """
    self._journal, self._stop, self._online = journal, stop, online
    self._made, self._begun = time.time(), False

  def begin(self, session: Session) -> None:
    for callback in self._online:
      callback.begin(session)
    self._journal.begin(session.start, session.compile_seconds, self._made)
    self._begun = self._stop.training = True  # from here on a signal is for the loop, which saves first

  def dispatched(self, step: int, state: TrainState) -> dict[str, float]:
    found: dict[str, float] = {}
    for callback in self._online:
      if callback.due(step):
        jax.block_until_ready(state)  # the step itself is training
        began = time.time()
        found |= callback.dispatched(step, state)
        self._journal.online(step, began)
    return found

  def close(self) -> None:
    for callback in self._online:
      callback.close()
    if self._begun:
      self._journal.end(time.time())


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path, journal: Journal, stop: Stop) -> None:
  """`sslax.train` with a clock, to the end of the run; nothing where it has ended.

  Raises:
    Interrupted, Diverged, UserError: see `loop.train`.
  """
  run = prepare(config, workdir)
  sizes = {key: sum(int(np.prod(a.shape)) for a in jax.tree.leaves(p)) for key, p in run.abstract_state.params.items()}
  journal.end_killed()
  journal.update(status='running', reason='', batch_size=config.batch_size)
  journal.update(encoder_parameters=sizes['encoder'], parameters=sum(sizes.values()))
  if loop.finished(workdir, run.total_steps):
    return
  lowered = run.lower()
  print(f'{workdir}\n{summary(run, lowered)}', flush=True)
  online = online_knn(run)
  try:
    loop.train(run, lowered, workdir, stop, [Clock(journal, stop, online)])
  finally:
    stop.training = False


def probe(config: ml_collections.ConfigDict, workdir: pathlib.Path, probes: Sequence[str], journal: Journal) -> None:
  """`sslax.evaluate` of the last checkpoint; what is in eval.jsonl is not computed again."""
  started = time.time()
  evaluation = Evaluation(workdir, picks.pick(probes, config.eval.probes), Settings(baselines=False, report=False))
  step = evaluation.reader.steps()[-1]
  try:
    evaluation.evaluate(step)
  finally:
    journal.update(probe_seconds=round(journal['probe_seconds'] + time.time() - started, 2))
  # Other lines of eval.jsonl are of somebody who looked closer, with another k for instance.
  every = {name: shown(name, evaluation.find(TRAINED, step, name)) for name in probes}
  found = {name: score for name, score in every.items() if score is not None}
  journal.update(
    figures={name: score.value for name, score in found.items()},
    more_is_better={name: score.more_is_better for name, score in found.items()},
  )
  shutil.rmtree(workdir / 'features', ignore_errors=True)  # a hundred MB a run for large sets, of no more use
