"""The pairwise losses before NT-Xent, over the same views: triplets (Schroff et al. 2015, https://arxiv.org/abs/1503.03832) and
the contrastive margin loss (Hadsell, Chopra & LeCun 2006). SimCLR compares them in its table 4.
"""

import dataclasses

import flax.linen as nn

from sslax.losses.metric import contrastive_margin, triplet
from sslax.losses.spread import embedding_std
from sslax.method import Method, Output
from sslax.models import branch
from sslax.ops.views import RandomViews, TwoViews

LOSSES = ('triplet', 'margin')


@dataclasses.dataclass(frozen=True)
class MetricLearning(Method):
  """Views of one image come closer than views of others by a margin, in squared distance of unit projections.

  `objective='triplet'` with mining 'semi_hard', 'hard' or 'all'; `objective='margin'` pulls pairs together and pushes all other
  rows out to a distance of `margin`.
  """

  encoder: nn.Module  # [N, H, W, 3] -> {'pooled': [N, D]}
  head: nn.Module  # [N, D] -> [N, K]
  augment: RandomViews | TwoViews
  objective: str = 'triplet'
  margin: float = 0.2  # 1.0 is usual for objective='margin'
  mining: str = 'semi_hard'
  microbatches: int = 1

  def __post_init__(self):
    if self.augment.count != 2:
      raise ValueError(f'pairs need two views: augment.count must be 2, not {self.augment.count}')
    if self.objective not in LOSSES or self.margin <= 0:
      raise ValueError(f'objective={self.objective!r} must be one of {", ".join(LOSSES)} and margin={self.margin} positive')

  @property
  def modules(self):
    return {'encoder': self.encoder, 'head': self.head}

  def crops(self):
    return self.augment.crops()

  def views(self, rng, batch):
    """[B, 2, S, S, 3]"""
    return self.augment(rng, batch)

  def init(self, rng, views):
    params, stats = branch.init(self.modules, rng, branch.rows(views))
    return params, {'stats': stats}

  def loss(self, params, memory, views, rng, step):
    del step
    out, stats = branch.apply(
      self.modules, params, memory['stats'], branch.rows(views), train=True, rng=rng, microbatches=self.microbatches
    )
    z = out['head'].reshape(len(views), 2, -1)
    z1, z2 = z[:, 0], z[:, 1]
    if self.objective == 'triplet':
      loss = triplet(z1, z2, self.margin, self.mining)
    else:
      loss = contrastive_margin(z1, z2, self.margin)
    return loss, Output({'stats': stats}, {'embedding_std': embedding_std(z1)})

  def features(self, params, memory, batch):
    return branch.features(self.modules, params, memory['stats'], self.augment.normalize(batch['image']))
