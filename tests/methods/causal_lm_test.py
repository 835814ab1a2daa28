"""The causal language model: parity with GPT-2, who sees whom, what is counted, what it writes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inputs.media import Memory
from methods.battery import Battery, Trainer
from models.import_torch_test import weights
from run.trainer import run

from sslax.errors import UserError
from sslax.evals.views import views_sheet
from sslax.inputs.tokens import Tokens
from sslax.methods.causal_lm import CausalLM
from sslax.models import net
from sslax.models.text import TextTransformer
from sslax.ops import microbatches, tree

START, PADDING = 256, 257


def tiny_lm(length=8, **changes):
  gpt2 = dict(pool='last', activation='gelu_tanh', weight_init='gpt2')
  fields = dict(width=16, depth=2, heads=2, vocab_size=260, length=length, **gpt2)
  return CausalLM(TextTransformer(**{**fields, **changes}), Tokens(length=length))


def token_batch(rows=16, length=8, seed=0):
  """Texts of 1, 3 and `length` bytes, the longest ones last: devices and microbatches hold unequal numbers of targets."""
  rng = np.random.default_rng(seed)
  lengths = np.sort(rng.choice([1, 3, length], rows))
  inside = np.arange(length)[None] < lengths[:, None]
  tokens = np.where(inside, rng.integers(97, 123, (rows, length)), PADDING)
  tokens = np.concatenate([np.full((rows, 1), START), tokens], 1).astype(np.int32)
  return {
    'tokens': tokens,
    'token_bytes': inside.astype(np.int32),
    'label': rng.integers(0, 4, rows).astype(np.int32),
    'index': np.arange(rows, dtype=np.int32),
  }


def lively(method, seed=1):
  """Parameters of order one: at the start a block adds next to nothing."""
  shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), token_batch(2, method.text.length))[0])
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda p: np.float32((p.ndim == 1) + 0.3 * rng.standard_normal(p.shape)), shapes)


@functools.cache
def features_of(method):
  return jax.jit(method.features)


def alone(method, params, ids):
  """(logits [T, V], states [T, D]) of one text without padding."""
  out = features_of(method)(params, {}, {'tokens': np.append(ids, PADDING)[None].astype(np.int32)})
  return np.float64(out.logits[0]), np.float64(out.tokens[0])


def surprise(logits, targets):
  """[T] nats."""
  top = logits.max(1)
  return top + np.log(np.exp(logits - top[:, None]).sum(1)) - logits[np.arange(len(targets)), targets]


def slow_loss(method, params, batch):
  """(nats, targets) over all texts, each read alone."""
  texts = [row[row != PADDING] for row in batch['tokens']]
  nats = [surprise(alone(method, params, text[:-1])[0], text[1:]) for text in texts]
  return sum(n.sum() for n in nats), sum(map(len, nats))


def loss_and_metrics(method, params, batch, pieces=1):
  def loss(params):
    with microbatches.running_in(pieces):
      loss, out = method.loss(params, {}, batch, jax.random.key(0), 0)
    return loss, out.metrics

  return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


class TestCausalLM(Battery):
  def make(self):
    return tiny_lm(dropout=0.1)

  def make_without_batchnorm(self):
    return tiny_lm()  # microbatches draw other dropout

  def batch(self, seed=0):
    return token_batch(self.rows, seed=seed)


def hf_params(reference, method):
  """Parameters of the reference, which the rule of tests/golden/README.md makes from its names."""
  shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), token_batch(2))[0])['encoder']
  paths = dict(zip(tree.paths(shapes), jax.tree.leaves(shapes), strict=True))
  filled = {path: weights(hf_name(path), leaf.shape) for path, leaf in paths.items()}
  assert sorted(map(hf_name, filled)) == sorted(reference['names'])
  return {'encoder': jax.tree.unflatten(jax.tree.structure(shapes), filled.values())}


def hf_name(path):
  """'blocks_0/qkv/kernel' -> 'transformer.h.0.attn.c_attn.weight'."""
  top = {'tokens': 'wte.weight', 'positions': 'wpe.weight', 'norm/scale': 'ln_f.weight', 'norm/bias': 'ln_f.bias'}
  if path in top:
    return f'transformer.{top[path]}'
  block, layer, leaf = path.split('/')
  layers = {'qkv': 'attn.c_attn', 'proj': 'attn.c_proj', 'fc1': 'mlp.c_fc', 'fc2': 'mlp.c_proj', 'norm1': 'ln_1', 'norm2': 'ln_2'}
  return f'transformer.h.{block[-1]}.{layers[layer]}.{"bias" if leaf == "bias" else "weight"}'


def test_it_is_gpt2(golden):
  """Logits, loss and gradients of transformers 5.24 GPT2LMHeadModel (torch 2.13, eager attention, no dropout): 260 ids, 9
  positions, width 16, 2 blocks, 2 heads; weights by the rule of tests/golden/README.md, read from `named_parameters`. It reads
  `tokens` [3, 9]; `padded` has 257 at the ends of two rows, whose labels are -100 there. Its loss shifts the labels itself.
  """
  reference = np.load(golden / 'model_gpt2_hf.npz')
  method = tiny_lm()
  method = dataclasses.replace(method, encoder=method.encoder.clone(length=9))
  params = hf_params(reference, method)
  logits = jax.jit(method.features)(params, {}, {'tokens': reference['tokens']}).logits
  assert logits.dtype == np.float32
  np.testing.assert_allclose(logits, reference['logits'], rtol=1e-5, atol=1e-5)
  for key in ('tokens', 'padded'):
    views = {'tokens': reference[key], 'token_bytes': (reference[key][:, 1:] != PADDING).astype(np.int32)}
    (loss, metrics), grads = loss_and_metrics(method, params, views)
    np.testing.assert_allclose(loss, reference[f'{key}_loss'], rtol=1e-6)
    np.testing.assert_allclose(metrics['bits_per_byte'], loss / np.log(2), rtol=1e-6)
    grads = dict(zip(map(hf_name, tree.paths(grads['encoder'])), jax.tree.leaves(grads), strict=True))
    compared = [name for name in reference.files if name.startswith(f'{key}_grad/')]
    assert len(compared) == 11
    for name in compared:
      np.testing.assert_allclose(grads[name.split('/')[1]], reference[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_initial_weights_are_gpt2s():
  """0.02, and 0.02 / sqrt(2 depth) for what ends in the residual stream; positions 0.01 as in the official code."""
  method = tiny_lm(length=64, width=64, depth=8, heads=4)
  params = jax.jit(lambda: method.init(jax.random.key(0), token_batch(1, 64))[0])()['encoder']
  block = params['blocks_5']
  kernels = {name: block[name]['kernel'].std() for name in ('qkv', 'fc1', 'proj', 'fc2')}
  np.testing.assert_allclose([params['tokens'].std(), kernels['qkv'], kernels['fc1']], 0.02, rtol=0.04)
  np.testing.assert_allclose([kernels['proj'], kernels['fc2']], 0.02 / 4, rtol=0.04)
  np.testing.assert_allclose(params['positions'].std(), 0.01, rtol=0.04)
  decay = net.groups(method.modules, {'encoder': params})['encoder']
  assert decay['tokens'].decay and decay['positions'].decay and not decay['blocks_0']['qkv']['bias'].decay


@pytest.mark.slow
def test_the_loss_written_out():
  """Each text alone, without padding: the sum of all over the number of all. Metrics; microbatches; bfloat16."""
  method, batch = tiny_lm(), token_batch()
  batch['token_bytes'] *= 3
  params = lively(method)
  nats, count = slow_loss(method, params, batch)
  (loss, metrics), grads = loss_and_metrics(method, params, batch)
  np.testing.assert_allclose(loss, nats / count, rtol=1e-5)
  np.testing.assert_allclose(metrics['perplexity'], np.exp(nats / count), rtol=1e-5)
  np.testing.assert_allclose(metrics['bits_per_byte'], nats / np.log(2) / (3 * count), rtol=1e-5)
  thin = jax.jit(lambda seed: tiny_lm(dropout=0.5).loss(params, {}, batch, jax.random.key(seed), 0)[0])
  assert thin(0) != thin(1)
  (same, _), again = loss_and_metrics(method, params, batch, pieces=4)
  np.testing.assert_allclose(same, loss, rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), again, grads)
  half = tiny_lm(dtype='bfloat16')
  rough, _ = jax.jit(lambda: half.loss(params, {}, batch, jax.random.key(0), 0))()
  assert rough.dtype == jnp.float32 and rough != loss and abs(rough - loss) < 0.05 * loss
  states = jnp.ones((1, 16), jnp.bfloat16)
  logits = half.logits(jnp.full((3, 16), 1 / 3), states)  # 16 / 3 in bfloat16 would be off by 0.4 %
  assert logits.dtype == jnp.float32 and float(logits[0, 0]) == 16 * float(jnp.bfloat16(1 / 3))


@pytest.mark.slow
def test_the_table_learns_as_embedding_and_as_classifier():
  method, batch = tiny_lm(), token_batch()
  params = lively(method)

  def loss(read, written):
    ids, targets = batch['tokens'][:, :-1], batch['tokens'][:, 1:]
    states = method.read({'encoder': {**params['encoder'], 'tokens': read}}, ids)
    return method.nats(method.logits(written, states), targets).sum() / np.sum(targets != PADDING)

  table = params['encoder']['tokens']
  parts = jax.jit(jax.grad(loss, argnums=(0, 1)))(table, table)
  _, grads = loss_and_metrics(method, params, batch)
  assert all(np.abs(part).max() > 1e-3 for part in parts)
  np.testing.assert_allclose(grads['encoder']['tokens'], parts[0] + parts[1], rtol=1e-4, atol=1e-6)
  assert [p.shape for p in jax.tree.leaves(params) if 260 in p.shape] == [(260, 16)]


def test_no_token_sees_what_comes():
  method = tiny_lm()
  params, tokens = lively(method), np.array([[START, *b'abcdefgh']], np.int32)
  logits = lambda tokens: features_of(method)(params, {}, {'tokens': tokens}).logits[0]
  before = logits(tokens)
  for t in range(1, 8):
    other = tokens.copy()
    other[0, t] = ord('z')
    after = logits(other)
    np.testing.assert_array_equal(after[:t], before[:t])
    assert (np.abs(after[t:] - before[t:]).max(1) > 1e-3).all()


@pytest.mark.slow
def test_features_are_those_of_the_text_alone():
  """pooled: without the start, and without what stands behind the text."""
  method, batch = tiny_lm(), token_batch()
  params = lively(method)
  out = features_of(method)(params, {}, batch)
  assert out.tokens.shape == (16, 8, 16) and out.grid == (8,) and out.stride == (1,) and out.logits.shape == (16, 8, 260)
  for row in (0, 7, 15):
    ids = batch['tokens'][row, :-1]
    _, states = alone(method, params, ids[ids != PADDING])
    np.testing.assert_allclose(out.pooled[row], states[1:].mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_greedy_continuations_are_those_of_a_loop():
  method = tiny_lm()
  params = lively(method)
  given = np.array([0, 1, 3, 8])
  tokens = np.concatenate([np.full((4, 1), START), np.random.default_rng(0).integers(97, 123, (4, 8))], 1).astype(np.int32)
  written = np.asarray(jax.jit(lambda t, g: method.continued(params, t, g, jax.random.key(0), 0.0))(tokens, given))
  for row, n, found in zip(tokens, given, written, strict=True):
    text = list(row[: n + 1])
    while len(text) < 9:
      text.append(int(alone(method, params, text)[0][-1, :START].argmax()))
    np.testing.assert_array_equal(found, text)


@pytest.mark.slow
def test_drawn_continuations_follow_the_probabilities():
  method = tiny_lm(length=2)
  params = lively(method)
  tokens = np.tile(np.array([[START, 97, 98]], np.int32), (4000, 1))
  draw = jax.jit(lambda given, seed, t: method.continued(params, tokens, given, jax.random.key(seed), t), static_argnums=2)
  written = np.asarray(draw(np.ones(4000, np.int32), 0, 0.5))
  np.testing.assert_array_equal(written[:, :2], tokens[:, :2])
  logits = alone(method, params, tokens[0, :2])[0][-1, :START]
  p = np.exp((logits - logits.max()) / 0.5)
  p /= p.sum()
  often = np.bincount(written[:, 2], minlength=START) / 4000
  assert np.abs(often - p).max() < 4 * np.sqrt(0.25 / 4000) and 0.1 < p.max() < 0.9
  assert (np.asarray(draw(np.ones(4000, np.int32), 1, 0.5)) != written).any()
  hot = np.asarray(draw(np.zeros(4000, np.int32), 0, 100.0))
  assert (hot[:, 1] == hot[:, 2]).mean() < 0.02 and len(set(hot[:, 1])) == START  # one draw is not the next one


def test_only_tokens_are_written():
  """The start, padding, and rows of the table that are nobody's, also where the model would rather have these."""
  method = tiny_lm()
  params = lively(method)
  params['encoder']['norm']['bias'][:] = params['encoder']['tokens'][START:].sum(0) * 30
  text = np.full((3, 9), START)
  for temperature in (0.0, 1.0):
    ids = jax.jit(lambda t=temperature: method.continued(params, text, np.zeros(3, np.int32), jax.random.key(0), t))()
    assert (np.asarray(ids)[:, 1:] < START).all() and (np.asarray(ids)[:, 0] == START).all()
  assert alone(method, params, [START])[0].argmax() >= START  # it would


