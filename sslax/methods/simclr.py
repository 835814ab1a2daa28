"""SimCLR v1. Chen et al. 2020, https://arxiv.org/abs/2002.05709; official code: google-research/simclr."""

import dataclasses

import flax.linen as nn
import jax

from sslax.losses.contrastive import contrastive_accuracy, nt_xent
from sslax.method import Crop, Method, Output
from sslax.models import net
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
    return (self.augment.crop(),)

  def views(self, rng, batch):
    """[B, 2, S, S, 3]"""
    return self.augment(rng, batch)

  def init(self, rng, views):
    encoder_rng, head_rng = jax.random.split(rng)
    encoder, encoder_stats = net.init(self.encoder, encoder_rng, _rows(views))
    pooled, _ = net.apply(self.encoder, encoder, encoder_stats, _rows(views), train=False)
    head, head_stats = net.init(self.head, head_rng, pooled['pooled'])
    return {'encoder': encoder, 'head': head}, {'encoder_stats': encoder_stats, 'head_stats': head_stats}

  def loss(self, params, memory, views, rng, step):
    del step
    h, encoder_stats = net.apply(
      self.encoder, params['encoder'], memory['encoder_stats'], _rows(views), train=True, rng=rng, microbatches=self.microbatches
    )
    z, head_stats = net.apply(self.head, params['head'], memory['head_stats'], h['pooled'], train=True)
    z = z.reshape(len(views), 2, -1)
    loss = nt_xent(z[:, 0], z[:, 1], self.temperature)
    metrics = {'contrastive_accuracy': contrastive_accuracy(z[:, 0], z[:, 1])}
    return loss, Output({'encoder_stats': encoder_stats, 'head_stats': head_stats}, metrics)

  def features(self, params, memory, batch):
    image = self.augment.normalize(batch['image'])
    out, _ = net.apply(self.encoder, params['encoder'], memory['encoder_stats'], image, train=False)
    return out


def _rows(views):
  """[B, V, H, W, C] -> [B*V, H, W, C], interleaved: no row leaves its chip, and the positive of row i is i ^ 1."""
  return views.reshape(-1, *views.shape[2:])
