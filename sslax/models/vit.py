"""Vision transformer (Dosovitskiy et al. 2021) as timm builds it, open between patches and encoder: MAE drops tokens there."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sslax.models.mlp import initializers, symmetric_uniform
from sslax.models.norm import one_of
from sslax.ops import fsdp

VARIANTS = {'Ti': (192, 12, 3), 'S': (384, 12, 6), 'B': (768, 12, 12), 'L': (1024, 24, 16), 'H': (1280, 32, 16)}
POSITIONS = ('learnt', 'sincos_mae', 'sincos_moco')
REMAT = {'none': None, 'full': None, 'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable}  # what is kept


class ViT(nn.Module):
  """Images [B, H, W, C] -> {'pooled': [B, D], 'tokens': [B, T, D] after the final norm}, both float32. T counts the class token.

  `__call__` is `encode(embed(x), train)`; the first token is the class token where there is one. Drop path draws from the
  rng 'dropout'.

  Args:
    variant: 'Ti', 'S', 'B', 'L', 'H' = (width, depth, heads) of timm; '' = given by the next three. MoCo v3's ViT-S has heads=12.
    width, depth, heads: override the variant's where not 0.
    mlp_ratio: hidden size of the MLP over width.
    patch: pixels, square.
    pool: 'cls' = the class token, 'mean' = mean of the patch tokens; both after the final norm.
    class_token: prepend one.
    positions: 'learnt' (another image size than at init interpolates them, bicubic with a = -0.5; PyTorch's kernel has -0.75),
      'sincos_mae' or 'sincos_moco', see `sincos`.
    drop_path: rate of the last block, linear from 0 at the first (Huang et al. 2016).
    layer_scale: initial value of LayerScale (Touvron et al. 2021), 0 = none.
    qkv_bias: a bias in the query, key and value projections.
    eps: of the layer norms.
    weight_init: biases 0, learnt positions N(0, 0.02), and
      'timm': dense N(0, 0.02), patches uniform +-1/sqrt(fan-in), class token N(0, 1e-6);
      'mae': dense and patches (as a matrix) Xavier uniform, class token N(0, 0.02);
      'moco': as 'mae', with query, key and value as three Xavier matrices, class token N(0, 1e-6);
      'clip': see `block_initializers`; positions and class token N(0, 1/D), patches as in 'timm'.
    activation: of the MLP, see `activation`.
    pre_norm: a layer norm before the first block (CLIP).
    patch_bias: a bias in the patch projection (CLIP: none).
    freeze_patch: no gradient into the patch projection (MoCo v3). Leave it out of the weight decay too, or it shrinks.
    scan: one compiled block for all layers; parameters become 'blocks' [depth, ...] instead of 'blocks_0', 'blocks_1', ...
    remat: what each block computes again in the backward pass: 'none', 'full' = all of it, 'dots' = all but the products with
      weights, which are most of the work and a part of the memory.
    attention: `implementation` of jax.nn.dot_product_attention, 'xla' or 'cudnn' (GPU, bfloat16).
    dtype: of the computation, 'float32' or 'bfloat16'; parameters stay float32.
  """

  variant: str = ''
  width: int = 0
  depth: int = 0
  heads: int = 0
  mlp_ratio: float = 4.0
  patch: int = 16
  pool: str = 'cls'
  class_token: bool = True
  positions: str = 'learnt'
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
  attention: str = 'xla'
  dtype: str = 'float32'

  def __post_init__(self):
    one_of('variant', self.variant, ('', *VARIANTS))
    one_of('pool', self.pool, ('cls', 'mean'))
    one_of('positions', self.positions, POSITIONS)
    one_of('weight_init', self.weight_init, ('timm', 'mae', 'moco', 'clip'))
    one_of('activation', self.activation, ('gelu', 'quick_gelu'))
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
    for field, ok in (
      ('patch', self.patch >= 1),
      ('mlp_ratio', self.mlp_ratio > 0),
      ('layer_scale', self.layer_scale >= 0),
      ('drop_path', 0 <= self.drop_path < 1),
    ):
      if not ok:
        raise ValueError(f'{field}={getattr(self, field)} is out of range')
    if self.pool == 'cls' and not self.class_token:
      raise ValueError("pool='cls' needs class_token=True")
    super().__post_init__()

  @property
  def sizes(self) -> tuple[int, int, int]:
    """(width, depth, heads)."""
    of_variant = VARIANTS.get(self.variant, (0, 0, 0))
    return tuple(own or other for own, other in zip((self.width, self.depth, self.heads), of_variant, strict=True))

  @property
  def num_features(self) -> int:
    return self.sizes[0]

  def setup(self):
    width, depth, heads = self.sizes
    std = {'mae': 0.02, 'clip': width**-0.5}.get(self.weight_init, 1e-6)  # of the class token
    position_init = nn.initializers.normal(width**-0.5 if self.weight_init == 'clip' else 0.02)
    self.patches = Patches(width, self.patch, self.positions, self.weight_init, self.freeze_patch, self.dtype, self.patch_bias)
    if self.class_token:
      self.cls = self.param('cls', nn.initializers.normal(std), (1, 1, width))
      if self.positions == 'learnt':
        self.cls_position = self.param('cls_position', position_init, (1, 1, width))
    if self.pre_norm:
      self.norm_pre = nn.LayerNorm(self.eps, dtype=self.dtype, use_fast_variance=False)
    Layer = layer(self)
    sizes = (heads, round(self.mlp_ratio * width))
    rest = (self.drop_path > 0, self.layer_scale, self.qkv_bias, self.eps, self.weight_init, self.attention, self.dtype)
    rest += (self.activation, depth)
    self.blocks = Layer(*sizes, *rest) if self.scan else [Layer(*sizes, *rest) for _ in range(depth)]
    self.norm = nn.LayerNorm(self.eps, dtype=self.dtype, use_fast_variance=False)

  def __call__(self, x, train: bool):
    return self.encode(self.embed(x), train)

  def embed(self, x, masked=None, mask_token=None):
    """[B, H, W, C] -> patch tokens with positions [B, H/patch * W/patch, D], row by row, without the class token.

    Args:
      masked: [B, T] bool, 1 = this patch is replaced by `mask_token` [D], before positions are added.
    """
    return self.patches(x, masked, mask_token)

  def encode(self, tokens, train: bool, valid=None):
    """Any subset of embedded patches [B, K, D] -> what `__call__` returns, T = K + 1 (K without class token).

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
      return {'pooled': x[:, 0], 'tokens': x}
    first = int(self.class_token)
    if valid is None:
      return {'pooled': x[:, first:].mean(1), 'tokens': x}
    return {'pooled': x[:, first:].mean(1, where=valid[:, 0, 0, first:, None]), 'tokens': x}


class Patches(nn.Module):
  """Patch projection plus positions: [B, H, W, C] -> [B, h*w, D]."""

  width: int
  patch: int
  positions: str
  weight_init: str
  freeze: bool
  dtype: str
  bias: bool = True

  @nn.compact
  def __call__(self, x, masked=None, mask_token=None):
    p, D = self.patch, self.width
    if x.shape[1] % p or x.shape[2] % p:
      raise ValueError(f'images of {x.shape[1]}x{x.shape[2]} pixels do not divide into patches of {p}')
    torch_kernel, _ = initializers('torch', p * p * x.shape[-1])
    fields = dict(use_bias=self.bias, kernel_init=torch_kernel if self.weight_init in ('timm', 'clip') else xavier)
    x = nn.Conv(D, (p, p), (p, p), 'VALID', dtype=self.dtype, **fields, name='projection')(x.astype(self.dtype))
    x = jax.lax.stop_gradient(x) if self.freeze else x
    B, h, w, _ = x.shape
    if masked is not None:
      x = jnp.where(masked.reshape(B, h, w, 1), mask_token.astype(x.dtype), x)
    if self.positions == 'learnt':
      # Once there, the table has the first image's shape, and `self.param` would refuse another.
      known = self.get_variable('params', 'positions')
      init = nn.initializers.normal(D**-0.5 if self.weight_init == 'clip' else 0.02)
      table = known if known is not None else self.param('positions', init, (1, h, w, D))
      if table.shape != (1, h, w, D):
        table = jax.image.resize(table, (1, h, w, D), 'bicubic', antialias=False)
    else:
      table = sincos(h, w, D, self.positions)[None]
    return (x + table.astype(x.dtype)).reshape(B, h * w, D)


class Block(nn.Module):
  """Pre-norm transformer block: [B, T, D] -> [B, T, D]; `mask` as in `attend`."""

  heads: int
  hidden: int
  drop: bool  # whether `rate` is looked at
  layer_scale: float
  qkv_bias: bool
  eps: float
  weight_init: str
  attention: str
  dtype: str
  activation: str = 'gelu'
  depth: int = 1  # blocks in the network, for weight_init='clip'

  @nn.compact
  def __call__(self, x, train: bool, rate, mask=None):
    B, T, D = x.shape

    def dense(features, name, init, bias=True):
      return nn.Dense(features, bias, dtype=self.dtype, kernel_init=init, name=name)

    def residual(x, y, name):
      if self.layer_scale:
        scale = self.param(name, nn.initializers.constant(self.layer_scale), (D,))
        y = y * scale.astype(y.dtype)[None, None]
      return x + (drop_path(self.make_rng('dropout'), y, rate) if self.drop and train else y)

    init = block_initializers(self.weight_init, D, self.depth)
    y = nn.LayerNorm(self.eps, dtype=self.dtype, use_fast_variance=False, name='norm1')(x)
    y = dense(3 * D, 'qkv', init['qkv'], self.qkv_bias)(y)
    q, k, v = jnp.unstack(y.reshape(B, T, 3, self.heads, D // self.heads), axis=2)
    y = self.attend(q, k, v, mask).reshape(B, T, D)
    x = residual(x, dense(D, 'proj', init['proj'])(y), 'scale1')
    y = nn.LayerNorm(self.eps, dtype=self.dtype, use_fast_variance=False, name='norm2')(x)
    y = activation(self.activation)(dense(self.hidden, 'fc1', init['fc1'])(y))
    return residual(x, dense(D, 'fc2', init['fc2'])(y), 'scale2')

  def attend(self, q, k, v, mask=None):
    """[B, T, heads, D / heads] three times -> the same shape; a method of its own so that its arguments can be looked at.

    Args:
      mask: bool, broadcast to [B, heads, T, T]; 1 = the query (row) attends to the key (column).
    """
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=self.attention)


def layer(network: nn.Module) -> type[Block]:
  """`Block` as a network with the fields `scan`, `remat` and `dtype` wants it, its weights gathered where they are split."""
  Layer, remat, policy = Block, network.remat != 'none', REMAT[network.remat]
  if fsdp.axis_size() > 1 and not network.is_initializing():
    Layer = nn.map_variables(Block, 'params', functools.partial(fsdp.gather, dtype=network.dtype))
    # The backward pass gathers again: whole weights of all layers, kept from the forward pass, would be what was to be saved.
    remat, policy = True, policy if remat else fsdp.keep_all_but_gathered
  # Inside scan the barrier that stops common-subexpression elimination is not needed, and costs.
  return nn.remat(Layer, static_argnums=(2,), prevent_cse=not network.scan, policy=policy) if remat else Layer


def make_blocks(network: nn.Module, *fields) -> nn.Module | list[nn.Module]:
  """The blocks of a compact `network`, for `run_blocks`: 'blocks' where it scans, else 'blocks_0', 'blocks_1', ..."""
  Layer = layer(network)
  if network.scan:
    return Layer(*fields, name='blocks')
  return [Layer(*fields, name=f'blocks_{i}') for i in range(network.depth)]


def run_blocks(blocks: nn.Module | list[nn.Module], x: jax.Array, train: bool, rates: np.ndarray, mask=None) -> jax.Array:
  """[B, T, D] -> [B, T, D] through all blocks.

  Args:
    blocks: one for each layer, or one for all, which is scanned: its parameters are stacked [L, ...].
    rates: [L] of drop path.
    mask: see `Block.attend`.
  """
  if isinstance(blocks, nn.Module):
    scan = nn.scan(
      lambda block, x, rate, mask: (block(x, train, rate, mask), None),
      variable_axes={'params': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=(0, nn.broadcast),
      length=len(rates),
    )
    return scan(blocks, x, jnp.asarray(rates), mask)[0]
  for block, rate in zip(blocks, rates, strict=True):
    x = block(x, train, rate, mask)
  return x


def block_initializers(weight_init: str, width: int, depth: int) -> dict:
  """Initializers of a block's four kernels; for 'timm', 'mae' and 'moco' see `ViT`.

  'clip' is normal with std D^-0.5 for query, key and value, (2D)^-0.5 for fc1, D^-0.5 (2 depth)^-0.5 for the two that end in the
  residual stream: the official code's for the text transformer (openai/CLIP, model.py), which leaves those of the image tower as
  PyTorch makes them. Here both towers have it.
  """
  if weight_init == 'clip':
    normal = nn.initializers.normal
    out = normal((2 * depth * width) ** -0.5)
    return {'qkv': normal(width**-0.5), 'proj': out, 'fc1': normal((2 * width) ** -0.5), 'fc2': out}
  init = initializers('trunc_normal_0.02', width)[0] if weight_init == 'timm' else xavier
  return {'qkv': xavier_qkv if weight_init == 'moco' else init, 'proj': init, 'fc1': init, 'fc2': init}


def activation(name: str):
  """'gelu' (exact) or 'quick_gelu', x sigmoid(1.702 x), which OpenAI's CLIP was trained with."""
  return {'gelu': lambda x: jax.nn.gelu(x, approximate=False), 'quick_gelu': lambda x: x * jax.nn.sigmoid(1.702 * x)}[name]


def drop_path(rng, y, rate):
  """Zeroes rows of a residual branch [B, ...] with probability `rate`, divides the others by 1 - rate (Huang et al. 2016)."""
  keep = jax.random.bernoulli(rng, 1 - rate, (y.shape[0],) + (1,) * (y.ndim - 1))
  return jnp.where(keep, y / (1 - rate), 0).astype(y.dtype)


def sincos(h: int, w: int, width: int, order: str) -> np.ndarray:
  """Fixed 2-D sin-cos positions [h, w, width] float32: half of the channels for the column, half for the row.

  Each half is [sin(p f), cos(p f)] with f_i = 10000^(-4i / width), i < width / 4. In MAE's official code (`sincos_mae`) the
  first half is the column's; in MoCo v3's (`sincos_moco`) it is the row's, although the variable there is called w.
  """
  f = 10000.0 ** (-np.arange(width // 4) / (width // 4))

  def half(n):  # [n, width / 2]
    angle = np.arange(n)[:, None] * f[None]
    return np.concatenate([np.sin(angle), np.cos(angle)], 1)

  row = np.broadcast_to(half(h)[:, None], (h, w, width // 2))
  column = np.broadcast_to(half(w)[None], (h, w, width // 2))
  return np.concatenate([column, row] if order == 'sincos_mae' else [row, column], -1).astype(np.float32)


def xavier(key, shape, dtype=jnp.float32, parts=1):
  """Xavier uniform of the kernel as a matrix [inputs, outputs], which for a patch convolution is [p*p*C, D]."""
  return symmetric_uniform(math.sqrt(6 / (math.prod(shape[:-1]) + shape[-1] / parts)))(key, shape, dtype)


def xavier_qkv(key, shape, dtype=jnp.float32):
  """Xavier uniform of query, key and value apart (MoCo v3)."""
  return xavier(key, shape, dtype, parts=3)
