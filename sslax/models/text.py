"""Text transformer: CLIP's (Radford et al. 2021, https://arxiv.org/abs/2103.00020; openai/CLIP, model.py), GPT-2's, and encoders
that see both ways (SigLIP, LiT; google-research/big_vision, text_transformer.py).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sslax.method import Features
from sslax.models.norm import one_of
from sslax.models.transformer import ACTIVATIONS, REMAT, Attention, dropout, make_blocks, param_groups, run_blocks

PyTree = Any


class TextTransformer(nn.Module):
  """Token ids [B, L] int -> Features, 'pooled' [B, D] and 'tokens' [B, L, D] after the final norm, float32.

  Ids are padded with 0 after the end token, which has the largest id of the vocabulary: hence the first position of a row's
  largest id is its end. Rows may be shorter than `length`, never longer. In an encoder that sees both ways nobody attends to what
  comes after the end (big_vision masks nothing).

  Args:
    width, depth, heads: of the transformer; CLIP's ViT-B models have 512, 12, 8.
    vocab_size: number of ids: 49,408 for CLIP's BPE, 259 for bytes.
    length: L at most, the rows of the table of positions.
    causal: a token sees itself and those before it; False: all tokens of the text.
    pool: 'argmax' = the end token, 'last' = position L - 1, whatever is there (it sees the text either way), 'mean' = mean of the
      text's tokens, 'cls' = the first token (for causal=False).
    mlp_ratio: hidden size of the MLP over width.
    activation: of the MLP, one of `transformer.ACTIVATIONS`; OpenAI's weights have 'quick_gelu'.
    eps: of the layer norms.
    weight_init: 'clip', 'gpt2' = tokens N(0, 0.02), positions N(0, 0.01), the rest in `transformer.block_initializers`; 'mae' =
      dense Xavier uniform, tokens and positions with variance 1/D (big_vision).
    dropout: rate, of the embeddings, the attention weights and both residual branches, in training (GPT).
    scan, remat, attention, dtype: as in ViT.
  """

  width: int = 512
  depth: int = 12
  heads: int = 8
  vocab_size: int = 49408
  length: int = 77
  causal: bool = True
  pool: str = 'argmax'
  mlp_ratio: float = 4.0
  activation: str = 'gelu'
  eps: float = 1e-5
  weight_init: str = 'clip'
  dropout: float = 0.0
  scan: bool = False
  remat: str = 'none'
  attention: Attention = 'xla'
  dtype: str = 'float32'

  def __post_init__(self) -> None:
    one_of('pool', self.pool, ('argmax', 'last', 'mean', 'cls'))
    one_of('activation', self.activation, tuple(ACTIVATIONS))
    one_of('weight_init', self.weight_init, ('clip', 'gpt2', 'mae'))
    one_of('remat', self.remat, REMAT)
    one_of('attention', self.attention, ('xla', 'cudnn'))
    one_of('dtype', self.dtype, ('float32', 'bfloat16'))
    sizes = dict(width=self.width, depth=self.depth, heads=self.heads, vocab_size=self.vocab_size, length=self.length)
    for field, value in dict(**sizes, mlp_ratio=self.mlp_ratio).items():
      if value <= 0:
        raise ValueError(f'{field}={value} must be positive')
    if not 0 <= self.dropout < 1:
      raise ValueError(f'dropout={self.dropout} must be in [0, 1)')
    if self.width % self.heads:
      raise ValueError(f'width={self.width} is no multiple of heads={self.heads}')
    if self.pool == 'cls' and self.causal:
      raise ValueError("pool='cls' is the first token, which sees nothing of the text with causal=True")
    super().__post_init__()

  @property
  def num_features(self) -> int:
    return self.width

  @nn.nowrap
  def param_groups(self, params: PyTree) -> PyTree:
    """See `net.groups`."""
    return param_groups(params, embeddings=('tokens', 'positions'))

  @nn.compact
  def __call__(self, ids: jax.Array, train: bool) -> Features:
    B, L = ids.shape
    if L > self.length:
      raise ValueError(f'texts of {L} tokens, and the transformer has length={self.length}: it must be that of the input')
    stds = (self.width**-0.5,) * 2 if self.weight_init == 'mae' else (0.02, 0.01)
    tokens = self.param('tokens', nn.initializers.normal(stds[0]), (self.vocab_size, self.width))
    positions = self.param('positions', nn.initializers.normal(stds[1]), (self.length, self.width))
    # An id outside the vocabulary becomes NaN, which stops the run: clamped, it would be taken for the end token.
    x = (jnp.take(tokens, ids, axis=0, mode='fill', fill_value=jnp.nan) + positions[None, :L]).astype(self.dtype)
    x = dropout(self.make_rng('dropout'), x, self.dropout) if self.dropout and train else x

    end = ids.argmax(1)
    inside = jnp.arange(L)[None] <= end[:, None]  # [B, L], 1 = of the text
    mask = jnp.tril(jnp.ones((L, L), bool))[None, None] if self.causal else inside[:, None, None]
    block = (self.heads, round(self.mlp_ratio * self.width), False, 0.0, True, self.eps, self.weight_init)
    rest = (self.attention, self.dtype, self.activation, self.depth, self.dropout)
    x = run_blocks(make_blocks(self, *block, *rest), x, train, np.zeros(self.depth, np.float32), mask)
    x = nn.LayerNorm(self.eps, dtype=self.dtype, use_fast_variance=False, name='norm')(x).astype(jnp.float32)
    if self.pool == 'mean':
      pooled = x.mean(1, where=inside[:, :, None])
    elif self.pool == 'argmax':
      pooled = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
    else:
      pooled = x[:, 0 if self.pool == 'cls' else -1]
    return Features(pooled=pooled, tokens=x, stride=(1,))
