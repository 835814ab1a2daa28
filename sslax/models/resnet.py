"""Residual networks (He et al. 2016) as torchvision builds them (v1.5), with SimCLR's options: width, CIFAR stem, projections,
selective kernels.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.method import Features
from sslax.models.norm import BatchNorm, one_of

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Block(nn.Module):
  """A residual block: [B, H, W, C] -> [B, H/stride, W/stride, filters * (4 if bottleneck)]."""

  filters: int
  stride: int
  bottleneck: bool
  project: bool  # a projection shortcut even where the shape stays
  norm: dict[str, Any]  # arguments of BatchNorm
  zero_init: bool
  sk_ratio: float = 0.0

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    f, s, dtype = self.filters, self.stride, self.norm['dtype']
    # (filters, kernel, stride) of each convolution; v1.5: the stride sits in the 3x3, not in the first 1x1
    layers = ((f, 1, 1), (f, 3, s), (4 * f, 1, 1)) if self.bottleneck else ((f, 3, s), (f, 3, 1))
    y = x
    for i, (filters, kernel, stride) in enumerate(layers, 1):
      last = i == len(layers)
      if kernel == 3 and self.sk_ratio:
        y = SelectiveKernel(filters, stride, self.sk_ratio, self.norm, name='sk')(y, train)
        continue
      y = conv(filters, kernel, stride, dtype, f'conv{i}')(y)
      y = BatchNorm(**self.norm, scale_init=0.0 if last and self.zero_init else 1.0, name=f'bn{i}')(y, train)
      y = y if last else jax.nn.relu(y)
    if self.project or x.shape != y.shape:
      x, s = (_average(x, s), 1) if self.sk_ratio else (x, s)
      x = conv(layers[-1][0], 1, s, dtype, 'downsample_conv')(x)
      x = BatchNorm(**self.norm, name='downsample_bn')(x, train)
    return jax.nn.relu(x + y)


class SelectiveKernel(nn.Module):
  """Two 3x3 convolutions, mixed channel by channel with weights that depend on the image: [B, H, W, C] -> [B, h, w, filters].

  Li et al. 2019, https://arxiv.org/abs/1903.06586, as SimCLR v2's official code has it (sk_conv2d in resnet.py): both kernels are
  3x3 (the paper's second one is dilated), and the mixing has no biases.
  """

  filters: int
  stride: int
  ratio: float  # the bottleneck of the mixing has max(ratio * filters, 32) channels
  norm: dict[str, Any]  # arguments of BatchNorm

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    f, dtype = self.filters, self.norm['dtype']
    y = conv(2 * f, 3, self.stride, dtype, 'conv')(x)  # both convolutions in one
    y = jax.nn.relu(BatchNorm(**self.norm, name='bn')(y, train))
    y = y.reshape(*y.shape[:-1], 2, f)
    m = y.sum(-2).mean((1, 2), keepdims=True)
    m = conv(max(int(f * self.ratio), 32), 1, 1, dtype, 'squeeze_conv')(m)
    m = jax.nn.relu(BatchNorm(**self.norm, name='squeeze_bn')(m, train))
    m = conv(2 * f, 1, 1, dtype, 'expand_conv')(m)
    m = jax.nn.softmax(m.reshape(*m.shape[:-1], 2, f).astype(jnp.float32), axis=-2).astype(dtype)
    return (y * m).sum(-2)


class ResNet(nn.Module):
  """ResNet-18 to -152 without the classifier: images [B, H, W, C] -> Features, 'pooled' [B, D] and 'tokens' [B, h, w, D].

  Follows torchvision: the stride in the 3x3 convolution, explicit padding (7x7: 3, 3x3: 1, max pool: 1), convolutions without
  bias drawn from He's normal with fan-out. SimCLR's official code draws them from a truncated normal with fan-in and gain 1.

  Args:
    depth: 18, 34 (basic blocks), 50, 101, 152 (bottlenecks).
    width: multiplies the filters of every layer (SimCLR's 2x, 4x; torchvision's wide_resnet widens the 3x3 only).
    stem: 'imagenet' (7x7 stride 2, max pool) or 'cifar' (3x3 stride 1, no pool), for images of about 32 pixels.
    projection: where a shortcut has a 1x1 convolution: 'shape' = where the shape changes (torchvision); 'group' = in the first
      block of every stage (SimCLR's official code; differs in stage 1 of ResNet-18 and -34).
    sk_ratio: > 0 replaces the 3x3 convolutions by `SelectiveKernel` units (SimCLR v2: 0.0625), the 7x7 of the stem by three 3x3
      and the stride of the projections by average pooling (ResNet-D, He et al. 2019), as SimCLR's official code does; bottlenecks
      only.
    zero_init_residual: the last gamma of each block starts at 0 (Goyal et al. 2017); BYOL did without.
    relu_after_stem: False drops the ReLU between stem and first block, as lightly's CIFAR benchmarks do.
    norm_groups, norm_strided: groups of rows in batch normalisation, see BatchNorm.
    stages: blocks in each stage; () = by depth.
    base: filters of the first stage before `width`; each stage doubles them.
    block: 'basic', 'bottleneck' or 'auto' = by depth.
    dtype: of the computation, 'float32' or 'bfloat16'; statistics and parameters stay float32.
  """

  of_method: ClassVar[tuple[str, ...]] = ('norm_groups', 'norm_strided')  # MoCo's ShuffleBN: the method's, not the backbone's

  depth: int = 50
  width: float = 1.0
  stem: str = 'imagenet'
  projection: str = 'shape'
  sk_ratio: float = 0.0
  zero_init_residual: bool = True
  relu_after_stem: bool = True
  norm_groups: int = 1
  norm_strided: bool = False
  stages: tuple[int, ...] = ()
  base: int = 64
  block: str = 'auto'
  dtype: str = 'float32'

  def __post_init__(self) -> None:
    one_of('depth', self.depth, STAGES)
    one_of('stem', self.stem, ('imagenet', 'cifar'))
    one_of('projection', self.projection, ('shape', 'group'))
    one_of('block', self.block, ('auto', 'basic', 'bottleneck'))
    one_of('dtype', self.dtype, ('float32', 'bfloat16'))
    if self.width <= 0 or self.base < 1 or any(n < 1 for n in self.stages):
      raise ValueError(f'width={self.width}, base={self.base}, stages={self.stages} must be positive')
    if self.sk_ratio < 0 or self.sk_ratio and not self.bottleneck:
      raise ValueError(f"sk_ratio={self.sk_ratio} must be 0, or positive and in bottlenecks (depth >= 50 or block='bottleneck')")
    super().__post_init__()

  @property
  def bottleneck(self) -> bool:
    return self.depth >= 50 if self.block == 'auto' else self.block == 'bottleneck'

  @property
  def num_features(self) -> int:
    """D, the size of the pooled features."""
    last = len(self.stages or STAGES[self.depth]) - 1
    return self.filters * 2**last * (4 if self.bottleneck else 1)

  @property
  def filters(self) -> int:
    return max(1, round(self.base * self.width))

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> Features:
    norm: dict[str, Any] = {'groups': self.norm_groups, 'strided': self.norm_strided, 'dtype': self.dtype}
    x = x.astype(self.dtype)
    kernel, stride = (7, 2) if self.stem == 'imagenet' else (3, 1)
    if self.stem == 'imagenet' and self.sk_ratio:
      for i in range(2):
        x = conv(max(1, self.filters // 2), 3, 2 - i, self.dtype, f'stem_conv{i}')(x)
        x = jax.nn.relu(BatchNorm(**norm, name=f'stem_bn{i}')(x, train))
      kernel, stride = 3, 1
    x = conv(self.filters, kernel, stride, self.dtype, 'conv1')(x)
    x = BatchNorm(**norm, name='bn1')(x, train)
    x = jax.nn.relu(x) if self.relu_after_stem else x
    if self.stem == 'imagenet':
      x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for s, blocks in enumerate(self.stages or STAGES[self.depth]):
      for b in range(blocks):
        x = Block(
          filters=self.filters * 2**s,
          stride=2 if s > 0 and b == 0 else 1,
          bottleneck=self.bottleneck,
          project=self.projection == 'group' and b == 0,
          norm=norm,
          zero_init=self.zero_init_residual,
          sk_ratio=self.sk_ratio,
          name=f'layer{s + 1}_{b}',
        )(x, train)
    x = x.astype(jnp.float32)
    stride = (4 if self.stem == 'imagenet' else 1) * 2 ** (len(self.stages or STAGES[self.depth]) - 1)
    return Features(pooled=x.mean((1, 2)), tokens=x, stride=(stride, stride))


def conv(filters: int, kernel: int, stride: int, dtype: str, name: str) -> nn.Conv:
  """A square convolution without bias, padded as in PyTorch ('SAME' would pad stride 2 on the other side)."""
  pad = (kernel // 2, kernel // 2)
  init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
  k, s = (kernel, kernel), (stride, stride)
  return nn.Conv(filters, k, s, (pad, pad), use_bias=False, dtype=dtype, kernel_init=init, name=name)


def _average(x: jax.Array, stride: int) -> jax.Array:
  """2x2 averages as in SimCLR's code: stride 1 leaves out what lies outside the image, stride 2 counts an odd edge's as 0."""
  if stride == 1:
    return nn.avg_pool(x, (2, 2), (1, 1), ((0, 1), (0, 1)), count_include_pad=False)
  return nn.avg_pool(x, (2, 2), (stride, stride), ((0, 1), (0, 1)))
