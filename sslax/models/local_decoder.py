"""The decoder of Audio-MAE: attention inside windows of a spectrogram's patches, as in Swin v2."""

import math
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sslax.models import net, positions
from sslax.models.norm import one_of
from sslax.models.positions import Table
from sslax.models.transformer import REMAT, dropout, xavier
from sslax.ops import tree
from sslax.ops.patches import patchify, sides, unpatchify

PyTree = Any


class RelativeBias(nn.Module):
  """What attention adds for a step from key to query in a window: an MLP of its log-spaced size along each axis, [heads, L, L]
  (Liu et al. 2022, Swin v2, section 3.3)."""

  heads: int
  hidden: int
  dropout: float  # rate; the same numbers are dropped for all rows and windows

  @nn.compact
  def __call__(self, window: tuple[int, ...], train: bool) -> jax.Array:
    place = np.stack(np.meshgrid(*map(np.arange, window), indexing='ij'), -1).reshape(-1, len(window))
    step = np.float32(place[:, None] - place[None])
    y = nn.relu(nn.Dense(self.hidden, kernel_init=xavier, name='fc1')(np.sign(step) * np.log1p(np.abs(step))))
    y = nn.Dense(self.heads, kernel_init=xavier, name='fc2')(self.thin(y, train))
    return jnp.moveaxis(self.thin(y, train), -1, 0)

  def thin(self, x: jax.Array, train: bool) -> jax.Array:
    return dropout(self.make_rng('dropout'), x, self.dropout) if train and self.dropout else x


