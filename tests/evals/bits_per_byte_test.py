"""Bits per byte against a loop over single texts, for bytes and learned tokens; what is left out; the baseline."""

import jax
import numpy as np
import pytest
from inputs.media import Memory

from sslax.data import train_bpe
from sslax.errors import BadRecord, UserError
from sslax.evals.bits_per_byte import BitsPerByte
from sslax.evals.probe import BASELINE, RANDOM, TRAINED, Data
from sslax.evaluation.models import Models
from sslax.evaluation.store import FeatureStore
from sslax.inputs.image import Image
from sslax.inputs.tokens import Tokens
from sslax.methods.causal_lm import CausalLM
from sslax.models.text import TextTransformer
from sslax.run import config as configs
from sslax.run.optim import AdamW
from sslax.spec import spec

TRAIN = Memory([{'text': text} for text in ('the cat sat', 'on the mat “naïve”', 'and the dog sat on the log')])
TEST = Memory(
  [{'text': 'the cat sat on it'[:n]} for n in range(1, 18)]
  + [
    {'text': text} for text in ('日本語 they said', b'\xf0\x9f', ['on the log', 'and more'], 'the cat sat on the mat, once more')
  ]
)

ALL = sum(range(1, 18)) + 19 + 2 + 10 + 8 + 33  # bytes


@pytest.fixture(scope='module')
def bpe(tmp_path_factory):
  path = str(tmp_path_factory.mktemp('bpe') / 'bpe.json')
  train_bpe.train_bpe([record['text'] for record in TRAIN.records] * 5, 270, path)
  return path


def store_of(folder, tokens, row=RANDOM):
  """A real store of a model that is not trained; 8 texts a batch, so that the last one has a rest."""
  config = configs.base_config()
  config.batch_size, config.num_steps, config.eval.batch_size = 8, 1, 8
  encoder = spec(TextTransformer, width=16, depth=1, heads=2, vocab_size=tokens.vocab_size, length=tokens.length, pool='last')
  config.method = spec(CausalLM, encoder=encoder, text=spec(Tokens, tokenizer=tokens.tokenizer, length=tokens.length))
  config.optim = spec(AdamW)
  models = Models(folder, config, TRAIN)
  scale = lambda name, x: 30 * x if name == 'tokens' else x  # of order one: else all bytes are as probable
  state = models.random
  state.params['encoder'] = {name: scale(name, x) for name, x in state.params['encoder'].items()}
  return FeatureStore(models, row, 0, folder / 'features', said=set())


def scores(store, train=TRAIN, test=TEST, probe=BitsPerByte()):
  data = Data(train, test, '')
  probe.check(store.card, data)
  found = {score.name: score for score in probe.run(store, data)}
  return found, probe.caption(list(found.values()))


def slow(store, value):
  """(bits, tokens, bytes) of all texts that have a token, one by one and without padding."""
  total, tokens, size = 0.0, 0, 0
  for record in TEST.records:
    try:
      row = value.draw(value.decode(record), None)
    except BadRecord:
      continue
    ids = row['tokens'][row['tokens'] != value.padding]
    batch = {'tokens': np.append(ids, np.full(value.length + 1 - len(ids), value.padding))[None].astype(np.int32)}
    logits = np.float64(store.encode(batch).logits[0])[: len(ids) - 1]
    p = np.exp(logits - logits.max(1, keepdims=True))
    total -= np.log2(p[np.arange(len(ids) - 1), ids[1:]] / p.sum(1)).sum()
    tokens, size = tokens + len(ids) - 1, size + row['token_bytes'].sum()
  return total, tokens, size


@pytest.mark.parametrize('kind', ['bytes', 'bpe'])
@pytest.mark.slow
def test_the_definition_written_as_a_loop(tmp_path, bpe, kind, capsys):
  value = Tokens('bytes' if kind == 'bytes' else bpe, 16)
  store = store_of(tmp_path, value)
  found, caption = scores(store)
  bits, tokens, size = slow(store, value)
  score, details = found['bits_per_byte'], found['bits_per_byte'].details
  bad = int(kind == 'bpe')  # half a character is no token of a tokenizer of texts
  assert details == {'bytes': size, 'bytes_left_out': ALL - size, 'tokens': tokens, 'texts': 21 - bad, 'bad_records': bad}
  np.testing.assert_allclose(score.value, bits / size, rtol=1e-5)
  np.testing.assert_allclose(found['perplexity'].value, 2 ** (bits / tokens), rtol=1e-5)
  assert 4 < score.value < 16 and score.more_is_better is False and score.chance == 8
  said = f'{size} of {ALL} bytes of {21 - bad} texts; {ALL - size} are in no window and left out'
  assert said in caption and said in capsys.readouterr().err
  assert ('1 records cannot be used' in caption) == bool(bad)


@pytest.mark.slow
def test_nothing_is_left_out_of_short_texts(tmp_path, bpe, capsys):
  """The same bytes by both tokenizers: what makes their numbers comparable."""
  short = Memory(TEST.records[:18])
  for value in (Tokens('bytes', 20), Tokens(bpe, 20)):
    found, caption = scores(store_of(tmp_path / value.tokenizer.replace('/', '_'), value), test=short)
    details, size = found['bits_per_byte'].details, sum(range(1, 18)) + 19
    assert (details['bytes'], details['bytes_left_out'], details['texts']) == (size, 0, 18)
    assert f'all {size} bytes of 18 texts.' in caption
  assert details['tokens'] < size


