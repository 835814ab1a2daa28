"""kNN accuracy while a method trains: a glance at the features, from a part of the data."""

import itertools
from collections.abc import Callable

import jax
import numpy as np

from sslax.data import pipeline
from sslax.data.sources import open_source
from sslax.evals import knn
from sslax.evals.features import extract


def online_knn(run) -> Callable[..., dict[str, float]]:
  """state -> {'knn': accuracy} on `online.max_train` training and `online.max_test` test images, decoded once and kept.

  Labels are read here and nowhere else: they cannot reach the encoder. The figure is rougher than `sslax.evaluate`'s, which
  uses all images.
  """
  config = run.config
  size = max(1, config.eval.batch_size // run.mesh.size) * run.mesh.size

  def some(source, most):
    batches = pipeline.eval_batches(
      source, batch_size=size, image_size=config.data.image_size, resize=config.data.eval_resize or config.data.image_size,
      threads=config.data.threads, max_pixels=config.data.max_pixels,
      process_index=jax.process_index(), process_count=jax.process_count(),
    )  # fmt: skip
    return list(itertools.islice(batches, -(-most // size)))

  kept = {'train': some(run.source, config.online.max_train), 'test': some(open_source(config.data.test), config.online.max_test)}

  def accuracy(state) -> dict[str, float]:
    train, test = (extract(run.method, state.params, state.memory, kept[key], mesh=run.mesh) for key in ('train', 'test'))
    predicted = knn.predict(
      train['pooled'], train['label'], test['pooled'], k=min(config.online.knn_k, len(train['label'])),
      temperature=config.online.knn_temperature, num_classes=run.source.num_classes,
    )  # fmt: skip
    return {'knn': float(np.mean(np.asarray(predicted) == test['label']))}

  return accuracy
