"""The text transformer: who sees whom, what is pooled, what is refused. Parity is in import_clip_test.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslax.models import net
from sslax.models.text import TextTransformer

TINY = dict(width=16, depth=2, heads=2, vocab_size=20, length=8)
IDS = np.array([[17, 3, 4, 19, 0, 0, 0, 0], [17, 5, 6, 7, 8, 9, 10, 19]], np.int32)


@functools.cache
def model_and_params(**fields):
  model = TextTransformer(**TINY, **fields)
  shapes = jax.eval_shape(lambda key: net.init(model, key, jnp.asarray(IDS))[0], jax.random.key(0))
  rng = np.random.default_rng(1)  # of order one: at init a block adds next to nothing
  return model, jax.tree.map(lambda p: np.float32((p.ndim == 1) + 0.3 * rng.standard_normal(p.shape)), shapes)


@functools.cache
def compiled(**fields):
  model, params = model_and_params(**fields)
  return jax.jit(lambda ids: net.apply(model, params, {}, ids, train=False)[0])


def changed(row, position, to):
  ids = IDS.copy()
  ids[row, position] = to
  return ids


def test_causal_text_sees_the_past_only():
  run = compiled()
  out = run(IDS)
  later = run(changed(1, 4, 11))
  np.testing.assert_allclose(later.tokens[1, :4], out.tokens[1, :4], rtol=1e-5, atol=1e-5)
  assert (np.abs(later.tokens[1, 4:] - out.tokens[1, 4:]).max(-1) > 1e-3).all()
  np.testing.assert_allclose(out.pooled, np.stack([out.tokens[0, 3], out.tokens[1, 7]]), rtol=1e-6)
  padding = run(changed(0, 6, 2))  # after the end token: nobody knows
  np.testing.assert_allclose(padding.pooled, out.pooled, rtol=1e-6)
  short = run(IDS[:, :4])  # a shorter row has the first positions
  np.testing.assert_allclose(short.pooled[0], out.pooled[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('pool', ['argmax', 'last', 'mean', 'cls'])
def test_an_encoder_sees_all_of_the_text_and_no_padding(pool):
  run = compiled(causal=False, pool=pool)
  out = run(IDS)
  for position in (1, 2):
    assert np.abs(run(changed(0, position, 11)).pooled[0] - out.pooled[0]).max() > 1e-3
  padding = run(changed(0, 5, 2))
  np.testing.assert_allclose(padding.pooled, out.pooled, rtol=1e-5, atol=1e-5)
  tokens = np.asarray(out.tokens)
  expected = {'argmax': tokens[0, 3], 'last': tokens[0, 7], 'mean': tokens[0, :4].mean(0), 'cls': tokens[0, 0]}[pool]
  np.testing.assert_allclose(out.pooled[0], expected, rtol=1e-5, atol=1e-6)
  assert np.isfinite(run(np.zeros_like(IDS)).pooled).all()  # a row of padding


@pytest.mark.slow
def test_scanned_blocks_are_the_loop_also_with_remat():
  """With the gradient; the parameters of layer i are row i."""
  model, params = model_and_params()
  scanned = TextTransformer(**TINY, scan=True, remat='full')
  rest = {k: v for k, v in params.items() if not k.startswith('blocks_')}
  stack = lambda tree: {**{k: v for k, v in tree.items() if not k.startswith('blocks_')},
                        'blocks': jax.tree.map(lambda *x: np.stack(x), tree['blocks_0'], tree['blocks_1'])}  # fmt: skip
  assert len(rest) == 3

  def grad(model):
    return jax.jit(jax.grad(lambda p: jnp.sum(net.apply(model, p, {}, IDS, train=True)[0].pooled[:, :3])))

  a, b = stack(grad(model)(params)), grad(scanned)(stack(params))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), a, b)


@pytest.mark.slow
def test_initial_values_are_clips():
  """Standard deviations of openai/CLIP, initialize_parameters."""
  model = TextTransformer(width=64, depth=4, heads=2, vocab_size=500, length=40)
  params, _ = jax.jit(lambda key: net.init(model, key, jnp.zeros((1, 40), jnp.int32)))(jax.random.key(0))
  block, out = params['blocks_3'], 64**-0.5 * 8**-0.5
  for x, std in (
    (params['tokens'], 0.02), (params['positions'], 0.01), (block['qkv']['kernel'], 64**-0.5), (block['proj']['kernel'], out),
    (block['fc1']['kernel'], 128**-0.5), (block['fc2']['kernel'], out),
  ):  # fmt: skip
    np.testing.assert_allclose(np.std(x), std, rtol=0.05)
  assert not np.any(block['fc1']['bias'])


@pytest.mark.slow
def test_dropout_of_embeddings_in_training_only():
  model, params = model_and_params(dropout=0.5)
  still = net.apply(model, params, {}, IDS, train=False)[0].tokens
  np.testing.assert_allclose(still, compiled()(IDS).tokens, atol=1e-5)
  thin = jax.jit(lambda seed: net.apply(model, params, {}, IDS, train=True, rng=jax.random.key(seed))[0].tokens)
  assert np.abs(thin(0) - still).max() > 0.1 and np.abs(thin(0) - thin(1)).max() > 0.1
  quiet = {**params, **{f'blocks_{i}': jax.tree.map(np.zeros_like, params[f'blocks_{i}']) for i in range(2)}}
  out = net.apply(model.clone(dropout=0.5), quiet, {}, IDS, train=True, rng=jax.random.key(0))[0].tokens
  assert np.abs(out - net.apply(model, quiet, {}, IDS, train=False)[0].tokens).max() > 0.1  # blocks add nothing


def test_what_is_refused():
  for fields, word in (
    ({'pool': 'cls'}, 'sees nothing'),
    ({'pool': 'max'}, 'pool'),
    ({'heads': 3}, 'multiple'),
    ({'depth': 0}, 'depth'),
    ({'remat': 'all'}, 'remat'),
  ):
    with pytest.raises(ValueError, match=word):
      TextTransformer(**{**TINY, **fields})
  with pytest.raises(ValueError, match='texts of 9 tokens'):
    jax.eval_shape(lambda: net.init(TextTransformer(**TINY), jax.random.key(0), jnp.zeros((1, 9), jnp.int32)))
  assert np.isnan(compiled()(changed(0, 1, 20)).pooled[0]).any(), 'an id outside the vocabulary must not pass for another'