def test_pictures_and_views_are_texts():
  method, text = tiny_lm(length=32), b'the quick brown fox jumps over a dog'
  source = Memory([{'text': text}, {'text': b'hi'}, {'text': b'a'}])
  rows = [method.text.draw([record['text']], None) for record in source.records]
  batch = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
  columns = jax.jit(method.pictures)(lively(method), {}, batch, jax.random.key(0))
  said = {name: method.text.show(jax.tree.map(np.asarray, column)) for name, column in columns.items()}
  assert said['begins'] == ['the quick brown ', 'h', ''] and said['goes on'] == ['fox jumps over a', 'i', 'a']
  for column in columns.values():
    assert np.asarray(column['tokens']).shape == (3, 33)
  written = [np.asarray(columns[name]['tokens']) for name in ('most probable', 'drawn at temperature 1')]
  for ids in written:
    np.testing.assert_array_equal((ids < START).sum(1), [16, 31, 32])
  assert (written[0] != written[1]).any()
  sheet = views_sheet(method, source, rows=2)
  assert sheet.width > 500 and np.asarray(sheet.convert('L')).std() > 5  # two columns of texts


@pytest.mark.parametrize(
  'changes, message',
  [
    (dict(encoder=dict(causal=False)), 'encoder.causal=False would'),
    (dict(encoder=dict(length=7)), 'encoder.length=7 is less than text.length=8'),
    (dict(text=Tokens(length=1)), 'text.length=1 must be at least 2'),
  ],
)
def test_impossible_values_are_refused(changes, message):
  method = tiny_lm()
  encoder = method.encoder.clone(**changes.get('encoder', {}))
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(method, encoder=encoder, text=changes.get('text', method.text))


