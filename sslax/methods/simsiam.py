"""SimSiam. Chen & He 2021, https://arxiv.org/abs/2011.10566; official code: facebookresearch/simsiam, simsiam/builder.py."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax

from sslax.inputs.image import Image
from sslax.losses.similarity import negative_cosine
from sslax.losses.spread import embedding_rank, embedding_std
from sslax.method import Output
from sslax.models.joint_embedding import JointEmbedding
from sslax.ops.views import RandomViews, TwoViews

PyTree = Any


@dataclasses.dataclass(frozen=True)
class SimSiam(JointEmbedding):
  """Each view predicts the other through the same network, and only the predicting side gets a gradient.

  L = (D(p1, sg z2) + D(p2, sg z1)) / 2 with D the negative cosine; -1 is its minimum. The official optimizer keeps the
  predictor's learning rate constant: Optimizer(constant='^predictor/').
  """

  num_views: ClassVar[int] = 2

  encoder: nn.Module  # [N, H, W, 3] -> Features
  head: nn.Module  # projector, [N, D] -> [N, K]
  predictor: nn.Module  # [N, K] -> [N, K]
  augment: RandomViews | TwoViews
  use_predictor: bool = True  # False collapses: table 2 of the paper
  stop_gradient: bool = True  # False collapses: figure 2 of the paper
  image: Image = Image()

  @property
  def modules(self) -> dict[str, nn.Module]:
    modules = {'encoder': self.encoder, 'head': self.head}
    return {**modules, 'predictor': self.predictor} if self.use_predictor else modules

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    del step
    outs, stats = self.encode_each(params, memory['stats'], views, rng)
    p1, p2 = (out['predictor' if self.use_predictor else 'head'] for out in outs)
    z1, z2 = (out['head'] for out in outs)
    if self.stop_gradient:
      z1, z2 = jax.lax.stop_gradient((z1, z2))
    loss = (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2
    return loss, Output({'stats': stats}, {'embedding_std': embedding_std(z1), 'embedding_rank': embedding_rank(z1)})
