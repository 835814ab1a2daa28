"""A linear classifier beside any method, trained on its frozen features while it trains, as in BYOL's official code."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sslax.errors import UserError
from sslax.method import Batch, Classes, Features, Output, Wrapper

PyTree = Any


@dataclasses.dataclass(frozen=True)
class OnlineProbe(Wrapper):
  """Training is bit for bit what it is without, and `probe_accuracy` is among the metrics.

  The probe lives in `memory` and takes its own steps of SGD there. The optimizer, its gradient clipping and its norms never see
  it, so no label can reach the encoder. It classifies features of the examples as evaluation would have them, as far as they
  have travelled (images un-augmented, or the host's first crop), in evaluation mode, standardised by running statistics; the
  accuracy of a batch is measured before the probe learns from it. Rows without a label (-1) take no part in it. Costs one forward
  pass of the encoder more. `features` gains 'logits': `sslax.evaluate --probes=classifier`.
  """

  num_classes: int | Classes = Classes()
  learning_rate: float = 0.1
  momentum: float = 0.9
  statistics_momentum: float = 0.9

  def __post_init__(self) -> None:
    if isinstance(self.num_classes, int) and self.num_classes < 2:
      raise ValueError(f'num_classes must be at least 2, not {self.num_classes}')

  @property
  def label_classes(self) -> int:
    known = self.inner.label_classes
    if isinstance(self.num_classes, Classes):  # before the run is known: as many as its data has
      return known
    return min(self.num_classes, known or self.num_classes)

  def views(self, rng: jax.Array, batch: Batch) -> PyTree:
    """{'inner': views, 'batch': arrays as `features` takes them, 'label': [B]}"""
    if 'label' not in batch:
      raise UserError('the online probe learns from labels, and the training data has none')
    needed = self.inner.feature_inputs('pooled')
    seen: Batch = {}
    for name, source in self.inner.inputs().items():
      if name in needed:
        seen |= source.evaluated(batch)
    return {'inner': self.inner.views(rng, batch), 'batch': seen, 'label': batch['label']}

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    params, inner = self.inner.init(rng, views['inner'])
    size = self._pooled(params, inner, views['batch']).shape[1]
    probe = {'kernel': jnp.zeros((size, self.num_classes)), 'bias': jnp.zeros(self.num_classes)}
    statistics = {'mean': jnp.zeros(size), 'var': jnp.ones(size)}
    return params, {'inner': inner, 'probe': probe, 'velocity': jax.tree.map(jnp.zeros_like, probe), 'statistics': statistics}

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    loss, out = self.inner.loss(params, memory['inner'], views['inner'], rng, step)
    # ORDER MATTERS: cut before the features are computed; nothing below has a gradient.
    frozen = jax.lax.stop_gradient((params, memory['inner']))
    x = self._pooled(*frozen, views['batch'])
    m = self.statistics_momentum
    batch_statistics = {'mean': x.mean(0), 'var': x.var(0)}
    statistics = jax.tree.map(lambda old, new: m * old + (1 - m) * new, memory['statistics'], batch_statistics)

    label, labelled = views['label'], views['label'] >= 0
    total = jnp.maximum(labelled.sum(), 1)

    def probe_loss(probe):
      logits = _logits(probe, statistics, x)
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(label, 0))
      return jnp.where(labelled, losses, 0).sum() / total, logits

    (value, logits), grads = jax.value_and_grad(probe_loss, has_aux=True)(memory['probe'])
    velocity = jax.tree.map(lambda v, g: self.momentum * v + g, memory['velocity'], grads)
    probe = jax.tree.map(lambda w, v: w - self.learning_rate * v, memory['probe'], velocity)
    metrics = {'probe_loss': value, 'probe_accuracy': (logits.argmax(1) == label).sum() / total}
    memory = {'inner': out.memory, 'probe': probe, 'velocity': velocity, 'statistics': statistics}
    return loss, Output(memory, {**out.metrics, **metrics})

  def view_pictures(self, views: PyTree) -> Mapping[str, jax.Array | Batch]:
    return super().view_pictures(views['inner'])

  def features(self, params: PyTree, memory: PyTree, batch: Batch) -> Features:
    out = super().features(params, memory, batch)
    if out.pooled is None:  # of texts alone, say
      return out
    return dataclasses.replace(out, logits=_logits(memory['probe'], memory['statistics'], out.pooled))

  def _pooled(self, params: PyTree, memory: PyTree, batch: Batch) -> jax.Array:
    """[B, D] of the inner method."""
    pooled = self.inner.features(params, memory, batch).pooled
    assert pooled is not None, 'the contract: every method has pooled features of what feature_inputs(pooled) names'
    return pooled


def _logits(probe, statistics, x):
  """[N, C] for features [N, D]."""
  standard = (x - statistics['mean'][None]) * jax.lax.rsqrt(statistics['var'] + 1e-5)[None]
  return standard @ probe['kernel'] + probe['bias'][None]
