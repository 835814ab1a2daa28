"""Supervised contrastive learning. Khosla et al. 2020, https://arxiv.org/abs/2004.11362; official code:
HobbitLong/SupContrast."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.errors import UserError
from sslax.inputs.image import Image
from sslax.losses.contrastive import supcon
from sslax.losses.spread import embedding_std
from sslax.method import Batch, Output
from sslax.models.joint_embedding import JointEmbedding
from sslax.ops.views import RandomViews, TwoViews

PyTree = Any


@dataclasses.dataclass(frozen=True)
class SupCon(JointEmbedding):
  """All views of images with the same label attract each other. The one method here that learns from labels.

  The loss is equation 2 (L_out) as the paper writes it, without the official code's constant factor temperature / 0.07: there a
  learning rate means another step size. `variant='in'` is equation 3.
  """

  uses_labels: ClassVar[bool] = True

  encoder: nn.Module  # [N, H, W, 3] -> Features
  head: nn.Module  # [N, D] -> [N, K]
  augment: RandomViews | TwoViews
  temperature: float = 0.1
  variant: str = 'out'
  image: Image = Image()

  def __post_init__(self) -> None:
    if self.temperature <= 0:
      raise ValueError(f'temperature must be positive, not {self.temperature}')
    if self.variant not in ('out', 'in'):
      raise ValueError(f"variant={self.variant!r} is neither 'out' nor 'in'")

  def views(self, rng: jax.Array, batch: Batch) -> PyTree:
    """{'views': [B, V, S, S, 3], 'label': [B]}"""
    if 'label' not in batch:
      raise UserError('SupCon learns from labels, and the training data has none')
    return {'views': self.augment(rng, batch), 'label': batch['label']}

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    return super().init(rng, views['views'])

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    del step
    out, stats = self.encode(params, memory['stats'], views['views'], rng)
    z, label = out['head'], jnp.repeat(views['label'], views['views'].shape[1])  # interleaved, like the rows
    loss = supcon(z, label, self.temperature, self.variant)
    return loss, Output({'stats': stats}, {'embedding_std': embedding_std(z)})
