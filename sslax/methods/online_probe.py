"""A linear classifier beside any method, trained on its frozen features while it trains, as in BYOL's official code."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from sslax.errors import UserError
from sslax.method import Classes, Features, Output, Wrapper


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
    return min(self.num_classes, self.inner.label_classes or self.num_classes)

  def views(self, rng, batch):
    """{'inner': views, 'batch': arrays as `features` takes them, 'label': [B]}"""
    if 'label' not in batch:
      raise UserError('the online probe learns from labels, and the training data has none')
    needed = self.inner.feature_inputs('pooled')
    seen = {}
    for name, source in self.inner.inputs().items():
      if name in needed:
        seen |= source.evaluated(batch)
    return {'inner': self.inner.views(rng, batch), 'batch': seen, 'label': batch['label']}

  def init(self, rng, views):
    params, inner = self.inner.init(rng, views['inner'])
    size = self.inner.features(params, inner, views['batch']).pooled.shape[1]
    probe = {'kernel': jnp.zeros((size, self.num_classes)), 'bias': jnp.zeros(self.num_classes)}
    statistics = {'mean': jnp.zeros(size), 'var': jnp.ones(size)}
    return params, {'inner': inner, 'probe': probe, 'velocity': jax.tree.map(jnp.zeros_like, probe), 'statistics': statistics}

  def loss(self, params, memory, views, rng, step):
    loss, out = self.inner.loss(params, memory['inner'], views['inner'], rng, step)
    # ORDER MATTERS: cut before the features are computed; nothing below has a gradient.
    frozen = jax.lax.stop_gradient((params, memory['inner']))
    x = self.inner.features(*frozen, views['batch']).pooled
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

  def view_pictures(self, views):
    return super().view_pictures(views['inner'])

  def features(self, params, memory, batch) -> Features:
    out = super().features(params, memory, batch)
    if out.pooled is None:  # of texts alone, say
      return out
    return dataclasses.replace(out, logits=_logits(memory['probe'], memory['statistics'], out.pooled))


def _logits(probe, statistics, x):
  """[N, C] for features [N, D]."""
  standard = (x - statistics['mean'][None]) * jax.lax.rsqrt(statistics['var'] + 1e-5)[None]
  return standard @ probe['kernel'] + probe['bias'][None]
