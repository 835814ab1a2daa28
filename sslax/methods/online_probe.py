"""A linear classifier beside any method, trained on its frozen features while it trains, as in BYOL's official code."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from sslax.errors import UserError
from sslax.method import Method, Output


@dataclasses.dataclass(frozen=True)
class OnlineProbe(Method):
  """Wraps `inner`: training is bit for bit what it is without, and `probe_accuracy` is among the metrics.

  The probe lives in `memory` and takes its own steps of SGD there. The optimizer, its gradient clipping and its norms never see
  it, so no label can reach the encoder. It classifies features of the un-augmented images (of the host's first crop where the
  host crops) in evaluation mode, standardised by running statistics; the accuracy of a batch is measured before the probe
  learns from it. Costs one forward pass of the encoder more. `features` gains 'logits': `sslax.evaluate --probes=classifier`.
  """

  inner: Method
  num_classes: int
  learning_rate: float = 0.1
  momentum: float = 0.9
  statistics_momentum: float = 0.9

  def __post_init__(self):
    if self.num_classes < 2:
      raise ValueError(f'num_classes must be at least 2, not {self.num_classes}')

  @property
  def uses_labels(self):
    return self.inner.uses_labels

  @property
  def uses_text(self):
    return self.inner.uses_text

  def crops(self):
    return self.inner.crops()

  def grafts(self):
    return tuple(path.replace('memory/', 'memory/inner/', 1) for path in self.inner.grafts())

  def pictures(self, params, memory, batch, rng):
    return self.inner.pictures(params, memory['inner'], batch, rng)

  def views(self, rng, batch):
    """{'inner': views, 'image': [B, H, W, 3], 'label': [B]}"""
    if 'label' not in batch:
      raise UserError('the online probe learns from labels, and the training data has none')
    image = batch['image'] if 'image' in batch else batch['crops'][:, 0]
    return {'inner': self.inner.views(rng, batch), 'image': image, 'label': batch['label']}

  def init(self, rng, views):
    params, inner = self.inner.init(rng, views['inner'])
    size = self.inner.features(params, inner, {'image': views['image']})['pooled'].shape[1]
    probe = {'kernel': jnp.zeros((size, self.num_classes)), 'bias': jnp.zeros(self.num_classes)}
    statistics = {'mean': jnp.zeros(size), 'var': jnp.ones(size)}
    return params, {'inner': inner, 'probe': probe, 'velocity': jax.tree.map(jnp.zeros_like, probe), 'statistics': statistics}

  def loss(self, params, memory, views, rng, step):
    loss, out = self.inner.loss(params, memory['inner'], views['inner'], rng, step)
    # ORDER MATTERS: cut before the features are computed; nothing below has a gradient.
    frozen = jax.lax.stop_gradient((params, memory['inner']))
    x = self.inner.features(*frozen, {'image': views['image']})['pooled']
    m = self.statistics_momentum
    batch_statistics = {'mean': x.mean(0), 'var': x.var(0)}
    statistics = jax.tree.map(lambda old, new: m * old + (1 - m) * new, memory['statistics'], batch_statistics)

    def probe_loss(probe):
      logits = _logits(probe, statistics, x)
      return optax.softmax_cross_entropy_with_integer_labels(logits, views['label']).mean(), logits

    (value, logits), grads = jax.value_and_grad(probe_loss, has_aux=True)(memory['probe'])
    velocity = jax.tree.map(lambda v, g: self.momentum * v + g, memory['velocity'], grads)
    probe = jax.tree.map(lambda w, v: w - self.learning_rate * v, memory['probe'], velocity)
    metrics = {'probe_loss': value, 'probe_accuracy': (logits.argmax(1) == views['label']).mean()}
    memory = {'inner': out.memory, 'probe': probe, 'velocity': velocity, 'statistics': statistics}
    return loss, Output(memory, {**out.metrics, **metrics})

  def after(self, params, memory, step):
    params, inner = self.inner.after(params, memory['inner'], step)
    return params, {**memory, 'inner': inner}

  def features(self, params, memory, batch):
    out = self.inner.features(params, memory['inner'], batch)
    return {**out, 'logits': _logits(memory['probe'], memory['statistics'], out['pooled'])}


def _logits(probe, statistics, x):
  """[N, C] for features [N, D]."""
  standard = (x - statistics['mean'][None]) * jax.lax.rsqrt(statistics['var'] + 1e-5)[None]
  return standard @ probe['kernel'] + probe['bias'][None]
