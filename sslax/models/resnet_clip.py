"""CLIP's modified ResNet (Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.4; openai/CLIP, model.py)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.method import Features
from sslax.models.mlp import initializers
from sslax.models.norm import BatchNorm, one_of
from sslax.models.resnet import conv


class ModifiedResNet(nn.Module):
  """Images [B, H, W, C] -> Features, 'pooled' [B, embed] and 'tokens' [B, h, w, 32 base], float32.

  Three 3x3 convolutions and an average pool instead of the 7x7 and the max pool; average pools before convolutions of stride 1
  instead of strides; attention instead of the mean over places, which ends in the joint space: no head follows. Convolutions are
  drawn as in ResNet (the official code leaves PyTorch's default).

  Args:
    stages: bottleneck blocks in each stage: RN50 (3, 4, 6, 3), RN101 (3, 4, 23, 3), RN50x4 (4, 6, 10, 6), RN50x16 (6, 8, 18, 8),
      RN50x64 (3, 15, 36, 10).
    base: filters of the first stage: 64, 64, 80, 96, 128.
    embed: dimensions of the result: 1024, 512, 640, 768, 1024.
    heads: of the attention; 0 = base / 2, the official code's (64 channels each).
    zero_init_residual: the last gamma of each block starts at 0.
    dtype: of the computation, 'float32' or 'bfloat16'; statistics and parameters stay float32.
  """

  stages: tuple[int, ...] = (3, 4, 6, 3)
  base: int = 64
  embed: int = 1024
  heads: int = 0
  zero_init_residual: bool = True
  dtype: str = 'float32'

  def __post_init__(self) -> None:
    one_of('dtype', self.dtype, ('float32', 'bfloat16'))
    if self.base < 2 or self.base % 2 or self.embed < 1 or not self.stages or any(n < 1 for n in self.stages):
      raise ValueError(f'base={self.base}, embed={self.embed}, stages={self.stages} must be positive, base even')
    if self.heads < 0 or self.channels % (self.heads or self.base // 2):
      raise ValueError(f'heads={self.heads} do not divide the {self.channels} channels of the last stage')
    super().__post_init__()

  @property
  def channels(self) -> int:
    """Of the last stage."""
    return 4 * self.base * 2 ** (len(self.stages) - 1)

  @property
  def num_features(self) -> int:
    return self.embed

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> Features:
    x = x.astype(self.dtype)
    for i, filters in enumerate((self.base // 2, self.base // 2, self.base), 1):
      x = conv(filters, 3, 2 if i == 1 else 1, self.dtype, f'conv{i}')(x)
      x = jax.nn.relu(BatchNorm(dtype=self.dtype, name=f'bn{i}')(x, train))
    x = _average(x, 2)
    for s, blocks in enumerate(self.stages):
      for b in range(blocks):
        x = Bottleneck(
          self.base * 2**s, 2 if s > 0 and b == 0 else 1, self.zero_init_residual, self.dtype, name=f'layer{s + 1}_{b}'
        )(x, train)
    stride = 2 ** (len(self.stages) + 1)  # of the stem 4
    pooled = AttentionPool(self.embed, self.heads or self.base // 2, self.dtype, name='attnpool')(x)
    return Features(pooled=pooled.astype(jnp.float32), tokens=x.astype(jnp.float32), stride=(stride, stride))


class Bottleneck(nn.Module):
  """A residual block without strided convolutions: [B, H, W, C] -> [B, H/stride, W/stride, 4 filters]."""

  filters: int
  stride: int
  zero_init: bool
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    y = x
    for i, (filters, kernel) in enumerate(((self.filters, 1), (self.filters, 3), (4 * self.filters, 1)), 1):
      y = conv(filters, kernel, 1, self.dtype, f'conv{i}')(y)
      y = BatchNorm(scale_init=0.0 if i == 3 and self.zero_init else 1.0, dtype=self.dtype, name=f'bn{i}')(y, train)
      y = y if i == 3 else jax.nn.relu(y)
      y = _average(y, self.stride) if i == 2 else y
    if x.shape != y.shape:
      x = conv(4 * self.filters, 1, 1, self.dtype, 'downsample_conv')(_average(x, self.stride))
      x = BatchNorm(dtype=self.dtype, name='downsample_bn')(x, train)
    return jax.nn.relu(x + y)


class AttentionPool(nn.Module):
  """One attention over all places with their mean as the query: [B, h, w, C] -> [B, embed].

  Positions N(0, 1 / C) are added to the mean and to the places; another size than at init interpolates those of the places.
  Matrices N(0, 1 / C), biases as PyTorch draws them.
  """

  embed: int
  heads: int
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    B, h, w, C = x.shape
    init = nn.initializers.normal(C**-0.5)
    known: jax.Array | None = self.get_variable('params', 'positions')
    table = known if known is not None else self.param('positions', init, (1, h, w, C))
    if table.shape != (1, h, w, C):
      table = jax.image.resize(table, (1, h, w, C), 'bicubic', antialias=False)
    position = self.param('mean_position', init, (1, 1, C))
    mean = x.mean((1, 2))[:, None] + position.astype(x.dtype)
    x = jnp.concatenate([mean, (x + table.astype(x.dtype)).reshape(B, h * w, C)], 1)

    def dense(x, features, name):
      bias_init = initializers('torch', C)[1]
      return nn.Dense(features, dtype=self.dtype, kernel_init=init, bias_init=bias_init, name=name)(x)

    def heads(x):
      return x.reshape(B, -1, self.heads, C // self.heads)

    # Key and value as one: alone, the bias of the keys has no gradient.
    k, v = jnp.split(dense(x, 2 * C, 'kv'), 2, axis=-1)
    y = jax.nn.dot_product_attention(heads(dense(x[:, :1], C, 'q')), heads(k), heads(v))
    return dense(y.reshape(B, C), self.embed, 'c')


def _average(x: jax.Array, stride: int) -> jax.Array:
  """stride x stride averages; an odd edge is left out, as in PyTorch."""
  return nn.avg_pool(x, (stride, stride), (stride, stride)) if stride > 1 else x
