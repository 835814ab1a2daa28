"""A causal language model: GPT-2. Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", and 2019,
"Language Models are Unsupervised Multitask Learners"; official code: openai/gpt-2, src/model.py.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from sslax.inputs.tokens import Tokens
from sslax.method import Batch, Features, Input, Method, Output
from sslax.models import net
from sslax.models.text import TextTransformer

PyTree = Any
BEGIN, MORE = 64, 128  # tokens of a text that `pictures` begins with, and goes on with, at most


@dataclasses.dataclass(frozen=True)
class CausalLM(Method):
  """Each token of a text is predicted from those before it; the table of embeddings is the classifier, too, without a bias.

  The loss is the mean over all targets of the global batch, padding left out. `perplexity` is its exponential, of a token;
  `bits_per_byte` does not depend on the tokenizer. Both are of one batch: the mean of several perplexities is no perplexity.

  With a large vocabulary the logits, float32 [B, L, V], are what takes memory. They are made where the network runs: with
  config.microbatches, B is the rows of one. Making them a piece of the sequence at a time saves less and costs more (B 8, L 1024,
  V 50,304, ViT-B's size, remat='full': temporaries 3.5 GiB, in 8 pieces 2.3, in 8 microbatches 0.9).
  """

  encoder: TextTransformer
  text: Tokens = Tokens()

  def __post_init__(self) -> None:
    if not self.encoder.causal:
      raise ValueError('encoder.causal=False would let each token see the one that it must predict')
    if self.encoder.length < self.text.length:
      raise ValueError(f'encoder.length={self.encoder.length} is less than text.length={self.text.length}')
    if self.text.length < 2:
      raise ValueError(f'text.length={self.text.length} must be at least 2: a token to read, and one to predict from it')

  def inputs(self) -> dict[str, Input]:
    """
    Raises:
      UserError: the table of embeddings is smaller than the vocabulary.
    """  # fmt: skip
    self.text.require(self.encoder.vocab_size, 'config.method.encoder.vocab_size')
    return {'text': self.text}

  @property
  def modules(self) -> dict[str, Any]:
    return {'encoder': self.encoder}

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    params, _ = net.init(self.encoder, rng, views['tokens'][:, :-1])
    return {'encoder': params}, {}

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    del step
    ids, targets = views['tokens'][:, :-1], views['tokens'][:, 1:]

    def surprise(encoder, ids, targets, train):
      return self.nats(self.logits(encoder.variables['params']['tokens'], encoder(ids, train).tokens), targets)

    nats, _ = net.apply(self.encoder, params['encoder'], {}, ids, targets, train=True, rng=rng, method=surprise)
    total = nats.sum()
    loss = total / jnp.sum(targets != self.text.padding)
    bits = total / math.log(2) / jnp.sum(views['token_bytes'])
    return loss, Output(memory, {'perplexity': jnp.exp(loss), 'bits_per_byte': bits})

  def logits(self, table: jax.Array, states: jax.Array) -> jax.Array:
    """[..., V] float32 of states [..., D] and embeddings [V, D] (Radford et al. 2018, equation 2)."""
    dtype = self.encoder.dtype
    return jnp.matmul(states.astype(dtype), table.T.astype(dtype), preferred_element_type=jnp.float32)

  def nats(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
    """[B, L] -log p(target) of logits [B, L, V] and targets [B, L]; 0 where the target is padding."""
    right = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return jnp.where(targets == self.text.padding, 0.0, jax.nn.logsumexp(logits, -1) - right)

  def features(self, params: PyTree, memory: PyTree, batch: Batch) -> Features:
    """tokens [B, L, D] and logits [B, L, V]: place i has read the start and i tokens, and predicts token i + 1.

    pooled [B, D] is the mean over the tokens of the text: neither padding nor the start, whose state is the same in all texts.
    """
    del memory
    ids = batch['tokens'][:, :-1]
    states = self.read(params, ids)
    pooled = states.mean(1, where=(ids < self.text.start)[..., None])
    return Features(pooled=pooled, tokens=states, stride=(1,), logits=self.logits(params['encoder']['tokens'], states))

  def read(self, params: PyTree, ids: jax.Array) -> jax.Array:
    """[B, T, D] states after each of the first T ids [B, T] of texts, in evaluation mode."""
    return net.apply(self.encoder, params['encoder'], {}, ids, train=False)[0].tokens

  def continued(self, params: PyTree, tokens: jax.Array, given: jax.Array, rng: jax.Array, temperature: float) -> jax.Array:
    """[B, T + 1] ids: the start, the first `given` tokens of each text, and what the model makes of the rest.

    For each token that is written all are read anew: simple, and quick enough for the few that people look at.

    Args:
      tokens: [B, T + 1], the start and a text each.
      given: [B] int.
      temperature: tokens are drawn from softmax(logits / temperature); 0: the most probable one is taken.
    """
    kept = jnp.arange(tokens.shape[1])[None] <= given[:, None]

    def write(i, ids):
      # Only tokens: the start, padding and rows of the table beyond the vocabulary say nothing.
      table = params['encoder']['tokens'][: self.text.start]
      logits = self.logits(table, self.read(params, ids[:, :-1])[:, i])
      new = jax.random.categorical(jax.random.fold_in(rng, i), logits / temperature) if temperature else logits.argmax(-1)
      return ids.at[:, i + 1].set(jnp.where(kept[:, i + 1], ids[:, i + 1], new))

    return jax.lax.fori_loop(given.min(), tokens.shape[1] - 1, write, jnp.where(kept, tokens, self.text.padding))

  def view_pictures(self, views: PyTree) -> dict[str, Batch]:
    return {'window': {'tokens': views['tokens']}}

  def pictures(self, params: PyTree, memory: PyTree, batch: Batch, rng: jax.Array) -> dict[str, Batch]:
    """The first half of a text, 64 tokens at most, how it goes on, and two continuations by the model."""
    del memory
    tokens = batch['tokens'][:, : BEGIN + MORE + 1]
    given = jnp.minimum(BEGIN, jnp.sum(tokens < self.text.start, 1) // 2)
    columns = {'begins': tokens, 'goes on': tokens}
    columns['most probable'] = self.continued(params, tokens, given, rng, 0.0)
    columns['drawn at temperature 1'] = self.continued(params, tokens, given, rng, 1.0)
    first = jnp.arange(tokens.shape[1])[None] <= given[:, None]
    shown = {name: first if name == 'begins' else ~first for name in columns}
    return {name: {'tokens': jnp.where(shown[name], ids, self.text.padding)} for name, ids in columns.items()}
