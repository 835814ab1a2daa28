"""I-JEPA's predictor: a narrow transformer from the features of some patches to those of others."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sslax.models.norm import one_of
from sslax.models.positions import sincos
from sslax.models.transformer import REMAT, Attention, make_blocks, param_groups, run_blocks

PyTree = Any


class Predictor(nn.Module):
  """Features of context patches [N, K, D] and places of target patches [N, L] -> predicted features [N, L, D] float32.

  Assran et al. 2023 (I-JEPA), https://arxiv.org/abs/2301.08243; official code: facebookresearch/ijepa,
  src/models/vision_transformer.py, VisionTransformerPredictor: linear D -> width, fixed sin-cos positions, one learnt mask token
  plus its position for each target patch, blocks, norm, linear width -> D.

  Args:
    width: of the blocks; 384 in the paper.
    depth: blocks; 6 for ViT-B, 12 for L and H.
    heads: of each block; the encoder's number in the official code.
    mlp_ratio: hidden size of the MLP over width.
    eps: of the layer norms.
    scan: one compiled block for all layers; parameters become 'blocks' [depth, ...] instead of 'blocks_0', 'blocks_1', ...
    remat: what each block computes again in the backward pass: 'none', 'full' or 'dots', see ViT.
    attention: `implementation` of jax.nn.dot_product_attention, 'xla' or 'cudnn' (GPU, bfloat16).
    dtype: of the computation, 'float32' or 'bfloat16'; parameters stay float32.
  """

  width: int = 384
  depth: int = 12
  heads: int = 12
  mlp_ratio: float = 4.0
  eps: float = 1e-6
  scan: bool = False
  remat: str = 'none'
  attention: Attention = 'xla'
  dtype: str = 'float32'

  def __post_init__(self) -> None:
    one_of('remat', self.remat, REMAT)
    one_of('attention', self.attention, ('xla', 'cudnn'))
    one_of('dtype', self.dtype, ('float32', 'bfloat16'))
    if min(self.width, self.depth, self.heads) < 1 or self.width % self.heads or self.width % 4:
      raise ValueError(f'width={self.width}, depth={self.depth}, heads={self.heads}: width must be a multiple of heads and of 4')
    super().__post_init__()

  @nn.nowrap
  def param_groups(self, params: PyTree) -> PyTree:
    """See `net.groups`."""
    return param_groups(params)

  @nn.compact
  def __call__(
    self, x: jax.Array, context: jax.Array, target: jax.Array, valid: jax.Array, grid: tuple[int, int], train: bool
  ) -> jax.Array:
    """
    Args:
      x: [N, K, D] features of the context patches.
      context, target: [N, K] and [N, L] int32, which patches these are, counted row by row.
      valid: [N, K + L] bool, context then target; 0 = padding, which no token attends to.
      grid: (H, W) in patches.
    """  # fmt: skip
    D = x.shape[-1]

    def dense(features, name):
      return nn.Dense(features, dtype=self.dtype, kernel_init=nn.initializers.truncated_normal(0.02), name=name)

    table = jnp.asarray(sincos(*grid, self.width, 'sincos_mae').reshape(-1, self.width), self.dtype)
    token = self.param('mask_token', nn.initializers.truncated_normal(0.02), (self.width,)).astype(self.dtype)
    x = jnp.concatenate([dense(self.width, 'embed')(x) + table[context], token[None, None] + table[target]], 1)
    block = (self.heads, round(self.mlp_ratio * self.width), False, 0.0, True, self.eps, 'timm', self.attention, self.dtype)
    x = run_blocks(make_blocks(self, *block), x, train, np.zeros(self.depth, np.float32), valid[:, None, None])
    x = nn.LayerNorm(self.eps, dtype=self.dtype, use_fast_variance=False, name='norm')(x[:, context.shape[1] :])
    return dense(D, 'proj')(x).astype(jnp.float32)
