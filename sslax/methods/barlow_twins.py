"""Barlow Twins. Zbontar et al. 2021, https://arxiv.org/abs/2103.03230; official code: facebookresearch/barlowtwins, main.py."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax

from sslax.inputs.image import Image
from sslax.losses.redundancy import barlow_twins
from sslax.losses.spread import embedding_std
from sslax.method import Output
from sslax.models.joint_embedding import JointEmbedding
from sslax.ops.views import RandomViews, TwoViews

PyTree = Any


@dataclasses.dataclass(frozen=True)
class BarlowTwins(JointEmbedding):
  """The cross-correlation of the two views' standardised projections becomes the identity."""

  num_views: ClassVar[int] = 2

  encoder: nn.Module  # [N, H, W, 3] -> Features
  head: nn.Module  # [N, D] -> [N, K]; standardised in the loss
  augment: RandomViews | TwoViews
  off_diagonal_weight: float = 0.0051  # lambda
  loss_scale: float = 1.0  # solo-learn: 0.1 on CIFAR
  image: Image = Image()

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    del step
    outs, stats = self.encode_each(params, memory['stats'], views, rng)
    z1, z2 = (out['head'] for out in outs)
    loss = self.loss_scale * barlow_twins(z1, z2, self.off_diagonal_weight)
    return loss, Output({'stats': stats}, {'embedding_std': embedding_std(z1)})
