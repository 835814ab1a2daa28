"""kNN accuracy while a method trains: a glance at the features, from a part of the data."""

import itertools

import jax
import numpy as np

from sslax.data import pipeline
from sslax.data.sources import open_source
from sslax.evals import knn
from sslax.evals.features import extract
from sslax.run.callbacks import Callback
from sslax.run.prepare import Run
from sslax.run.session import Session
from sslax.step import TrainState


class OnlineKNN(Callback):
  """'knn' among the metrics, on `online.max_train` training and `online.max_test` test records, decoded once and kept.

  Labels are read here and nowhere else: they cannot reach the encoder. The figure is rougher than `sslax.evaluate`'s, which uses
  all records. Records without a label (-1) take no part.
  """

  def __init__(self, run: Run, test: pipeline.Source):
    self._run, self._test = run, test

  def begin(self, session: Session) -> None:
    config, run = self._run.config, self._run
    needed = run.method.feature_inputs('pooled')
    inputs = {name: value for name, value in run.inputs.items() if name in needed}
    size = max(1, config.eval.batch_size // run.mesh.size) * run.mesh.size

    def some(source, most):
      batches = pipeline.eval_batches(
        source, inputs, batch_size=size, threads=config.data.threads,
        process_index=jax.process_index(), process_count=jax.process_count(),
      )  # fmt: skip
      with batches:
        return list(itertools.islice(batches, -(-most // size)))

    self._kept = {'train': some(run.source, config.online.max_train), 'test': some(self._test, config.online.max_test)}

  def due(self, step: int) -> bool:
    """Whether the state after this step is measured."""
    return step % self._run.config.online.every_steps == 0 or step == self._run.total_steps

  def dispatched(self, step: int, state: TrainState) -> dict[str, float]:
    return {'knn': self.accuracy(state)} if self.due(step) else {}

  def accuracy(self, state: TrainState) -> float:
    """Of the kNN's votes on the test records; NaN where none has a label."""
    run, online = self._run, self._run.config.online
    train, test = (extract(run.method, state.params, state.memory, self._kept[key], mesh=run.mesh) for key in ('train', 'test'))
    gallery, queries = train['label'] >= 0, test['label'] >= 0
    if not gallery.any() or not queries.any():
      return float('nan')
    predicted = knn.predict(
      train['pooled'][gallery], train['label'][gallery], test['pooled'][queries], k=min(online.knn_k, int(gallery.sum())),
      temperature=online.knn_temperature, num_classes=run.source.num_classes,
    )  # fmt: skip
    return float(np.mean(np.asarray(predicted) == test['label'][queries]))


def online_knn(run: Run) -> list[OnlineKNN]:
  """The callback of `config.online`, [] where the config does not ask for it or the data has no labels for it: that is said."""
  config = run.config
  if not config.online.every_steps:
    return []
  test = open_source(config.data.test) if config.data.test else None
  # Only where both sets have labels: without a test set each record would find itself.
  if test is None or not test.num_classes or not run.source.num_classes:
    print('no online kNN: it needs labels in data.train and data.test')
    return []
  return [OnlineKNN(run, test)]