def test_the_baseline_counts_bytes_of_training_texts(tmp_path):
  """Of the same bytes as the windows, by the frequencies in all texts of the training set, each one more than it is."""
  texts = [record['text'].encode() for record in TRAIN.records]
  count = [1 + sum(text.count(bytes([b])) for text in texts) for b in range(256)]
  first = [Tokens().decode(record)[0][:16] for record in TEST.records]
  bits = -sum(np.log2(count[b] / sum(count)) for text in first for b in text)
  store = store_of(tmp_path, Tokens('bytes', 16), BASELINE)
  found, _ = scores(store)
  assert list(found) == ['bits_per_byte'] and store.name == 'byte histogram'
  np.testing.assert_allclose(found['bits_per_byte'].value, bits / sum(map(len, first)), rtol=1e-6)
  assert found['bits_per_byte'].details['bytes'] == sum(map(len, first))
  some, _ = scores(store, probe=BitsPerByte(records=2))  # the first and the last
  count = [1 + sum(text.count(bytes([b])) for text in texts[::2]) for b in range(256)]
  bits = -sum(np.log2(count[b] / sum(count)) for text in first for b in text)
  np.testing.assert_allclose(some['bits_per_byte'].value, bits / sum(map(len, first)), rtol=1e-6)
  with pytest.raises(ValueError, match='records=0'):
    BitsPerByte(records=0)


def test_logits_are_never_those_of_the_whole_set(tmp_path, monkeypatch):
  """What comes back from the device is three numbers a text."""
  store, kept = store_of(tmp_path, Tokens('bytes', 16)), {}
  streamed = store.map
  monkeypatch.setattr(store, 'map', lambda *args: kept.update(streamed(*args)) or kept)
  monkeypatch.setattr(store, 'get', lambda *args: pytest.fail('a whole set was asked for'))
  scores(store)
  assert {key: value.shape for key, value in kept.items()} == {'bits': (21,), 'tokens': (21,), 'bytes': (21,)}


def test_what_is_refused(tmp_path):
  store = store_of(tmp_path, Tokens('bytes', 16))
  card, data, probe = store.card, Data(TRAIN, TEST, ''), BitsPerByte()
  classes = {'logits': jax.ShapeDtypeStruct((2, 10), np.float32)}
  for wrong, message in (
    (card._replace(inputs={'image': Image(8)}), 'CausalLM takes no text as tokens'),
    (card._replace(features=classes), r'have shape \[2, 10\] and predict no text'),
  ):
    with pytest.raises(UserError, match=message):
      probe.check(wrong, data)
  for wrong in (data._replace(test=Memory([{'image': 1}])), data._replace(train=Memory([{'text': ''}]))):
    with pytest.raises(UserError, match='not one of 1 records can be used as text'):
      probe.check(card, wrong)
  store.params['encoder']['norm']['bias'] *= np.nan
  with pytest.raises(UserError, match='diverged'):
    list(probe.run(store, data))


def test_rows_of_the_table():
  assert BitsPerByte().needs().rows == (TRAINED, RANDOM, BASELINE) and not BitsPerByte().needs().labels


def _lossy(kind, path):
  """Tokenizers that say another text than they were given."""
  import tokenizers as t

  prefix = kind == 'prefix'
  if kind == 'unknown':
    tokenizer = t.Tokenizer(t.models.WordLevel({'[UNK]': 0, 'the': 1, 'cat': 2}, unk_token='[UNK]'))
    tokenizer.pre_tokenizer = t.pre_tokenizers.WhitespaceSplit()
  else:
    tokenizer = t.Tokenizer(t.models.BPE())
    tokenizer.normalizer = {'lower': t.normalizers.Lowercase(), 'strip': t.normalizers.Strip()}.get(kind)
    pre = t.pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre, t.decoders.ByteLevel()
    tokenizer.train_from_iterator(
      ['the cat'], t.trainers.BpeTrainer(vocab_size=260, initial_alphabet=pre.alphabet(), show_progress=False)
    )
  tokenizer.save(str(path))


@pytest.mark.parametrize(
  'kind, said', [('unknown', '[UNK]'), ('lower', "'the cat SAT"), ('prefix', "' the cat"), ('strip', "'on the mat'")]
)
def test_a_tokenizer_that_changes_texts_is_refused(kind, said, tmp_path):
  """Else 223 unknown words of 242 cost next to nothing, over all their bytes: 0.11 bits per byte."""
  _lossy(kind, tmp_path / 't.json')
  tokens = Tokens(str(tmp_path / 't.json'), length=16)
  test = Memory([{'text': 'on the mat  ' if kind == 'strip' else 'the cat SAT on the mat'}])
  with pytest.raises(UserError, match='changes texts') as error:
    scores(store_of(tmp_path, tokens), test=test)
  assert said in str(error.value), error.value
