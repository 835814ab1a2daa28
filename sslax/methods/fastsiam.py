"""FastSiam. Pototzky, Sultan & Schmidt-Thieme 2022, "FastSiam: Resource-Efficient Self-Supervised Learning on a Single GPU"
(GCPR); as lightly builds it.
"""

import dataclasses

import flax.linen as nn
import jax

from sslax.losses.similarity import negative_cosine
from sslax.losses.spread import embedding_rank, embedding_std
from sslax.method import Method, Output
from sslax.models import branch
from sslax.ops.views import RandomViews


@dataclasses.dataclass(frozen=True)
class FastSiam(Method):
  """SimSiam with a steadier target: each view predicts the mean of the other views' projections.

  L = mean over views i of D(p_i, sg mean over j != i of z_j), D the negative cosine. With two views it is SimSiam.
  """

  encoder: nn.Module  # [N, H, W, 3] -> {'pooled': [N, D]}
  head: nn.Module  # projector, [N, D] -> [N, K]
  predictor: nn.Module  # [N, K] -> [N, K]
  augment: RandomViews  # 4 views in the paper: 3 make a target
  microbatches: int = 1

  def __post_init__(self):
    if self.augment.count < 2:
      raise ValueError(f'FastSiam compares at least two views: augment.count is {self.augment.count}')

  @property
  def modules(self):
    return {'encoder': self.encoder, 'head': self.head, 'predictor': self.predictor}

  def crops(self):
    return self.augment.crops()

  def views(self, rng, batch):
    """[B, V, S, S, 3]"""
    return self.augment(rng, batch)

  def init(self, rng, views):
    params, stats = branch.init(self.modules, rng, views[:, 0])
    return params, {'stats': stats}

  def loss(self, params, memory, views, rng, step):
    del step
    outs, stats = branch.apply_each(
      self.modules, params, memory['stats'], views, train=True, rng=rng, microbatches=self.microbatches
    )
    z = jax.lax.stop_gradient([out['head'] for out in outs])
    total = sum(z)
    losses = [negative_cosine(out['predictor'], (total - z[i]) / (len(z) - 1)) for i, out in enumerate(outs)]
    metrics = {'embedding_std': embedding_std(z[0]), 'embedding_rank': embedding_rank(z[0])}
    return sum(losses) / len(losses), Output({'stats': stats}, metrics)

  def features(self, params, memory, batch):
    return branch.features(self.modules, params, memory['stats'], self.augment.normalize(batch['image']))
