"""FastSiam. Pototzky, Sultan & Schmidt-Thieme 2022, "FastSiam: Resource-Efficient Self-Supervised Learning on a Single GPU"
(GCPR); as lightly builds it.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.inputs.image import Image
from sslax.losses.similarity import negative_cosine
from sslax.losses.spread import embedding_rank, embedding_std
from sslax.method import Output
from sslax.models.joint_embedding import JointEmbedding
from sslax.ops.views import RandomViews

PyTree = Any


@dataclasses.dataclass(frozen=True)
class FastSiam(JointEmbedding):
  """SimSiam with a steadier target: each view predicts the mean of the other views' projections.

  L = mean over views i of D(p_i, sg mean over j != i of z_j), D the negative cosine. With two views it is SimSiam.
  """

  encoder: nn.Module  # [N, H, W, 3] -> Features
  head: nn.Module  # projector, [N, D] -> [N, K]
  predictor: nn.Module  # [N, K] -> [N, K]
  augment: RandomViews  # 4 views in the paper: 3 make a target
  image: Image = Image()

  def __post_init__(self) -> None:
    if self.augment.count < 2:
      raise ValueError(f'FastSiam compares at least two views: augment.count is {self.augment.count}')

  @property
  def modules(self) -> dict[str, nn.Module]:
    return {'encoder': self.encoder, 'head': self.head, 'predictor': self.predictor}

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    del step
    outs, stats = self.encode_each(params, memory['stats'], views, rng)
    z = jax.lax.stop_gradient([out['head'] for out in outs])
    total = sum(z)
    losses = [negative_cosine(out['predictor'], (total - z[i]) / (len(z) - 1)) for i, out in enumerate(outs)]
    metrics = {'embedding_std': embedding_std(z[0]), 'embedding_rank': embedding_rank(z[0])}
    return sum(losses, start=jnp.float32(0)) / len(losses), Output({'stats': stats}, metrics)
