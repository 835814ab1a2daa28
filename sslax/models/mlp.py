"""Projection and prediction heads: one MLP for those of SimCLR, MoCo, BYOL, SimSiam, Barlow Twins, DINO and others."""

import math
import re
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.models.norm import BatchNorm, one_of

Initializer = Callable[..., jax.Array]  # (key, shape, dtype) -> weights
FINAL_NORMS = {'bn': (True, True), 'bn_no_bias': (True, False), 'bn_no_affine': (False, False)}  # (scale, bias)


class MLP(nn.Module):
  """Dense layers with norm and activation between: [..., D] -> [..., features[-1]] float32.

  Each layer but the last is Dense -> norm -> activation; the last is Dense -> final_norm, then the activation too where
  `final_activation` says so. The heads of the papers:

    SimCLR code      MLP((2048, 2048, 128), bias=False, final_bias=False, final_norm='bn_no_bias', kernel_init='normal_0.01')
    SimCLR v2 code   MLP((2048, 2048, 128), ...), and for fine-tuning its first layer alone, whose names are the same:
                     MLP((2048,), final_bias=False, final_norm='bn', final_activation=True)
    MoCo v1, v2      MLP((128,)), MLP((2048, 128), norm='none')
    MoCo v3 (ViT)    projector MLP((4096, 4096, 256), bias=False, final_bias=False, final_norm='bn_no_affine')
    BYOL             MLP((4096, 256), final_bias=False, kernel_init='lecun')
    SimSiam          projector MLP((2048, 2048, 2048), bias=False, final_bias=False, final_norm='bn_no_affine');
                     predictor MLP((512, 2048), bias=False)
    Barlow Twins     MLP((8192, 8192, 8192), bias=False, final_bias=False); VICReg: MLP((8192, 8192, 8192), final_bias=False)
    DINO trunk       MLP((2048, 2048, 256), norm='none', activation='gelu', kernel_init='trunc_normal_0.02')

  Args:
    features: outputs of each layer.
    norm: 'bn', 'ln' or 'none', after every layer but the last.
    activation: 'relu' or 'gelu' (exact), after every layer but the last.
    bias, final_bias: a bias in the layers but the last, in the last.
    final_norm: 'none', 'bn', 'bn_no_bias' (gamma only) or 'bn_no_affine'.
    final_activation: the activation also after the last layer.
    kernel_init: see `initializers`.
    dtype: of the computation, 'float32' or 'bfloat16'.
  """

  features: tuple[int, ...]
  norm: str = 'bn'
  activation: str = 'relu'
  bias: bool = True
  final_bias: bool = True
  final_norm: str = 'none'
  final_activation: bool = False
  kernel_init: str = 'torch'
  dtype: str = 'float32'

  def __post_init__(self) -> None:
    one_of('norm', self.norm, ('bn', 'ln', 'none'))
    one_of('activation', self.activation, ('relu', 'gelu'))
    one_of('final_norm', self.final_norm, ('none', *FINAL_NORMS))
    one_of('dtype', self.dtype, ('float32', 'bfloat16'))
    initializers(self.kernel_init, 1)
    if not self.features or any(n < 1 for n in self.features):
      raise ValueError(f'features={self.features}: at least one layer, all sizes positive')
    super().__post_init__()

  @property
  def num_features(self) -> int:
    return self.features[-1]

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    x = x.astype(self.dtype)
    for i, n in enumerate(self.features):
      last = i == len(self.features) - 1
      kernel_init, bias_init = initializers(self.kernel_init, x.shape[-1])
      bias = self.final_bias if last else self.bias
      x = nn.Dense(n, bias, dtype=self.dtype, kernel_init=kernel_init, bias_init=bias_init, name=f'dense{i}')(x)
      if last and self.final_norm != 'none':
        scale, bias = FINAL_NORMS[self.final_norm]
        x = BatchNorm(use_scale=scale, use_bias=bias, dtype=self.dtype, name=f'norm{i}')(x, train)
      if not last:
        if self.norm == 'bn':
          x = BatchNorm(dtype=self.dtype, name=f'norm{i}')(x, train)
        elif self.norm == 'ln':
          x = nn.LayerNorm(1e-5, dtype=self.dtype, use_fast_variance=False, name=f'norm{i}')(x)
      if not last or self.final_activation:
        x = jax.nn.relu(x) if self.activation == 'relu' else jax.nn.gelu(x, approximate=False)
    return x.astype(jnp.float32)


class Identity(nn.Module):
  """Hands on what it gets and has no parameters: the neck of a network that has none."""

  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    del train
    return x


def initializers(name: str, fan_in: int) -> tuple[Initializer, Initializer]:
  """(kernel, bias) initializers of a dense layer with `fan_in` inputs.

  'torch' = both uniform in +-1/sqrt(fan_in), nn.Linear's default; 'lecun' (truncated at 2 sigma, Haiku's default), 'xavier'
  (uniform), 'zeros', 'normal_S' and 'trunc_normal_S' = standard deviation S, the latter cut at +-2 in absolute terms, as timm
  does it (no cut in practice): biases 0.

  Raises:
    ValueError: no such name.
  """
  zeros = nn.initializers.zeros
  if name == 'zeros':
    return zeros, zeros
  if name == 'torch':
    uniform = symmetric_uniform(1 / math.sqrt(fan_in))
    return uniform, uniform
  if name == 'lecun':
    return nn.initializers.lecun_normal(), zeros
  if name == 'xavier':
    return nn.initializers.xavier_uniform(), zeros
  match = re.fullmatch(r'(normal|trunc_normal)_?(\d*\.?\d+(?:e-?\d+)?)', name)
  if not match or float(match[2]) == 0:
    raise ValueError(f'kernel_init={name!r} is none of torch, lecun, xavier, zeros, normal_S, trunc_normal_S (S = 0.01, ...)')
  std = float(match[2])
  if match[1] == 'normal':
    return nn.initializers.normal(std), zeros
  return nn.initializers.truncated_normal(std, lower=-2 / std, upper=2 / std), zeros


def symmetric_uniform(bound: float) -> Initializer:
  """An initializer that draws from U(-bound, bound)."""

  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init
