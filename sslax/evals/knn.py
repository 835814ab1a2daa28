"""Weighted k-nearest-neighbour classification of features: no training, hardly any hyper-parameters."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sslax.errors import UserError
from sslax.evals import features
from sslax.evals.probe import Data, Probe, Score, Store

_ROWS = 8192  # gallery rows compared at a time: [batch, _ROWS] similarities are alive, never [M, N]


@dataclasses.dataclass(frozen=True)
class KNN(Probe):
  """Accuracy of `predict` with all labels of the training set; k is that of the set where it is smaller."""

  k: int = 200
  temperature: float = 0.1

  def __post_init__(self) -> None:
    if self.k < 1 or self.temperature <= 0:
      raise ValueError(f'k={self.k} must be at least 1 and temperature={self.temperature} positive')

  def run(self, store: Store, data: Data) -> Iterator[Score]:
    train, test = store.labelled(data.train), store.labelled(data.test)
    k = min(self.k, len(train.label))
    top1 = accuracy(
      train.values, train.label, test.values, test.label, k=k, temperature=self.temperature, num_classes=data.num_classes
    )
    yield Score('top1', top1, 'kNN, all labels', chance=1 / data.num_classes, details={'k': k})

  def caption(self, scores: Sequence[Score]) -> str:
    return f'kNN: weighted, k {self.k}, temperature {self.temperature}, all labels.'


def predict(
  train_x: Any,
  train_y: Any,
  x: Any,
  *,
  k: int = 20,
  temperature: float = 0.07,
  num_classes: int,
  batch: int = 1024,
) -> np.ndarray:
  """The classes with most votes: the k nearest by cosine vote exp(similarity / temperature) for theirs.

  Wu et al. 2018 (https://arxiv.org/abs/1805.01978, sec. 3.4; lemniscate test.py: k = 200) and DINO's eval_knn.py (k = 20 best).
  Of equal similarities the first record of the gallery wins, of equal votes the lowest class.

  Args:
    train_x: [N, D] the gallery's features, of images without augmentation.
    train_y: [N] integers in [0, num_classes).
    x: [M, D] features to classify.
    k: neighbours; N where that is smaller.
    batch: rows of x at a time.

  Returns:
    [M] int32.

  Raises:
    UserError: features or labels that do not fit, k < 1, temperature <= 0.
  """
  train_x, train_y = features.checked(train_x, train_y, num_classes, 'kNN gallery')
  x, _ = features.checked(x, name='kNN queries')
  if train_x.shape[1] != x.shape[1]:
    raise UserError(f'kNN: the gallery has {train_x.shape[1]} features and the queries {x.shape[1]}.')
  if k < 1 or temperature <= 0:
    raise UserError(f'kNN: needs k >= 1 ({k}) and temperature > 0 ({temperature}).')
  count = -(-len(train_x) // _ROWS)
  block = -(-len(train_x) // (count * 128)) * 128  # even blocks, so that little is padding
  gallery = jnp.asarray(features.blocks(features.l2_normalize(train_x), block))
  labels = jnp.asarray(features.blocks(train_y, block, -1))  # -1: padding
  found = [
    np.asarray(_classify(gallery, labels, rows, jnp.float32(temperature), min(k, len(train_x)), num_classes))
    for rows in features.blocks(features.l2_normalize(x), batch)
  ]
  return np.concatenate(found)[: len(x)]


def accuracy(
  train_x: Any,
  train_y: Any,
  test_x: Any,
  test_y: Any,
  *,
  k: int = 20,
  temperature: float = 0.07,
  num_classes: int,
  batch: int = 1024,
) -> float:
  """The fraction of [M, D] test_x whose label is that of `predict`; arguments as there."""
  test_x, test_y = features.checked(test_x, test_y, num_classes, 'kNN test')
  found = predict(train_x, train_y, test_x, k=k, temperature=temperature, num_classes=num_classes, batch=batch)
  return float((found == test_y).mean())


@functools.partial(jax.jit, static_argnums=(4, 5))
def _classify(gallery, labels, rows, temperature, k, num_classes):
  """[B] classes of rows [B, D] from gallery [G, b, D] with labels [G, b]."""

  def merge(best, part):
    part_x, part_y = part
    # HIGHEST: TPUs would multiply in bfloat16, which reorders neighbours.
    s = jnp.matmul(rows, part_x.T, precision=lax.Precision.HIGHEST)
    s = jnp.where(part_y[None] < 0, -jnp.inf, s)
    # ORDER MATTERS: top_k prefers the lower position among equals, and the best so far come from earlier records.
    s, i = lax.top_k(jnp.concatenate([best[0], s], 1), k)
    y = jnp.concatenate([best[1], jnp.broadcast_to(part_y[None], (len(rows), len(part_y)))], 1)
    return (s, jnp.take_along_axis(y, i, 1)), None

  none = jnp.full((len(rows), k), -jnp.inf), jnp.full((len(rows), k), -1, jnp.int32)
  (s, y), _ = lax.scan(merge, none, (gallery, labels))
  weight = jnp.exp((s - s[:, :1]) / temperature)  # relative to the nearest: exp(1 / 0.01) is no float32

  # One neighbour at a time: the one-hot [B, k, classes] of k = 200 and 1000 classes would be 200 times this; a scatter-add has no
  # fixed order on GPUs.
  def vote(votes, neighbour):
    w, y = neighbour
    return votes + w[:, None] * jax.nn.one_hot(y, num_classes), None

  votes, _ = lax.scan(vote, jnp.zeros((len(rows), num_classes)), (weight.T, y.T))
  return votes.argmax(1)  # of equal votes the first
