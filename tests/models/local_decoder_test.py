"""Attention in windows against loops over places; what the decoder refuses. That it is the official one: audio_mae_test.py."""

import functools
import math

import jax
import numpy as np
import pytest

from sslax.models import net
from sslax.models.local_decoder import LocalDecoder, RelativeBias, WindowBlock, apart
from sslax.ops import tree

TINY = dict(width=8, depth=2, heads=2, mlp_ratio=2.0, patch=(4, 2), window=(2, 2), shift=(1, 0), bias_hidden=6)


def lively(module, *inputs):
  """Parameters of order one."""
  shapes = jax.eval_shape(lambda key: net.init(module, key, *inputs)[0], jax.random.key(0))
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda p: np.float32((p.ndim == 1) + 0.4 * rng.standard_normal(p.shape)), shapes)


def example(grid=(4, 6), keep=5, rows=2):
  rng = np.random.default_rng(0)
  tokens = rng.standard_normal((rows, 1 + keep, 8)).astype(np.float32)
  return tokens, np.stack([rng.permutation(math.prod(grid)) for _ in range(rows)]).reshape(rows, *grid)


def norm(x, p):
  return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * p['scale'] + p['bias']


def dense(x, p):
  return x @ p['kernel'] + p['bias']


def slow_block(x, p, heads, window, shift):
  """WindowBlock of one row [t, f, D], place by place: a window is what lies together when the cuts are moved by `shift`."""
  t, f, D = x.shape
  home = {(i, j): ((i - shift[0]) // window[0], (j - shift[1]) // window[1]) for i in range(t) for j in range(f)}
  qkv = dense(x, p['qkv']).reshape(t, f, 3, heads, D // heads)
  out = np.zeros_like(x)
  for here in home:
    together = [there for there in home if home[there] == home[here]]
    attended = []
    for h in range(heads):
      scores = []
      for there in together:
        q, k = qkv[here][0, h], qkv[there][1, h]
        step = np.array([here[0] - there[0], here[1] - there[1]], np.float64)
        bias = dense(np.maximum(dense(np.sign(step) * np.log1p(abs(step)), p['relative']['fc1']), 0), p['relative']['fc2'])[h]
        scores.append(q @ k / (np.linalg.norm(q) * np.linalg.norm(k)) / max(p['tau'][h], 0.01) + bias)
      weights = np.exp(scores - np.max(scores))
      attended.append(weights / weights.sum() @ np.stack([qkv[there][2, h] for there in together]))
    y = x[here] + norm(dense(np.concatenate(attended), p['proj']), p['norm1'])
    hidden = dense(y, p['fc1'])
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    out[here] = y + norm(dense(hidden, p['fc2']), p['norm2'])
  return out


@pytest.mark.parametrize('grid, window, shift', [((4, 6), (2, 3), (0, 0)), ((6, 4), (3, 2), (2, 0)), ((4, 6), (2, 2), (1, 1))])
def test_a_block_written_out(grid, window, shift):
  block = WindowBlock(2, 16, window, shift, 6, 0.1, 1e-6, 'float32')
  x = np.random.default_rng(0).standard_normal((2, *grid, 8)).astype(np.float32)
  p = lively(block, x)
  out = jax.jit(functools.partial(net.apply, block, train=False))(p, {}, x)[0]
  p = jax.tree.map(np.float64, p)
  slow = np.stack([slow_block(np.float64(row), p, 2, window, shift) for row in x])
  np.testing.assert_allclose(out, slow, rtol=1e-4, atol=1e-4)


def test_a_small_grid_is_one_window():
  """Without a shift, whatever was asked for: the whole axis is seen anyway."""
  x = np.random.default_rng(0).standard_normal((1, 3, 4, 8)).astype(np.float32)
  wide = WindowBlock(2, 16, (4, 4), (2, 1), 6, 0.1, 1e-6, 'float32')
  p = lively(wide, x)
  slow = slow_block(np.float64(x[0]), jax.tree.map(np.float64, p), 2, (3, 4), (0, 0))
  np.testing.assert_allclose(jax.jit(lambda p: net.apply(wide, p, {}, x, train=False)[0][0])(p), slow, rtol=1e-4, atol=1e-4)


def test_what_the_shift_brought_together_is_kept_apart():
  """The last window along time holds the last two places and the first two: 2 x 4 and 2 x 4."""
  mask = apart((8, 4), (4, 4), (2, 0))
  assert mask.shape == (2, 16, 16) and not mask[0].any()
  expected = np.kron(1 - np.eye(2), np.ones((8, 8))) * -100
  np.testing.assert_array_equal(mask[1], expected)


def test_a_place_that_says_nothing_has_a_gradient():
  """q = k = 0: the cosine is 0, and its gradient is no NaN."""
  block = WindowBlock(2, 16, (2, 2), (0, 0), 6, 0.0, 1e-6, 'float32')
  x = np.zeros((1, 2, 2, 8), np.float32)
  p = lively(block, x)
  p['qkv']['bias'] *= 0
  gradient = jax.jit(jax.grad(lambda p: net.apply(block, p, {}, x, train=False)[0].sum()))(p)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_dropout_of_the_relative_positions():
  """In training only; a tenth of what each head adds is 0, the rest is 1 / 0.9 of a sum of which a tenth is missing."""
  module = RelativeBias(heads=3, hidden=5, dropout=0.1)
  p = module.init(jax.random.key(0), (16, 16), False)
  calm = module.apply(p, (16, 16), False)
  drawn = np.asarray(module.apply(p, (16, 16), True, rngs={'dropout': jax.random.key(1)}))
  assert calm.shape == drawn.shape == (3, 256, 256)
  assert abs((drawn == 0).mean() - 0.1) < 0.01 and not np.isclose(drawn, calm).all()
  still = RelativeBias(heads=3, hidden=5, dropout=0.0).apply(p, (16, 16), True)
  np.testing.assert_array_equal(still, calm)


@pytest.mark.slow
def test_its_blocks_are_shifted_in_turn_and_may_be_computed_again():
  tokens, restore = example()
  model = LocalDecoder(**TINY)
  params = lively(model, tokens, restore)

  @functools.partial(jax.jit, static_argnums=0)
  def run(model, params, tokens=tokens):
    return net.apply(model, params, {}, tokens, restore, train=False)[0]

  out = run(model, params)
  assert out.shape == (2, 24, 8) and out.dtype == np.float32
  np.testing.assert_allclose(run(model.clone(remat='dots'), params), out, rtol=1e-5, atol=1e-5)
  assert np.abs(run(model.clone(shift=(0, 0)), params) - out).max() > 1e-2
  assert np.abs(np.asarray(run(model.clone(dtype='bfloat16'), params)) - out).mean() < 0.1
  other = tokens.copy()
  other[:, 0] += 1  # the class token does not take part
  np.testing.assert_allclose(run(model, params, other), out, rtol=1e-5, atol=1e-5)
  without = run(model.clone(class_token=False), params, tokens[:, 1:])
  np.testing.assert_allclose(without, out, rtol=1e-5, atol=1e-5)


def test_groups():
  """timm's rule: vectors have no decay, the temperature of each head among them."""
  tokens, restore = example()
  model = LocalDecoder(**TINY)
  params = jax.eval_shape(lambda key: net.init(model, key, tokens, restore)[0], jax.random.key(0))
  groups = dict(zip(tree.paths(params), jax.tree.leaves(net.groups({'decoder': model}, {'decoder': params})), strict=True))
  assert not groups['blocks_1/tau'].decay and not groups['blocks_0/relative/fc1/bias'].decay and not groups['norm/scale'].decay
  assert groups['mask_token'].decay and groups['blocks_0/relative/fc1/kernel'].decay
  assert (groups['blocks_1/tau'].layer, groups['predict/bias'].layer) == (2, None)


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'heads': 3}, 'multiple of heads=3'), ({'depth': 0}, 'depth=0'), ({'window': (2, 0)}, 'window='),
    ({'shift': (2, 0)}, 'less than'), ({'shift': (1,)}, 'shift='), ({'bias_dropout': 1.0}, 'bias_dropout'),
    ({'remat': 'all'}, 'remat'), ({'dtype': 'float16'}, 'dtype'), ({'positions': 'sincos'}, 'positions'),
  ],
)  # fmt: skip
def test_impossible_values_are_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    LocalDecoder(**{**TINY, **changes})
