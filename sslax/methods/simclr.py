"""SimCLR v1. Chen et al. 2020, https://arxiv.org/abs/2002.05709; official code: google-research/simclr."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax

from sslax.inputs.image import Image
from sslax.losses.contrastive import contrastive_accuracy, nt_xent
from sslax.losses.spread import embedding_std
from sslax.method import Output
from sslax.models.joint_embedding import JointEmbedding
from sslax.ops.views import RandomViews

PyTree = Any


@dataclasses.dataclass(frozen=True)
class SimCLR(JointEmbedding):
  """Two views of each image attract each other and repel all other views of the batch (NT-Xent).

  Both views pass through the network together, as in the official code: BatchNorm sees all 2B rows. The loss is the paper's
  mean over the 2B anchors (the official code returns twice that; with LARS the scale of the loss has no effect on the adapted
  layers).
  """

  num_views: ClassVar[int] = 2

  encoder: nn.Module  # [N, H, W, 3] -> Features
  head: nn.Module  # [N, D] -> [N, K]; thrown away after pre-training
  augment: RandomViews  # both views come from the same distribution
  temperature: float = 0.1
  image: Image = Image()

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.temperature <= 0:
      raise ValueError(f'temperature must be positive, not {self.temperature}')

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    del step
    out, stats = self.encode(params, memory['stats'], views, rng)
    z = out['head'].reshape(len(views), 2, -1)
    z1, z2 = z[:, 0], z[:, 1]
    metrics = {'contrastive_accuracy': contrastive_accuracy(z1, z2), 'embedding_std': embedding_std(z1)}
    return nt_xent(z1, z2, self.temperature), Output({'stats': stats}, metrics)
