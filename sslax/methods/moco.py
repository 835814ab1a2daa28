"""MoCo v1 and v2. He et al. 2020, https://arxiv.org/abs/1911.05722; Chen et al. 2020, https://arxiv.org/abs/2003.04297.

Official code: facebookresearch/moco, moco/builder.py.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.inputs.image import Image
from sslax.losses.contrastive import info_nce_queue
from sslax.losses.spread import embedding_std
from sslax.method import Output
from sslax.models import branch
from sslax.models.joint_embedding import JointEmbedding
from sslax.models.norm import strided
from sslax.ops.normalize import l2_normalize
from sslax.ops.ring import enqueue, random_units
from sslax.ops.schedules import Ramp, at
from sslax.ops.tree import ema
from sslax.ops.views import RandomViews, TwoViews

PyTree = Any


@dataclasses.dataclass(frozen=True)
class MoCo(JointEmbedding):
  """A query finds its key, made by a slowly moving average of the network, among a queue of keys of past batches.

  ShuffleBN: where the encoder has `norm_groups` > 1, queries are normalised in contiguous groups of rows (what each GPU of the
  official code sees) and keys in strided ones, so that no key shares its statistics with its query. The images stay where they
  are. With norm_groups=1 statistics are those of the whole batch, which leak as in any synchronised BatchNorm.

  The average moves after the update, which is where the official code's next step moves it before its forward pass. Keys enter
  the queue after the loss. `symmetric` (MoCo v2+ of SimSiam's appendix C and of lightly): each view is query and key, the loss
  is the mean of both directions against the same queue, which takes the keys of both views (lightly's second direction sees the
  keys of the first already).
  """

  num_views: ClassVar[int] = 2

  encoder: nn.Module  # [N, H, W, 3] -> Features
  head: nn.Module  # [N, D] -> [N, K], with `num_features`
  augment: RandomViews | TwoViews  # two views: query and key
  queue_size: int = 65536  # keys; a multiple of the batch (of two batches if symmetric)
  temperature: float = 0.2  # 0.07 in v1
  momentum: float | Ramp = 0.999
  symmetric: bool = False
  image: Image = Image()

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.temperature <= 0 or self.queue_size < 1:
      raise ValueError(f'temperature={self.temperature} and queue_size={self.queue_size} must be positive')

  @property
  def key_modules(self) -> dict[str, nn.Module]:
    return {name: strided(module) for name, module in self.modules.items()}

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    network_rng, queue_rng = jax.random.split(rng)
    params, stats = branch.init(self.modules, network_rng, views[:, 0])
    copy = lambda tree: jax.tree.map(jnp.copy, tree)
    return params, {
      'stats': stats,
      'target': copy(params),
      'target_stats': copy(stats),
      'queue': random_units(queue_rng, self.queue_size, self.head.num_features),
      'pointer': jnp.zeros((), jnp.int32),
    }

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    del step
    stats, target_stats, queue = memory['stats'], memory['target_stats'], memory['queue']
    losses, keys = [], []
    for query, key in ((0, 1), (1, 0)) if self.symmetric else ((0, 1),):
      q, stats = branch.apply(self.modules, params, stats, views[:, query], train=True, rng=rng)
      k, target_stats = branch.apply(self.key_modules, memory['target'], target_stats, views[:, key], train=True, rng=rng)
      keys.append(jax.lax.stop_gradient(l2_normalize(k['head'])))
      losses.append(info_nce_queue(q['head'], keys[-1], queue, self.temperature))
    pointer = memory['pointer']
    for rows in keys:  # ORDER MATTERS: the loss saw the queue as it was
      queue, pointer = enqueue(queue, pointer, rows)
    memory = {'stats': stats, 'target': memory['target'], 'target_stats': target_stats, 'queue': queue, 'pointer': pointer}
    return sum(losses, start=jnp.float32(0)) / len(losses), Output(memory, {'embedding_std': embedding_std(q['head'])})

  def after(self, params: PyTree, memory: PyTree, step: jax.Array) -> tuple[PyTree, PyTree]:
    return params, {**memory, 'target': ema(memory['target'], params, at(self.momentum, step))}