class WindowBlock(nn.Module):
  """Swin v2's block as timm first had it (swin_v2_cr.py; timm_patch/ of the official code): [B, *grid, D] -> the same.

  Norms stand at the end of the residual branches, and attention is by cosine: softmax(cos(q, k) / tau + bias), tau learnt for
  each head and 0.01 at least.
  """

  heads: int
  hidden: int
  window: tuple[int, ...]
  shift: tuple[int, ...]  # places that the windows are moved by
  bias_hidden: int
  bias_dropout: float
  eps: float
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    (B, *grid, D), axes = x.shape, tuple(range(1, x.ndim - 1))
    window = tuple(map(min, self.window, grid))
    shift = tuple(0 if n <= w else s for n, w, s in zip(grid, self.window, self.shift, strict=True))

    def dense(features, name):
      return nn.Dense(features, dtype=self.dtype, kernel_init=xavier, name=name)

    def norm(name):
      return nn.LayerNorm(self.eps, dtype=self.dtype, use_fast_variance=False, name=name)

    y = patchify(jnp.roll(x, [-s for s in shift], axes), window).reshape(B, -1, math.prod(window), D)  # [B, windows, L, D]
    q, k, v = jnp.unstack(dense(3 * D, 'qkv')(y).reshape(*y.shape[:3], 3, self.heads, D // self.heads), axis=3)
    scores = jnp.einsum('bnqhd,bnkhd->bnhqk', q, k, preferred_element_type=jnp.float32)
    squares = [jnp.square(a.astype(jnp.float32)).sum(-1).swapaxes(2, 3) for a in (q, k)]  # [B, windows, heads, L]
    # Under the root, where the official code has max(|q| |k|, 1e-6): the gradient of a length is not finite at 0.
    scores /= jnp.sqrt(jnp.maximum(squares[0][..., None] * squares[1][..., None, :], 1e-12))
    tau = jnp.maximum(self.param('tau', nn.initializers.ones, (self.heads,)), 0.01)
    bias = RelativeBias(self.heads, self.bias_hidden, self.bias_dropout, name='relative')(window, train)
    scores = scores / tau[None, None, :, None, None] + bias[None, None] + apart(tuple(grid), window, shift)[None, :, None]
    y = jnp.einsum('bnhqk,bnkhd->bnqhd', jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)
    y = dense(D, 'proj')(y.reshape(B, -1, math.prod(window), D))
    y = jnp.roll(unpatchify(y.reshape(B, y.shape[1], -1), window, tuple(grid)), shift, axes)
    x = x + norm('norm1')(y)
    y = dense(D, 'fc2')(jax.nn.gelu(dense(self.hidden, 'fc1')(x), approximate=False))
    return x + norm('norm2')(y)


def apart(grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]) -> np.ndarray:
  """[windows, L, L]: 0, and -100 for two places of a window that only the cyclic shift brought together."""
  region = np.zeros(grid, np.float32)
  for axis, (n, w, s) in enumerate(zip(grid, window, shift, strict=True)):
    part = np.repeat([0, 1, 2], [n - w, w - s, s])  # whole windows; what stayed at the end; what came round
    region = 3 * region + part.reshape([-1 if a == axis else 1 for a in range(len(grid))])
  split = region.reshape([k for n, w in zip(grid, window, strict=True) for k in (n // w, w)])
  region = split.transpose(*range(0, split.ndim, 2), *range(1, split.ndim, 2)).reshape(-1, math.prod(window))
  return np.where(region[:, :, None] == region[:, None], np.float32(0), np.float32(-100))


class LocalDecoder(nn.Module):
  """Encoded visible tokens [B, K, D] -> predicted patches [B, T, prod(patch) * C] float32, with attention in windows only.

  Huang et al. 2022, section 3; every other block has its windows shifted. What stands around the blocks is as in
  `sslax.models.decoder.Decoder`.

  Args:
    width, depth, heads: of the blocks.
    mlp_ratio: hidden size of the MLP over width.
    patch: that of the encoder.
    channels: of the input, 1 for a spectrogram.
    window: places along each axis of the grid, time and frequency.
    shift: of the windows of every second block; (0, 0): none.
    positions: which fixed table, or one's own, see `positions.table`.
    class_token: the first of the encoded tokens is a class token; it is left out here.
    bias_hidden: of the MLP of relative positions.
    bias_dropout: rate in that MLP. Where networks run in microbatches, each draws its own.
    eps: of the layer norms.
    remat: what each block computes again in the backward pass: 'none', 'full' or 'dots', see ViT.
    dtype: of the computation, 'float32' or 'bfloat16'; parameters stay float32.
  """

  width: int = 512
  depth: int = 16
  heads: int = 16
  mlp_ratio: float = 4.0
  patch: int | tuple[int, ...] = 16
  channels: int = 1
  window: tuple[int, ...] = (4, 4)
  shift: tuple[int, ...] = (2, 0)
  positions: str | Table = 'sincos_mae'
  class_token: bool = True
  bias_hidden: int = 384
  bias_dropout: float = 0.1
  eps: float = 1e-6
  remat: str = 'none'
  dtype: str = 'float32'

  def __post_init__(self) -> None:
    one_of('remat', self.remat, REMAT)
    one_of('dtype', self.dtype, ('float32', 'bfloat16'))
    positions.check(self.positions)
    for field in ('width', 'depth', 'heads', 'patch', 'channels', 'window', 'bias_hidden'):
      if np.min(getattr(self, field)) < 1:
        raise ValueError(f'{field}={getattr(self, field)} is not positive')
    if self.width % self.heads or self.width % 4:
      raise ValueError(f'width={self.width} must be a multiple of heads={self.heads}, and of 4 for the positions')
    if len(self.shift) != len(self.window) or not all(0 <= s < w for s, w in zip(self.shift, self.window, strict=True)):
      raise ValueError(f'shift={self.shift} must be at least 0 and less than window={self.window}, along each axis')
    if not 0 <= self.bias_dropout < 1:
      raise ValueError(f'bias_dropout={self.bias_dropout} must be in [0, 1)')
    super().__post_init__()

  @nn.nowrap
  def param_groups(self, params: PyTree) -> PyTree:
    """See `net.groups`. Vectors have no decay, `tau` neither, as in timm."""

    def group(path, leaf):
      block = re.match(r'blocks_(\d+)/', path)
      return net.Group(decay=len(leaf.shape) > 1, layer=int(block[1]) + 1 if block else None)

    return tree.map_with_path(group, params)

  @nn.compact
  def __call__(self, tokens: jax.Array, restore: jax.Array, train: bool) -> jax.Array:
    """Predictions for all T patches, the visible ones too.

    Args:
      tokens: [B, K, D], or [B, 1 + K, D] with a class token.
      restore: [B, *grid], whose T places are numbered as in `sslax.ops.masks.Masks`.
    """
    (B, *grid), D = restore.shape, self.width
    T = math.prod(grid)
    x = nn.Dense(D, dtype=self.dtype, kernel_init=xavier, name='embed')(tokens[:, int(self.class_token) :].astype(self.dtype))
    mask_token = self.param('mask_token', nn.initializers.normal(0.02), (1, 1, D)).astype(x.dtype)
    x = jnp.concatenate([x, jnp.broadcast_to(mask_token, (B, T - x.shape[1], D))], 1)
    x = jnp.take_along_axis(x, restore.reshape(B, T, 1), 1).reshape(B, *grid, D)
    x += positions.table(tuple(grid), D, self.positions)[None].astype(x.dtype)
    Layer = WindowBlock
    if self.remat != 'none':
      Layer = nn.remat(WindowBlock, static_argnums=(2,), policy=REMAT[self.remat])
    for i in range(self.depth):
      shift = self.shift if i % 2 else (0,) * len(self.shift)
      rest = (self.bias_hidden, self.bias_dropout, self.eps, self.dtype)
      x = Layer(self.heads, round(self.mlp_ratio * D), self.window, shift, *rest, name=f'blocks_{i}')(x, train)
    x = nn.LayerNorm(self.eps, dtype=self.dtype, use_fast_variance=False, name='norm')(x).reshape(B, T, D)
    pixels = math.prod(sides(self.patch, len(grid))) * self.channels
    return nn.Dense(pixels, dtype=self.dtype, kernel_init=xavier, name='predict')(x).astype(jnp.float32)
