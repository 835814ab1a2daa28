"""VICReg. Bardes, Ponce & LeCun 2022, https://arxiv.org/abs/2105.04906; official code: facebookresearch/vicreg,
main_vicreg.py."""

import dataclasses

import flax.linen as nn

from sslax.losses.redundancy import vicreg_terms
from sslax.losses.spread import embedding_std
from sslax.method import Method, Output
from sslax.models import branch
from sslax.ops.views import RandomViews, TwoViews


@dataclasses.dataclass(frozen=True)
class VICReg(Method):
  """Views agree (invariance), every channel keeps a standard deviation of one (variance), no two say the same (covariance)."""

  encoder: nn.Module  # [N, H, W, 3] -> {'pooled': [N, D]}
  head: nn.Module  # expander, [N, D] -> [N, K]
  augment: RandomViews | TwoViews
  invariance: float = 25.0
  variance: float = 25.0
  covariance: float = 1.0
  microbatches: int = 1

  def __post_init__(self):
    if self.augment.count != 2:
      raise ValueError(f'VICReg compares two views: augment.count must be 2, not {self.augment.count}')

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
    terms = vicreg_terms(z1, z2)
    loss = sum(getattr(self, name) * term for name, term in terms.items())
    return loss, Output({'stats': stats}, {**terms, 'embedding_std': embedding_std(z1)})

  def features(self, params, memory, batch):
    return branch.features(self.modules, params, memory['stats'], self.augment.normalize(batch['image']))