def test_a_table_smaller_than_the_vocabulary_is_refused():
  with pytest.raises(UserError, match='encoder.vocab_size=257 is too small for the 258 tokens'):
    tiny_lm(vocab_size=257).inputs()
  assert list(tiny_lm(vocab_size=258).inputs()) == ['text']


@pytest.mark.parametrize(
  'flag, message',
  [
    ('--config.method.encoder.vocab_size=100', 'encoder.vocab_size=100 is too small'),
    ('--config.method.text.tokenizer=/nowhere/bpe.json', "'/nowhere/bpe.json' is neither 'bytes' nor"),
    ('--config.method.text.length=512', 'encoder.length=128 is less than text.length=512'),
  ],
)
@pytest.mark.slow
def test_mistakes_on_the_command_line(tmp_path, flag, message):
  (tmp_path / 'x.txt').write_text('to be or not to be\n' * 400)
  data = [f'--config.data.{part}=text:{tmp_path}/x.txt?bytes=128' for part in ('train', 'test')]
  code, output = run('train', '--config=configs/causal_lm.py:shakespeare_cpu', f'--workdir={tmp_path}/w', *data, flag)
  assert code == 2 and message in output and 'Traceback' not in output, output


@pytest.mark.slow
def test_trainer_counts_targets_over_all_devices():
  """On 8 devices with unequal texts the loss is that of all texts, not the mean of the devices' means."""
  method, batch = tiny_lm(), token_batch()
  trainer = Trainer(method, devices=8, batch=batch)
  state = trainer.init(trainer.batch)
  nats, count = slow_loss(method, jax.tree.map(np.asarray, state.params), batch)
  _, history = trainer.run(1, state)
  np.testing.assert_allclose(history[0]['loss'], nats / count, rtol=1e-5)
