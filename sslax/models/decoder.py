"""The decoder of a masked autoencoder: a small transformer that fills in the patches that the encoder did not see."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sslax.models import positions
from sslax.models.norm import one_of
from sslax.models.positions import Table
from sslax.models.transformer import REMAT, Attention, make_blocks, param_groups, run_blocks, xavier
from sslax.ops.patches import sides

PyTree = Any


class Decoder(nn.Module):
  """Encoded visible tokens [B, K, D] -> predicted patches [B, T, p*p*C] float32 (He et al. 2022, section 3; models_mae.py).

  A linear layer to `width`, the mask token at every removed place, fixed sin-cos positions, blocks as in ViT, norm, a linear
  layer to pixels. Dense kernels are Xavier uniform, biases 0, the mask token N(0, 0.02).

  Args:
    width, depth, heads: of the blocks; the paper's decoder is the same for all encoders.
    mlp_ratio: hidden size of the MLP over width.
    patch: pixels, that of the encoder; or the sides of a patch, one an axis.
    channels: of the image.
    positions: which fixed table, or one's own, see `positions.table`.
    embed_bias: a bias in the first layer (VideoMAE: none).
    class_token: the first of the encoded tokens is a class token, which attends and is attended to here, too.
    eps: of the layer norms.
    scan: one compiled block for all layers; parameters become 'blocks' [depth, ...] instead of 'blocks_0', 'blocks_1', ...
    remat: what each block computes again in the backward pass: 'none', 'full' or 'dots', see ViT.
    attention: `implementation` of jax.nn.dot_product_attention, 'xla' or 'cudnn' (GPU, bfloat16).
    dtype: of the computation, 'float32' or 'bfloat16'; parameters stay float32.
  """

  width: int = 512
  depth: int = 8
  heads: int = 16
  mlp_ratio: float = 4.0
  patch: int | tuple[int, ...] = 16
  channels: int = 3
  positions: str | Table = 'sincos_mae'
  embed_bias: bool = True
  class_token: bool = True
  eps: float = 1e-6
  scan: bool = False
  remat: str = 'none'
  attention: Attention = 'xla'
  dtype: str = 'float32'

  def __post_init__(self) -> None:
    one_of('remat', self.remat, REMAT)
    one_of('attention', self.attention, ('xla', 'cudnn'))
    one_of('dtype', self.dtype, ('float32', 'bfloat16'))
    positions.check(self.positions)
    sizes = {'width': self.width, 'depth': self.depth, 'heads': self.heads, 'patch': self.patch, 'channels': self.channels}
    for field, value in sizes.items():
      if np.min(value) < 1:
        raise ValueError(f'{field}={value} is not positive')
    if self.width % self.heads or self.width % 4:
      raise ValueError(f'width={self.width} must be a multiple of heads={self.heads}, and of 4 for the positions')
    super().__post_init__()

  @nn.nowrap
  def param_groups(self, params: PyTree) -> PyTree:
    """See `net.groups`."""
    return param_groups(params)

  @nn.compact
  def __call__(self, tokens: jax.Array, restore: jax.Array, train: bool) -> jax.Array:
    """Predictions for all T patches, the visible ones too.

    Args:
      tokens: [B, K, D], or [B, 1 + K, D] with a class token.
      restore: [B, *grid], whose T places are numbered as in `sslax.ops.masks.Masks`.
    """
    first, (B, *grid) = int(self.class_token), restore.shape
    T = math.prod(grid)

    def dense(features, name, bias=True):
      return nn.Dense(features, bias, dtype=self.dtype, kernel_init=xavier, name=name)

    x = dense(self.width, 'embed', self.embed_bias)(tokens.astype(self.dtype))
    mask_token = self.param('mask_token', nn.initializers.normal(0.02), (1, 1, self.width)).astype(x.dtype)
    removed = jnp.broadcast_to(mask_token, (B, T - (x.shape[1] - first), self.width))
    patches = jnp.concatenate([x[:, first:], removed], 1)
    patches = jnp.take_along_axis(patches, restore.reshape(B, T, 1), 1)
    patches += positions.table(tuple(grid), self.width, self.positions).reshape(1, T, self.width).astype(x.dtype)
    x = jnp.concatenate([x[:, :first], patches], 1)  # the class token's position is 0

    block = (self.heads, round(self.mlp_ratio * self.width), False, 0.0, True, self.eps, 'mae', self.attention, self.dtype)
    x = run_blocks(make_blocks(self, *block), x, train, np.zeros(self.depth, np.float32))
    x = nn.LayerNorm(self.eps, dtype=self.dtype, use_fast_variance=False, name='norm')(x)
    return dense(math.prod(sides(self.patch, len(grid))) * self.channels, 'predict')(x[:, first:]).astype(jnp.float32)
