"""What a block offers beyond what the networks' own tests look at: GPT's dropout and initial weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslax.models.transformer import ACTIVATIONS, Block, block_initializers, dropout

FIELDS = dict(heads=2, hidden=64, drop=False, layer_scale=0.0, qkv_bias=True, eps=1e-5, weight_init='gpt2')
FIELDS |= dict(attention='xla', dtype='float32', activation='gelu_tanh', depth=8)
CAUSAL = np.tril(np.ones((6, 6), bool))[None, None]


@pytest.fixture(scope='module')
def example():
  x = np.random.default_rng(0).standard_normal((3, 6, 16)).astype(np.float32)
  params = Block(**FIELDS).init(jax.random.key(0), x, False, 0.0)['params']
  return x, jax.tree.map(lambda p: p * 10 if p.ndim == 2 else p, params)


def run(example, train, seed=0, **changes):
  x, params = example
  block = Block(**{**FIELDS, **changes})
  return np.asarray(block.apply({'params': params}, x, train, 0.0, CAUSAL, rngs={'dropout': jax.random.key(seed)}))


def test_dropout_keeps_the_expectation():
  out = np.asarray(dropout(jax.random.key(0), jnp.ones((300, 300)), 0.25))
  assert set(np.unique(out)) == {0.0, np.float32(1 / 0.75)}
  np.testing.assert_allclose(out.mean(), 1, atol=0.02)


@pytest.mark.slow
def test_dropout_only_in_training_and_where_asked_for(example):
  still = run(example, train=False, dropout=0.5)
  np.testing.assert_array_equal(still, run(example, train=False))
  np.testing.assert_allclose(run(example, train=True), still, atol=1e-6)
  assert np.abs(run(example, train=True, dropout=0.5) - still).max() > 0.1
  assert np.abs(run(example, train=True, dropout=0.5) - run(example, train=True, dropout=0.5, seed=1)).max() > 0.1


def test_attention_in_part_is_attention(example):
  """At a rate of next to nothing the explicit attention gives what the fused one gives, causal mask and all."""
  np.testing.assert_allclose(run(example, train=True, dropout=1e-9), run(example, train=False), atol=1e-5)


def test_dropout_of_attention_weights():
  """It is the weights that are dropped, not the values: with values all one, outputs are sums of kept weights over 1 - rate."""
  block = Block(**{**FIELDS, 'dropout': 0.5})
  q = np.zeros((1, 6, 2, 8), np.float32)
  out = block.apply({}, q, q, np.ones_like(q), CAUSAL, method='attend_in_part', rngs={'dropout': jax.random.key(0)})
  sums = np.asarray(out)[0, :, :, 0]
  np.testing.assert_allclose(sums * np.arange(1, 7)[:, None] / 2, np.round(sums * np.arange(1, 7)[:, None] / 2), atol=1e-5)
  assert (out == out[..., :1]).all() and len(np.unique(sums)) > 3


def test_gpt2s_initial_weights():
  init = block_initializers('gpt2', 256, depth=8)
  for name, std in {'qkv': 0.02, 'fc1': 0.02, 'proj': 0.02 / 4, 'fc2': 0.02 / 4}.items():
    np.testing.assert_allclose(init[name](jax.random.key(0), (256, 256)).std(), std, rtol=0.02)


def test_activations():
  x = np.linspace(-4, 4, 41)
  expected = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
  np.testing.assert_allclose(ACTIVATIONS['gelu_tanh'](x), expected, atol=1e-6)
  np.testing.assert_allclose(ACTIVATIONS['quick_gelu'](x), x / (1 + np.exp(-1.702 * x)), atol=1e-6)
