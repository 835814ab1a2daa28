"""The pairwise losses before NT-Xent, over the same views: triplets (Schroff et al. 2015, https://arxiv.org/abs/1503.03832) and
the contrastive margin loss (Hadsell, Chopra & LeCun 2006). SimCLR compares them in its table 4.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax

from sslax.inputs.image import Image
from sslax.losses.metric import contrastive_margin, triplet
from sslax.losses.spread import embedding_std
from sslax.method import Output
from sslax.models.joint_embedding import JointEmbedding
from sslax.ops.views import RandomViews, TwoViews

PyTree = Any
LOSSES = ('triplet', 'margin')


@dataclasses.dataclass(frozen=True)
class MetricLearning(JointEmbedding):
  """Views of one image come closer than views of others by a margin, in squared distance of unit projections.

  `objective='triplet'` with mining 'semi_hard', 'hard' or 'all'; `objective='margin'` pulls pairs together and pushes all other
  rows out to a distance of `margin`.
  """

  num_views: ClassVar[int] = 2

  encoder: nn.Module  # [N, H, W, 3] -> Features
  head: nn.Module  # [N, D] -> [N, K]
  augment: RandomViews | TwoViews
  objective: str = 'triplet'
  margin: float = 0.2  # 1.0 is usual for objective='margin'
  mining: str = 'semi_hard'
  image: Image = Image()

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.objective not in LOSSES or self.margin <= 0:
      raise ValueError(f'objective={self.objective!r} must be one of {", ".join(LOSSES)} and margin={self.margin} positive')

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    del step
    out, stats = self.encode(params, memory['stats'], views, rng)
    z = out['head'].reshape(len(views), 2, -1)
    z1, z2 = z[:, 0], z[:, 1]
    if self.objective == 'triplet':
      loss = triplet(z1, z2, self.margin, self.mining)
    else:
      loss = contrastive_margin(z1, z2, self.margin)
    return loss, Output({'stats': stats}, {'embedding_std': embedding_std(z1)})
