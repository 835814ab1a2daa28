"""MoCo v3. Chen, Xie & He 2021, https://arxiv.org/abs/2104.02057; official code: facebookresearch/moco-v3, moco/builder.py."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.inputs.image import Image
from sslax.losses.contrastive import info_nce
from sslax.losses.spread import embedding_std
from sslax.method import Output
from sslax.models import branch
from sslax.models.joint_embedding import JointEmbedding
from sslax.ops.schedules import Ramp, at
from sslax.ops.tree import ema
from sslax.ops.views import RandomViews, TwoViews

PyTree = Any


@dataclasses.dataclass(frozen=True)
class MoCoV3(JointEmbedding):
  """Predicted queries find the other view's key, by an averaged network, among the keys of the batch; both directions, no queue.

  L = 2 T (ctr(q1, k2) + ctr(q2, k1)), the factor as in the official code. The predictor has no average. For a ViT freeze the
  patch projection (`freeze_patch`), which stabilises training (section 4). The average's momentum rises with the step about to
  start, as in the official code, which moves it before the forward pass.
  """

  num_views: ClassVar[int] = 2

  encoder: nn.Module  # [N, H, W, 3] -> Features
  head: nn.Module  # projector, [N, D] -> [N, K]
  predictor: nn.Module  # [N, K] -> [N, K]
  augment: RandomViews | TwoViews
  temperature: float = 0.2  # 1.0 for ResNet-50
  momentum: float | Ramp = 0.99
  image: Image = Image()

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.temperature <= 0:
      raise ValueError(f'temperature must be positive, not {self.temperature}')

  @property
  def target_modules(self) -> dict[str, nn.Module]:
    return {'encoder': self.encoder, 'head': self.head}

  @property
  def modules(self) -> dict[str, nn.Module]:
    return {**self.target_modules, 'predictor': self.predictor}

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    params, stats = branch.init(self.modules, rng, views[:, 0])
    copy = lambda tree: {name: jax.tree.map(jnp.copy, tree[name]) for name in self.target_modules}
    return params, {'stats': stats, 'target': copy(params), 'target_stats': copy(stats)}

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    del step
    T = self.temperature
    options: dict[str, Any] = dict(train=True, rng=rng)
    (q1, q2), stats = branch.apply_each(self.modules, params, memory['stats'], views, **options)
    (k1, k2), target_stats = branch.apply_each(self.target_modules, memory['target'], memory['target_stats'], views, **options)
    loss = 2 * T * (info_nce(q1['predictor'], k2['head'], T) + info_nce(q2['predictor'], k1['head'], T))
    memory = {'stats': stats, 'target': memory['target'], 'target_stats': target_stats}
    return loss, Output(memory, {'embedding_std': embedding_std(q1['head'])})

  def after(self, params: PyTree, memory: PyTree, step: jax.Array) -> tuple[PyTree, PyTree]:
    online = {name: params[name] for name in memory['target']}
    return params, {**memory, 'target': ema(memory['target'], online, at(self.momentum, step + 1))}
