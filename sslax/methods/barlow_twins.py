"""Barlow Twins. Zbontar et al. 2021, https://arxiv.org/abs/2103.03230; official code: facebookresearch/barlowtwins, main.py."""

import dataclasses

import flax.linen as nn

from sslax.losses.redundancy import barlow_twins
from sslax.losses.spread import embedding_std
from sslax.method import Method, Output
from sslax.models import branch
from sslax.ops.views import RandomViews, TwoViews


@dataclasses.dataclass(frozen=True)
class BarlowTwins(Method):
  """The cross-correlation of the two views' standardised projections becomes the identity."""

  encoder: nn.Module  # [N, H, W, 3] -> {'pooled': [N, D]}
  head: nn.Module  # [N, D] -> [N, K]; standardised in the loss
  augment: RandomViews | TwoViews
  off_diagonal_weight: float = 0.0051  # lambda
  loss_scale: float = 1.0  # solo-learn: 0.1 on CIFAR
  microbatches: int = 1

  def __post_init__(self):
    if self.augment.count != 2:
      raise ValueError(f'Barlow Twins compares two views: augment.count must be 2, not {self.augment.count}')

  @property
  def modules(self):
    return {'encoder': self.encoder, 'head': self.head}

  def crops(self):
    return self.augment.crops()

  def views(self, rng, batch):
    """[B, 2, S, S, 3]"""
    return self.augment(rng, batch)

  def init(self, rng, views):
    params, stats = branch.init(self.modules, rng, views[:, 0])
    return params, {'stats': stats}

  def loss(self, params, memory, views, rng, step):
    del step
    outs, stats = branch.apply_each(
      self.modules, params, memory['stats'], views, train=True, rng=rng, microbatches=self.microbatches
    )
    z1, z2 = (out['head'] for out in outs)
    loss = self.loss_scale * barlow_twins(z1, z2, self.off_diagonal_weight)
    return loss, Output({'stats': stats}, {'embedding_std': embedding_std(z1)})

  def features(self, params, memory, batch):
    return branch.features(self.modules, params, memory['stats'], self.augment.normalize(batch['image']))
