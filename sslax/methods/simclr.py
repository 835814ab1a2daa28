"""SimCLR v1. Chen et al. 2020, https://arxiv.org/abs/2002.05709; official code: google-research/simclr."""

import dataclasses

import flax.linen as nn

from sslax.losses.contrastive import contrastive_accuracy, nt_xent
from sslax.losses.spread import embedding_std
from sslax.method import Crop, Method, Output
from sslax.models import branch
from sslax.ops.views import RandomViews


@dataclasses.dataclass(frozen=True)
class SimCLR(Method):
  """Two views of each image attract each other and repel all other views of the batch (NT-Xent).

  Both views pass through the network together, as in the official code: BatchNorm sees all 2B rows. The loss is the paper's
  mean over the 2B anchors (the official code returns twice that; with LARS the scale of the loss has no effect on the adapted
  layers).
  """

  encoder: nn.Module  # [N, H, W, 3] -> {'pooled': [N, D]}
  head: nn.Module  # [N, D] -> [N, K]; thrown away after pre-training
  augment: RandomViews  # both views come from the same distribution
  temperature: float = 0.1
  microbatches: int = 1  # of the encoder; see net.apply

  def __post_init__(self):
    if self.temperature <= 0:
      raise ValueError(f'temperature must be positive, not {self.temperature}')
    if self.augment.count != 2:
      raise ValueError(f'NT-Xent compares two views: augment.count must be 2, not {self.augment.count}')

  def crops(self) -> tuple[Crop, ...]:
    return self.augment.crops()

  def views(self, rng, batch):
    """[B, 2, S, S, 3]"""
    return self.augment(rng, batch)

  @property
  def modules(self):
    return {'encoder': self.encoder, 'head': self.head}

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
    metrics = {'contrastive_accuracy': contrastive_accuracy(z1, z2), 'embedding_std': embedding_std(z1)}
    return nt_xent(z1, z2, self.temperature), Output({'stats': stats}, metrics)

  def features(self, params, memory, batch):
    return branch.features(self.modules, params, memory['stats'], self.augment.normalize(batch['image']))
