"""VICReg. Bardes, Ponce & LeCun 2022, https://arxiv.org/abs/2105.04906; official code: facebookresearch/vicreg,
main_vicreg.py."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.inputs.image import Image
from sslax.losses.redundancy import vicreg_terms
from sslax.losses.spread import embedding_std
from sslax.method import Output
from sslax.models.joint_embedding import JointEmbedding
from sslax.ops.views import RandomViews, TwoViews

PyTree = Any


@dataclasses.dataclass(frozen=True)
class VICReg(JointEmbedding):
  """Views agree (invariance), every channel keeps a standard deviation of one (variance), no two say the same (covariance)."""

  num_views: ClassVar[int] = 2

  encoder: nn.Module  # [N, H, W, 3] -> Features
  head: nn.Module  # expander, [N, D] -> [N, K]
  augment: RandomViews | TwoViews
  invariance: float = 25.0
  variance: float = 25.0
  covariance: float = 1.0
  image: Image = Image()

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    del step
    outs, stats = self.encode_each(params, memory['stats'], views, rng)
    z1, z2 = (out['head'] for out in outs)
    terms = vicreg_terms(z1, z2)
    weights = {'invariance': self.invariance, 'variance': self.variance, 'covariance': self.covariance}
    loss = sum((weights[name] * term for name, term in terms.items()), start=jnp.float32(0))
    return loss, Output({'stats': stats}, {**terms, 'embedding_std': embedding_std(z1)})
