"""Vision transformer (Dosovitskiy et al. 2021) as timm builds it, open between patches and encoder: MAE drops tokens there.

Images are one case: what is cut into patches may have any number of axes, so clips and spectrograms have the same network.
"""

import math
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sslax.method import Features
from sslax.models import positions
from sslax.models.mlp import Initializer, initializers
from sslax.models.norm import one_of
from sslax.models.positions import Table
from sslax.models.transformer import ACTIVATIONS, REMAT, Attention, layer, param_groups, run_blocks, xavier
from sslax.ops.patches import grid_of, patchify, sides

PyTree = Any

VARIANTS = {'Ti': (192, 12, 3), 'S': (384, 12, 6), 'B': (768, 12, 12), 'L': (1024, 24, 16), 'H': (1280, 32, 16)}
POSITIONS = ('learnt', *positions.KINDS)


class Encoded(NamedTuple):
  """What the encoder makes of tokens."""

  pooled: jax.Array  # [B, D]
  tokens: jax.Array  # [B, T, D] after the final norm, the class token first where there is one


class ViT(nn.Module):
  """Images [B, H, W, C], clips [B, T, H, W, C], ... -> Features, 'pooled' [B, D] and 'tokens' [B, *grid, D] after the final norm.

  `__call__` is `encode(embed(x), train)` without the class token, which is the first where there is one. Drop path draws from the
  rng 'dropout'.

  Args:
    variant: 'Ti', 'S', 'B', 'L', 'H' = (width, depth, heads) of timm; '' = given by the next three. MoCo v3's ViT-S has heads=12.
    width, depth, heads: override the variant's where not 0.
    mlp_ratio: hidden size of the MLP over width.
    patch: pixels, square; or the sides of a patch, one an axis: (2, 16, 16) frames and pixels.
    pool: 'cls' = the class token, 'mean' = mean of the patch tokens; both after the final norm.
    class_token: prepend one.
    positions: 'learnt' (another image size than at init interpolates them, bicubic with a = -0.5; PyTorch's kernel has -0.75),
      'sincos_mae', 'sincos_moco', 'sincos_line' or a table of one's own, see `positions.table`.
    drop_path: rate of the last block, linear from 0 at the first (Huang et al. 2016).
    layer_scale: initial value of LayerScale (Touvron et al. 2021), 0 = none.
    qkv_bias: a bias in the query, key and value projections.
    eps: of the layer norms.
    weight_init: biases 0, learnt positions N(0, 0.02), and
      'timm': dense N(0, 0.02), patches uniform +-1/sqrt(fan-in), class token N(0, 1e-6);
      'mae': dense and patches (as a matrix) Xavier uniform, class token N(0, 0.02);
      'xavier': as 'mae', with patches as in 'timm' (VideoMAE, whose official code leaves them as PyTorch makes them);
      'moco': as 'mae', with query, key and value as three Xavier matrices, class token N(0, 1e-6);
      'clip': see `block_initializers`; positions and class token N(0, 1/D), patches as in 'timm'.
    activation: of the MLP, one of `transformer.ACTIVATIONS`.
    pre_norm: a layer norm before the first block (CLIP).
    patch_bias: a bias in the patch projection (CLIP: none).
    freeze_patch: no gradient into the patch projection (MoCo v3). Leave it out of the weight decay too, or it shrinks.
    scan: one compiled block for all layers; parameters become 'blocks' [depth, ...] instead of 'blocks_0', 'blocks_1', ...
    remat: what each block computes again in the backward pass: 'none', 'full' = all of it, 'dots' = all but the products with
      weights, which are most of the work and a part of the memory.
    attention: `implementation` of jax.nn.dot_product_attention, 'xla' or 'cudnn' (GPU, bfloat16).
    dtype: of the computation, 'float32' or 'bfloat16'; parameters stay float32.
  """

  of_method: ClassVar[tuple[str, ...]] = ('drop_path', 'freeze_patch')  # DINO's, MoCo v3's: the method's, not the backbone's

  variant: str = ''
  width: int = 0
  depth: int = 0
  heads: int = 0
  mlp_ratio: float = 4.0
  patch: int | tuple[int, ...] = 16
  pool: str = 'cls'
  class_token: bool = True
  positions: str | Table = 'learnt'
  drop_path: float = 0.0
  layer_scale: float = 0.0
  qkv_bias: bool = True
  eps: float = 1e-6
  weight_init: str = 'timm'
  activation: str = 'gelu'
  pre_norm: bool = False
  patch_bias: bool = True
  freeze_patch: bool = False
  scan: bool = False
  remat: str = 'none'
  attention: Attention = 'xla'
  dtype: str = 'float32'

  def __post_init__(self) -> None:
    one_of('variant', self.variant, ('', *VARIANTS))
    one_of('pool', self.pool, ('cls', 'mean'))
    positions.check(self.positions, POSITIONS)
    one_of('weight_init', self.weight_init, ('timm', 'mae', 'xavier', 'moco', 'clip'))
    one_of('activation', self.activation, tuple(ACTIVATIONS))
    one_of('remat', self.remat, REMAT)
    one_of('attention', self.attention, ('xla', 'cudnn'))
    one_of('dtype', self.dtype, ('float32', 'bfloat16'))
    width, depth, heads = self.sizes
    if min(width, depth, heads) < 1:
      raise ValueError(f'variant={self.variant!r}, width={width}, depth={depth}, heads={heads}: give a variant or all sizes')
    if width % heads:
      raise ValueError(f'width={width} is no multiple of heads={heads}')
    if self.positions != 'learnt' and width % 4:
      raise ValueError(f'width={width}: positions={self.positions!r} need a multiple of 4')
    for field, value, ok in (
      ('patch', self.patch, np.min(self.patch) >= 1),
      ('mlp_ratio', self.mlp_ratio, self.mlp_ratio > 0),
      ('layer_scale', self.layer_scale, self.layer_scale >= 0),
      ('drop_path', self.drop_path, 0 <= self.drop_path < 1),
    ):
      if not ok:
        raise ValueError(f'{field}={value} is out of range')
    if self.pool == 'cls' and not self.class_token:
      raise ValueError("pool='cls' needs class_token=True")
    super().__post_init__()

  @property
  def sizes(self) -> tuple[int, int, int]:
    """(width, depth, heads)."""
    width, depth, heads = VARIANTS.get(self.variant, (0, 0, 0))
    return self.width or width, self.depth or depth, self.heads or heads

  @property
  def num_features(self) -> int:
    return self.sizes[0]

  @nn.nowrap
  def param_groups(self, params: PyTree) -> PyTree:
    """See `net.groups`."""
    return param_groups(params, embeddings=('patches', 'cls', 'cls_position'))

  def setup(self) -> None:
    width, depth, heads = self.sizes
    std = {'mae': 0.02, 'xavier': 0.02, 'clip': width**-0.5}.get(self.weight_init, 1e-6)  # of the class token
    position_init = nn.initializers.normal(width**-0.5 if self.weight_init == 'clip' else 0.02)
    self.patches = Patches(width, self.patch, self.positions, self.weight_init, self.freeze_patch, self.dtype, self.patch_bias)
    if self.class_token:
      self.cls = self.param('cls', nn.initializers.normal(std), (1, 1, width))
      if self.positions == 'learnt':
        self.cls_position = self.param('cls_position', position_init, (1, 1, width))
    if self.pre_norm:
      self.norm_pre = nn.LayerNorm(self.eps, dtype=self.dtype, use_fast_variance=False)
    Layer = layer(self)
    sizes = (heads, round(self.mlp_ratio * width), self.drop_path > 0, self.layer_scale, self.qkv_bias, self.eps)
    rest = (self.weight_init, self.attention, self.dtype, self.activation, depth)
    self.blocks = Layer(*sizes, *rest) if self.scan else [Layer(*sizes, *rest) for _ in range(depth)]
    self.norm = nn.LayerNorm(self.eps, dtype=self.dtype, use_fast_variance=False)

  def __call__(self, x: jax.Array, train: bool) -> Features:
    size, first = x.shape[1:-1], int(self.class_token)
    out = self.encode_images(x, train)
    tokens = out.tokens[:, first:].reshape(len(x), *grid_of(size, self.patch), -1)
    return Features(pooled=out.pooled, tokens=tokens, stride=sides(self.patch, len(size)))

  def encode_images(self, x: jax.Array, train: bool) -> Encoded:
    """What `__call__` makes of images, with the class token and without the grid."""
    return self.encode(self.embed(x), train)

  def embed(self, x: jax.Array, masked: jax.Array | None = None, mask_token: jax.Array | None = None) -> jax.Array:
    """[B, *size, C] -> patch tokens with positions [B, T, D], row by row, without the class token.

    Args:
      masked: [B, T] bool, 1 = this patch is replaced by `mask_token` [D], before positions are added.
    """
    return self.patches(x, masked, mask_token)

  def encode_kept(self, x: jax.Array, kept: jax.Array, train: bool) -> Encoded:
    """The patches `kept` [B, K] of [B, *size, C] alone, the others never enter (MAE): T = K + 1, K without class token."""
    return self.encode(jnp.take_along_axis(self.embed(x), kept[..., None], 1), train)

  def encode(self, tokens: jax.Array, train: bool, valid: jax.Array | None = None) -> Encoded:
    """Any subset of embedded patches [B, K, D] -> Encoded, T = K + 1 (K without class token).

    Args:
      valid: [B, K] bool, 0 = padding: no token attends to it, and its own output means nothing.
    """
    B, depth = tokens.shape[0], self.sizes[1]
    if valid is not None:
      valid = jnp.pad(valid, ((0, 0), (int(self.class_token), 0)), constant_values=True)[:, None, None]
    x = tokens
    if self.class_token:
      cls = self.cls + self.cls_position if self.positions == 'learnt' else self.cls  # fixed tables are 0 there
      x = jnp.concatenate([jnp.broadcast_to(cls.astype(x.dtype), (B, *cls.shape[1:])), x], 1)
    x = self.norm_pre(x) if self.pre_norm else x
    rates = np.linspace(0.0, self.drop_path, depth, dtype=np.float32)
    x = run_blocks(self.blocks, x, train, rates, valid)
    x = self.norm(x).astype(jnp.float32)
    if self.pool == 'cls':
      return Encoded(x[:, 0], x)
    first = int(self.class_token)
    if valid is None:
      return Encoded(x[:, first:].mean(1), x)
    return Encoded(x[:, first:].mean(1, where=valid[:, 0, 0, first:, None]), x)


