"""Prototypes: the last, linear layer of SwAV and DINO, on unit rows."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.models.mlp import initializers
from sslax.ops.normalize import l2_normalize


class Assigned(NamedTuple):
  """Rows and what they have in common with each prototype."""

  unit: jax.Array  # [N, D] rows of length 1
  scores: jax.Array  # [N, K]


class Prototypes(nn.Module):
  """[N, D] -> Assigned: unit rows, and their products with the prototypes; float32.

  Args:
    count: prototypes, K.
    weight_norm: each prototype is divided by its length in the forward pass (DINO: torch's weight_norm), so the products are
      cosines. False: as they are; SwAV brings them to unit length after each step instead.
    learn_scale: with `weight_norm`, a learnt length for each, from 1 (DINO's norm_last_layer=False).
    kernel_init: see `mlp.initializers`.
  """

  count: int
  weight_norm: bool = False
  learn_scale: bool = False
  kernel_init: str = 'torch'

  def __post_init__(self) -> None:
    initializers(self.kernel_init, 1)
    if self.count < 2:
      raise ValueError(f'count={self.count}: at least 2 prototypes')
    if self.learn_scale and not self.weight_norm:
      raise ValueError('learn_scale needs weight_norm')
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> Assigned:
    del train
    z = l2_normalize(x)
    kernel = self.param('kernel', initializers(self.kernel_init, x.shape[-1])[0], (x.shape[-1], self.count))
    if self.weight_norm:
      kernel = kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True)
    scores = z @ kernel
    if self.learn_scale:
      scores = scores * self.param('scale', nn.initializers.ones, (self.count,))[None]
    return Assigned(z, scores)
