"""NNCLR. Dwibedi et al. 2021, https://arxiv.org/abs/2104.14548. No official code: the paper, and solo-learn where it is
silent."""

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
from sslax.ops.normalize import l2_normalize
from sslax.ops.ring import enqueue, random_units
from sslax.ops.views import RandomViews, TwoViews

PyTree = Any


@dataclasses.dataclass(frozen=True)
class NNCLR(JointEmbedding):
  """SimCLR whose positive is the nearest neighbour of the other view among projections of past batches.

  L = (ctr(nn(z1), p2) + ctr(nn(z2), p1)) / 2 (equation 4, both directions): the neighbour has to pick its prediction among those
  of the batch. The queue takes the projections of the first view.
  """

  num_views: ClassVar[int] = 2

  encoder: nn.Module  # [N, H, W, 3] -> Features
  head: nn.Module  # projector, [N, D] -> [N, K], with `num_features`
  predictor: nn.Module  # [N, K] -> [N, K]
  augment: RandomViews | TwoViews
  queue_size: int = 98304  # a multiple of the batch
  temperature: float = 0.1
  image: Image = Image()

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.temperature <= 0 or self.queue_size < 1:
      raise ValueError(f'temperature={self.temperature} and queue_size={self.queue_size} must be positive')

  @property
  def modules(self) -> dict[str, nn.Module]:
    return {'encoder': self.encoder, 'head': self.head, 'predictor': self.predictor}

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    network_rng, queue_rng = jax.random.split(rng)
    params, stats = branch.init(self.modules, network_rng, views[:, 0])
    queue = random_units(queue_rng, self.queue_size, self.head.num_features)
    return params, {'stats': stats, 'queue': queue, 'pointer': jnp.zeros((), jnp.int32)}

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    del step
    outs, stats = self.encode_each(params, memory['stats'], views, rng)
    z1, z2 = (jax.lax.stop_gradient(l2_normalize(out['head'])) for out in outs)
    p1, p2 = (out['predictor'] for out in outs)
    nearest = lambda z: memory['queue'][jnp.argmax(z @ memory['queue'].T, axis=1)]
    loss = (info_nce(nearest(z1), p2, self.temperature) + info_nce(nearest(z2), p1, self.temperature)) / 2
    queue, pointer = enqueue(memory['queue'], memory['pointer'], z1)
    return loss, Output({'stats': stats, 'queue': queue, 'pointer': pointer}, {'embedding_std': embedding_std(z1)})