class Patches(nn.Module):
  """Patch projection plus positions: [B, *size, C] -> [B, prod(grid), D]."""

  width: int
  patch: int | tuple[int, ...]
  positions: str | Table
  weight_init: str
  freeze: bool
  dtype: str
  bias: bool = True

  @nn.compact
  def __call__(self, x: jax.Array, masked: jax.Array | None = None, mask_token: jax.Array | None = None) -> jax.Array:
    D, size = self.width, x.shape[1:-1]
    grid, p = grid_of(size, self.patch), sides(self.patch, len(size))
    torch_kernel, _ = initializers('torch', math.prod(p) * x.shape[-1])
    init = torch_kernel if self.weight_init in ('timm', 'xavier', 'clip') else xavier
    x = x.astype(self.dtype)
    if len(p) == 3:  # XLA's convolutions over three axes are slow on CPUs: with the gradient 3.5 times as slow as this
      x = Product(D, p, self.bias, init, self.dtype, name='projection')(x)
    else:
      x = nn.Conv(D, p, p, 'VALID', use_bias=self.bias, dtype=self.dtype, kernel_init=init, name='projection')(x)
    x = jax.lax.stop_gradient(x) if self.freeze else x
    B = len(x)
    if masked is not None:
      assert mask_token is not None, 'something stands where patches are masked'
      x = jnp.where(masked.reshape(B, *grid, 1), mask_token.astype(x.dtype), x)
    if self.positions == 'learnt':
      # Once there, the table has the first image's shape, and `self.param` would refuse another.
      known: jax.Array | None = self.get_variable('params', 'positions')
      normal = nn.initializers.normal(D**-0.5 if self.weight_init == 'clip' else 0.02)
      table: jax.Array | np.ndarray = known if known is not None else self.param('positions', normal, (1, *grid, D))
      if table.shape != (1, *grid, D):
        table = jax.image.resize(table, (1, *grid, D), 'bicubic', antialias=False)
    else:
      table = positions.table(grid, D, self.positions)[None]
    return (x + table.astype(x.dtype)).reshape(B, math.prod(grid), D)


class Product(nn.Module):
  """What the convolution of patches computes, as one product of matrices, with its parameters: [B, *size, C] -> [B, *grid, D]."""

  width: int
  patch: tuple[int, ...]
  use_bias: bool
  kernel_init: Initializer
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param('kernel', self.kernel_init, (*self.patch, x.shape[-1], self.width)).astype(self.dtype)
    y = patchify(x, self.patch) @ kernel.reshape(-1, self.width)
    if self.use_bias:
      y += self.param('bias', nn.initializers.zeros, (self.width,)).astype(self.dtype)[None, None]
    return y.reshape(len(x), *grid_of(x.shape[1:-1], self.patch), self.width)
