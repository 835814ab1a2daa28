"""BYOL. Grill et al. 2020, https://arxiv.org/abs/2006.07733; official code: google-deepmind/deepmind-research, byol/."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax

from sslax.inputs.image import Image
from sslax.losses.similarity import byol
from sslax.losses.spread import embedding_std
from sslax.method import Output
from sslax.models import branch
from sslax.models.joint_embedding import JointEmbedding
from sslax.ops.schedules import Ramp, at
from sslax.ops.tree import ema
from sslax.ops.views import RandomViews, TwoViews

PyTree = Any


@dataclasses.dataclass(frozen=True)
class BYOL(JointEmbedding):
  """The online network predicts what an average of itself makes of the other view; no negatives.

  L = byol(q(z1), z2') + byol(q(z2), z1'), as in the official code (the paper's algorithm 1 leaves out the constants). The target
  starts from another seed than the online network, uses its own batch statistics, and moves after the optimizer.
  """

  num_views: ClassVar[int] = 2

  encoder: nn.Module  # [N, H, W, 3] -> Features
  head: nn.Module  # projector, [N, D] -> [N, K]
  predictor: nn.Module  # [N, K] -> [N, K]
  augment: RandomViews | TwoViews
  momentum: float | Ramp = Ramp(0.996, 1.0)
  use_predictor: bool = True  # False collapses: table 5 b of the paper
  image: Image = Image()

  @property
  def target_modules(self) -> dict[str, nn.Module]:
    return {'encoder': self.encoder, 'head': self.head}

  @property
  def modules(self) -> dict[str, nn.Module]:
    return {**self.target_modules, **({'predictor': self.predictor} if self.use_predictor else {})}

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    online_rng, target_rng = jax.random.split(rng)
    params, stats = branch.init(self.modules, online_rng, views[:, 0])
    target, target_stats = branch.init(self.target_modules, target_rng, views[:, 0])
    return params, {'stats': stats, 'target': target, 'target_stats': target_stats}

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    del step
    options: dict[str, Any] = dict(train=True, rng=rng)
    outs, stats = branch.apply_each(self.modules, params, memory['stats'], views, **options)
    (t1, t2), target_stats = branch.apply_each(self.target_modules, memory['target'], memory['target_stats'], views, **options)
    p1, p2 = (out['predictor' if self.use_predictor else 'head'] for out in outs)
    loss = byol(p1, t2['head']) + byol(p2, t1['head'])
    memory = {'stats': stats, 'target': memory['target'], 'target_stats': target_stats}
    return loss, Output(memory, {'embedding_std': embedding_std(outs[0]['head'])})

  def after(self, params: PyTree, memory: PyTree, step: jax.Array) -> tuple[PyTree, PyTree]:
    online = {name: params[name] for name in memory['target']}
    return params, {**memory, 'target': ema(memory['target'], online, at(self.momentum, step))}
