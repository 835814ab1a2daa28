"""Pre-norm transformer blocks, one for each layer or one that is scanned: what every transformer here is made of."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sslax.models import net
from sslax.models.mlp import Initializer, initializers, symmetric_uniform
from sslax.ops import fsdp

PyTree = Any
Attention = Literal['xla', 'cudnn']  # `implementation` of jax.nn.dot_product_attention
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'gelu': functools.partial(jax.nn.gelu, approximate=False),
  'gelu_tanh': functools.partial(jax.nn.gelu, approximate=True),  # GPT-2's
  'quick_gelu': lambda x: x * jax.nn.sigmoid(1.702 * x),  # that of OpenAI's CLIP
}
REMAT = {'none': None, 'full': None, 'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable}  # what is kept


class Block(nn.Module):
  """Pre-norm transformer block: [B, T, D] -> [B, T, D]; `mask` as in `attend`."""

  heads: int
  hidden: int
  drop: bool  # whether `rate` is looked at
  layer_scale: float
  qkv_bias: bool
  eps: float
  weight_init: str
  attention: Attention
  dtype: str
  activation: str = 'gelu'
  depth: int = 1  # blocks in the network, for weight_init='clip' and 'gpt2'
  dropout: float = 0.0  # rate, of attention weights and of both residual branches (GPT)

  @nn.compact
  def __call__(self, x: jax.Array, train: bool, rate: float | jax.Array, mask: jax.Array | None = None) -> jax.Array:
    B, T, D = x.shape

    def dense(features, name, init, bias=True):
      return nn.Dense(features, bias, dtype=self.dtype, kernel_init=init, name=name)

    def residual(x, y, name):
      if self.layer_scale:
        scale = self.param(name, nn.initializers.constant(self.layer_scale), (D,))
        y = y * scale.astype(y.dtype)[None, None]
      y = self.thin(y, train)
      return x + (drop_path(self.make_rng('dropout'), y, rate) if self.drop and train else y)

    init = block_initializers(self.weight_init, D, self.depth)
    y = nn.LayerNorm(self.eps, dtype=self.dtype, use_fast_variance=False, name='norm1')(x)
    y = dense(3 * D, 'qkv', init['qkv'], self.qkv_bias)(y)
    q, k, v = jnp.unstack(y.reshape(B, T, 3, self.heads, D // self.heads), axis=2)
    y = (self.attend_in_part(q, k, v, mask) if self.dropout and train else self.attend(q, k, v, mask)).reshape(B, T, D)
    x = residual(x, dense(D, 'proj', init['proj'])(y), 'scale1')
    y = nn.LayerNorm(self.eps, dtype=self.dtype, use_fast_variance=False, name='norm2')(x)
    y = ACTIVATIONS[self.activation](dense(self.hidden, 'fc1', init['fc1'])(y))
    return residual(x, dense(D, 'fc2', init['fc2'])(y), 'scale2')

  def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """[B, T, heads, D / heads] three times -> the same shape; a method of its own so that its arguments can be looked at.

    Args:
      mask: bool, broadcast to [B, heads, T, T]; 1 = the query (row) attends to the key (column).
    """
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=self.attention)

  def attend_in_part(self, q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """`attend` with dropout of the weights, which the fused one does not have."""
    scores = jnp.einsum('bqhd,bkhd->bhqk', q, k, preferred_element_type=jnp.float32) / math.sqrt(q.shape[-1])
    scores = scores if mask is None else jnp.where(mask, scores, -jnp.inf)
    weights = self.thin(jax.nn.softmax(scores, axis=-1), True).astype(v.dtype)
    return jnp.einsum('bhqk,bkhd->bqhd', weights, v)

  def thin(self, x: jax.Array, train: bool) -> jax.Array:
    """`dropout`, or as it is where there is none."""
    return dropout(self.make_rng('dropout'), x, self.dropout) if self.dropout and train else x


def layer(network: nn.Module) -> type[Block]:
  """`Block` as a network with the fields `scan`, `remat` and `dtype` wants it, its weights gathered where they are split."""
  Layer, remat, policy = Block, network.remat != 'none', REMAT[network.remat]
  if fsdp.axis_size() > 1 and not network.is_initializing():
    Layer = nn.map_variables(Block, 'params', functools.partial(fsdp.gather, dtype=network.dtype))
    # The backward pass gathers again: whole weights of all layers, kept from the forward pass, would be what was to be saved.
    remat, policy = True, policy if remat else fsdp.keep_all_but_gathered
  # Inside scan the barrier that stops common-subexpression elimination is not needed, and costs.
  return nn.remat(Layer, static_argnums=(2,), prevent_cse=not network.scan, policy=policy) if remat else Layer


def make_blocks(network: nn.Module, *fields: Any) -> nn.Module | list[nn.Module]:
  """The blocks of a compact `network`, for `run_blocks`: 'blocks' where it scans, else 'blocks_0', 'blocks_1', ..."""
  Layer = layer(network)
  if network.scan:
    return Layer(*fields, name='blocks')
  return [Layer(*fields, name=f'blocks_{i}') for i in range(network.depth)]


def param_groups(params: PyTree, embeddings: tuple[str, ...] = ()) -> PyTree:
  """The tree of `net.Group` of a network whose blocks are those of `make_blocks`.

  Args:
    params: of the network.
    embeddings: its parts that come before the blocks.
  """

  def known(name):
    block = re.fullmatch(r'blocks(_(?P<index>\d+))?', name)
    if not block:
      return dict(layer=0) if name in embeddings else {}
    return dict(layer=int(block['index'] or 0) + 1, gathered=True)

  def with_known(name, part):
    stacked = lambda leaf: leaf.shape[0] if name == 'blocks' else 0
    return jax.tree.map(lambda g, leaf: dataclasses.replace(g, **known(name), stacked=stacked(leaf)), part, params[name])

  return {name: with_known(name, part) for name, part in net.plain_groups(params).items()}


def run_blocks(
  blocks: nn.Module | Sequence[nn.Module], x: jax.Array, train: bool, rates: np.ndarray, mask: jax.Array | None = None
) -> jax.Array:
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


def block_initializers(weight_init: str, width: int, depth: int) -> dict[str, Initializer]:
  """Initializers of a block's four kernels; for 'timm', 'mae' and 'moco' see `ViT`.

  'clip' is normal with std D^-0.5 for query, key and value, (2D)^-0.5 for fc1, D^-0.5 (2 depth)^-0.5 for the two that end in the
  residual stream: the official code's for the text transformer (openai/CLIP, model.py), which leaves those of the image tower as
  PyTorch makes them. Here both towers have it. 'gpt2' is normal with std 0.02, and 0.02 (2 depth)^-0.5 for the two that end in
  the residual stream (Radford et al. 2019, section 2.3: 1/sqrt(N) of N residual layers; the std is that of the official code).
  """
  normal = nn.initializers.normal
  if weight_init == 'gpt2':
    out = normal(0.02 * (2 * depth) ** -0.5)
    return {'qkv': normal(0.02), 'proj': out, 'fc1': normal(0.02), 'fc2': out}
  if weight_init == 'clip':
    out = normal((2 * depth * width) ** -0.5)
    return {'qkv': normal(width**-0.5), 'proj': out, 'fc1': normal((2 * width) ** -0.5), 'fc2': out}
  init = initializers('trunc_normal_0.02', width)[0] if weight_init == 'timm' else xavier
  return {'qkv': xavier_qkv if weight_init == 'moco' else init, 'proj': init, 'fc1': init, 'fc2': init}


def dropout(rng: jax.Array, y: jax.Array, rate: float | jax.Array) -> jax.Array:
  """Zeroes single numbers of y with probability `rate`, divides the others by 1 - rate (Srivastava et al. 2014)."""
  return jnp.where(jax.random.bernoulli(rng, 1 - rate, y.shape), y / (1 - rate), 0).astype(y.dtype)


def drop_path(rng: jax.Array, y: jax.Array, rate: float | jax.Array) -> jax.Array:
  """Zeroes rows of a residual branch [B, ...] with probability `rate`, divides the others by 1 - rate (Huang et al. 2016)."""
  keep = jax.random.bernoulli(rng, 1 - rate, (y.shape[0],) + (1,) * (y.ndim - 1))
  return jnp.where(keep, y / (1 - rate), 0).astype(y.dtype)


def xavier(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32, parts: int = 1) -> jax.Array:
  """Xavier uniform of the kernel as a matrix [inputs, outputs], which for a patch convolution is [p*p*C, D]."""
  return symmetric_uniform(math.sqrt(6 / (math.prod(shape[:-1]) + shape[-1] / parts)))(key, shape, dtype)


def xavier_qkv(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
  """Xavier uniform of query, key and value apart (MoCo v3)."""
  return xavier(key, shape, dtype, parts=3)


def steady(module: nn.Module) -> nn.Module:
  """The network without drop path: what a teacher is in training mode. The same one where it has none."""
  drops = 'drop_path' in {f.name for f in dataclasses.fields(module)} and module.drop_path
  return module.clone(drop_path=0.0) if drops else module
