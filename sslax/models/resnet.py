"""Residual networks (He et al. 2016) as torchvision builds them (v1.5), with SimCLR's options: width, CIFAR stem, projections."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.models.norm import BatchNorm, one_of

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Block(nn.Module):
  """A residual block: [B, H, W, C] -> [B, H/stride, W/stride, filters * (4 if bottleneck)]."""

  filters: int
  stride: int
  bottleneck: bool
  project: bool  # a projection shortcut even where the shape stays
  norm: dict  # arguments of BatchNorm
  zero_init: bool

  @nn.compact
  def __call__(self, x, train: bool):
    f, s, dtype = self.filters, self.stride, self.norm['dtype']
    # (filters, kernel, stride) of each convolution; v1.5: the stride sits in the 3x3, not in the first 1x1
    layers = ((f, 1, 1), (f, 3, s), (4 * f, 1, 1)) if self.bottleneck else ((f, 3, s), (f, 3, 1))
    y = x
    for i, (filters, kernel, stride) in enumerate(layers, 1):
      last = i == len(layers)
      y = conv(filters, kernel, stride, dtype, f'conv{i}')(y)
      y = BatchNorm(**self.norm, scale_init=0.0 if last and self.zero_init else 1.0, name=f'bn{i}')(y, train)
      y = y if last else jax.nn.relu(y)
    if self.project or x.shape != y.shape:
      x = conv(layers[-1][0], 1, s, dtype, 'downsample_conv')(x)
      x = BatchNorm(**self.norm, name='downsample_bn')(x, train)
    return jax.nn.relu(x + y)


class ResNet(nn.Module):
  """ResNet-18 to -152 without the classifier: images [B, H, W, C] -> {'pooled': [B, D], 'map': [B, h, w, D]}, both float32.

  Follows torchvision: the stride in the 3x3 convolution, explicit padding (7x7: 3, 3x3: 1, max pool: 1), convolutions without
  bias drawn from He's normal with fan-out. SimCLR's official code draws them from a truncated normal with fan-in and gain 1.

  Args:
    depth: 18, 34 (basic blocks), 50, 101, 152 (bottlenecks).
    width: multiplies the filters of every layer (SimCLR's 2x, 4x; torchvision's wide_resnet widens the 3x3 only).
    stem: 'imagenet' (7x7 stride 2, max pool) or 'cifar' (3x3 stride 1, no pool), for images of about 32 pixels.
    projection: where a shortcut has a 1x1 convolution: 'shape' = where the shape changes (torchvision); 'group' = in the first
      block of every stage (SimCLR's official code; differs in stage 1 of ResNet-18 and -34).
    zero_init_residual: the last gamma of each block starts at 0 (Goyal et al. 2017); BYOL did without.
    relu_after_stem: False drops the ReLU between stem and first block, as lightly's CIFAR benchmarks do.
    norm_groups, norm_strided: groups of rows in batch normalisation, see BatchNorm.
    stages: blocks in each stage; () = by depth.
    base: filters of the first stage before `width`; each stage doubles them.
    block: 'basic', 'bottleneck' or 'auto' = by depth.
    dtype: of the computation, 'float32' or 'bfloat16'; statistics and parameters stay float32.
  """

  depth: int = 50
  width: float = 1.0
  stem: str = 'imagenet'
  projection: str = 'shape'
  zero_init_residual: bool = True
  relu_after_stem: bool = True
  norm_groups: int = 1
  norm_strided: bool = False
  stages: tuple[int, ...] = ()
  base: int = 64
  block: str = 'auto'
  dtype: str = 'float32'

  def __post_init__(self):
    one_of('depth', self.depth, STAGES)
    one_of('stem', self.stem, ('imagenet', 'cifar'))
    one_of('projection', self.projection, ('shape', 'group'))
    one_of('block', self.block, ('auto', 'basic', 'bottleneck'))
    one_of('dtype', self.dtype, ('float32', 'bfloat16'))
    if self.width <= 0 or self.base < 1 or any(n < 1 for n in self.stages):
      raise ValueError(f'width={self.width}, base={self.base}, stages={self.stages} must be positive')
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
  def __call__(self, x, train: bool):
    norm = {'groups': self.norm_groups, 'strided': self.norm_strided, 'dtype': self.dtype}
    x = x.astype(self.dtype)
    x = conv(self.filters, *((7, 2) if self.stem == 'imagenet' else (3, 1)), self.dtype, 'conv1')(x)
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
          name=f'layer{s + 1}_{b}',
        )(x, train)
    x = x.astype(jnp.float32)
    return {'pooled': x.mean((1, 2)), 'map': x}


def conv(filters: int, kernel: int, stride: int, dtype: str, name: str) -> nn.Conv:
  """A square convolution without bias, padded as in PyTorch ('SAME' would pad stride 2 on the other side)."""
  pad = (kernel // 2, kernel // 2)
  init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
  k, s = (kernel, kernel), (stride, stride)
  return nn.Conv(filters, k, s, (pad, pad), use_bias=False, dtype=dtype, kernel_init=init, name=name)
