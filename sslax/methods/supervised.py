"""Training with labels: from scratch, fine-tuning (`config.graft` and `optim.layer_decay`), or a linear probe.

The baseline of every self-supervised method and the last step of most.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.errors import UserError
from sslax.inputs.image import Image
from sslax.method import Batch, Features, Output
from sslax.models import branch, net
from sslax.models.joint_embedding import JointEmbedding
from sslax.models.mlp import MLP, Identity
from sslax.ops.mix import mix
from sslax.ops.views import RandomViews

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Supervised(JointEmbedding):
  """Cross-entropy of the classifier's softmax with the label, smoothed and mixed where asked (timm's Mixup).

  Rows without a label (-1) have no loss, but batch normalisation sees them.

  `freeze_encoder` makes it a linear probe: no gradient reaches the encoder, and its statistics stay. Weight decay would still
  shrink its weights: set config.optim.freeze='^encoder/', which also saves their optimizer state.
  """

  uses_labels: ClassVar[bool] = True
  num_views: ClassVar[int] = 1

  encoder: nn.Module  # [N, H, W, 3] -> Features
  classifier: MLP  # -> [N, C] logits
  augment: RandomViews  # one view of each image
  neck: nn.Module = Identity()  # between the two; SimCLR v2 fine-tunes from the first layer of the head
  label_smoothing: float = 0.0  # this much of the target is spread evenly over all C classes
  mixup: float = 0.0  # alpha; see ops/mix.py
  cutmix: float = 0.0  # alpha
  freeze_encoder: bool = False
  image: Image = Image()

  def __post_init__(self) -> None:
    super().__post_init__()
    if not 0 <= self.label_smoothing < 1:
      raise ValueError(f'label_smoothing must be in [0, 1), not {self.label_smoothing}')
    if self.mixup < 0 or self.cutmix < 0:
      raise ValueError(f'mixup={self.mixup} and cutmix={self.cutmix} must not be negative')

  @property
  def label_classes(self) -> int:
    return self.classifier.num_features

  @property
  def modules(self) -> dict[str, nn.Module]:
    neck = {} if isinstance(self.neck, Identity) else {'neck': self.neck}
    return {'encoder': self.encoder, **neck, 'classifier': self.classifier}

  def views(self, rng: jax.Array, batch: Batch) -> PyTree:
    """{'image': [B, 1, S, S, 3], 'label': [B]}"""
    if 'label' not in batch:
      raise UserError('supervised training needs labels, and config.data.train has none')
    return {'image': self.augment(rng, batch), 'label': batch['label']}

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    return super().init(rng, views['image'])

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    del step
    mix_rng, rng = jax.random.split(rng)
    x, y = branch.flatten_views(views['image']), self.targets(views['label'])
    if self.mixup or self.cutmix:
      x, y = mix(mix_rng, x, y, self.mixup, self.cutmix)
    logits, stats = self._logits(params, memory['stats'], x, rng)
    total = jnp.maximum(y.sum(), 1.0)  # the number of labelled rows
    loss = -jnp.sum(y * jax.nn.log_softmax(logits)) / total
    hits = y.sum(1) * (logits.argmax(1) == y.argmax(1))  # mixed: the larger part counts
    return loss, Output({'stats': stats}, {'accuracy': hits.sum() / total})

  def targets(self, label: jax.Array) -> jax.Array:
    """[B] -> [B, C] probabilities; 0 for rows without a label."""
    y = jax.nn.one_hot(label, self.label_classes)
    y = (1 - self.label_smoothing) * y + self.label_smoothing / self.label_classes
    return jnp.where(label[:, None] >= 0, y, 0.0)

  def _logits(self, params, stats, x, rng):
    """([N, C], stats) in training mode; a frozen encoder stays in evaluation mode."""
    if not self.freeze_encoder:
      out, stats = branch.apply(self.modules, params, stats, x, train=True, rng=rng)
      return out['classifier'], stats
    out, _ = net.apply(self.encoder, params['encoder'], stats['encoder'], x, train=False, rng=rng)
    rest = {name: module for name, module in self.modules.items() if name != 'encoder'}
    out, stats = branch.apply(rest, params, stats, jax.lax.stop_gradient(out.pooled), train=True, rng=rng, whole=True)
    return out['classifier'], stats

  def features(self, params: PyTree, memory: PyTree, batch: Batch) -> Features:
    out, _ = branch.apply(self.modules, params, memory['stats'], self.normalized(batch), train=False)
    return dataclasses.replace(out['encoder'], logits=out['classifier'])
