"""Training with labels: from scratch, fine-tuning (`config.graft` and `optim.layer_decay`), or a linear probe.

The baseline of every self-supervised method and the last step of most.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.errors import UserError
from sslax.method import Crop, Method, Output
from sslax.models import branch, net
from sslax.models.mlp import MLP, Identity
from sslax.ops.mix import mix
from sslax.ops.views import RandomViews


@dataclasses.dataclass(frozen=True)
class Supervised(Method):
  """Cross-entropy of the classifier's softmax with the label, smoothed and mixed where asked (timm's Mixup).

  Rows without a label (-1) have no loss, but batch normalisation sees them.

  `freeze_encoder` makes it a linear probe: no gradient reaches the encoder, and its statistics stay. Weight decay would still
  shrink its weights: set config.optim.freeze='^encoder/', which also saves their optimizer state.
  """

  uses_labels: ClassVar[bool] = True

  encoder: nn.Module  # [N, H, W, 3] -> {'pooled': [N, D]}
  classifier: MLP  # -> [N, C] logits
  augment: RandomViews  # one view of each image
  neck: nn.Module = Identity()  # between the two; SimCLR v2 fine-tunes from the first layer of the head
  label_smoothing: float = 0.0  # this much of the target is spread evenly over all C classes
  mixup: float = 0.0  # alpha; see ops/mix.py
  cutmix: float = 0.0  # alpha
  freeze_encoder: bool = False
  microbatches: int = 1  # of the encoder; see net.apply

  def __post_init__(self):
    if self.augment.count != 1:
      raise ValueError(f'one view of each image is classified: augment.count must be 1, not {self.augment.count}')
    if not 0 <= self.label_smoothing < 1:
      raise ValueError(f'label_smoothing must be in [0, 1), not {self.label_smoothing}')
    if self.mixup < 0 or self.cutmix < 0:
      raise ValueError(f'mixup={self.mixup} and cutmix={self.cutmix} must not be negative')

  @property
  def num_classes(self) -> int:
    return self.classifier.num_features

  @property
  def modules(self):
    neck = {} if isinstance(self.neck, Identity) else {'neck': self.neck}
    return {'encoder': self.encoder, **neck, 'classifier': self.classifier}

  def crops(self) -> tuple[Crop, ...]:
    return self.augment.crops()

  def views(self, rng, batch):
    """{'image': [B, 1, S, S, 3], 'label': [B]}"""
    if 'label' not in batch:
      raise UserError('supervised training needs labels, and config.data.train has none')
    return {'image': self.augment(rng, batch), 'label': batch['label']}

  def init(self, rng, views):
    params, stats = branch.init(self.modules, rng, branch.rows(views['image']))
    return params, {'stats': stats}

  def loss(self, params, memory, views, rng, step):
    del step
    mix_rng, rng = jax.random.split(rng)
    x, y = branch.rows(views['image']), self.targets(views['label'])
    if self.mixup or self.cutmix:
      x, y = mix(mix_rng, x, y, self.mixup, self.cutmix)
    logits, stats = self._logits(params, memory['stats'], x, rng)
    total = jnp.maximum(y.sum(), 1.0)  # the number of labelled rows
    loss = -jnp.sum(y * jax.nn.log_softmax(logits)) / total
    hits = y.sum(1) * (logits.argmax(1) == y.argmax(1))  # mixed: the larger part counts
    return loss, Output({'stats': stats}, {'accuracy': hits.sum() / total})

  def targets(self, label: jax.Array) -> jax.Array:
    """[B] -> [B, C] probabilities; 0 for rows without a label."""
    y = jax.nn.one_hot(label, self.num_classes)
    y = (1 - self.label_smoothing) * y + self.label_smoothing / self.num_classes
    return jnp.where(label[:, None] >= 0, y, 0.0)

  def _logits(self, params, stats, x, rng):
    """([N, C], stats) in training mode; a frozen encoder stays in evaluation mode."""
    options = {'rng': rng, 'microbatches': self.microbatches}
    if not self.freeze_encoder:
      out, stats = branch.apply(self.modules, params, stats, x, train=True, **options)
      return out['classifier'], stats
    out, _ = net.apply(self.encoder, params['encoder'], stats['encoder'], x, train=False, **options)
    rest = {name: module for name, module in self.modules.items() if name != 'encoder'}
    out, stats = branch.apply(rest, params, stats, jax.lax.stop_gradient(out['pooled']), train=True, rng=rng)
    return out['classifier'], stats

  def features(self, params, memory, batch):
    out, _ = branch.apply(self.modules, params, memory['stats'], self.augment.normalize(batch['image']), train=False)
    return {**out['encoder'], 'logits': out['classifier']}
