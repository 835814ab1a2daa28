"""Windows of text: which tokens, the id before the first one, and how many bytes each stands for."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import media

from sslax.data import train_bpe
from sslax.errors import BadRecord, UserError
from sslax.inputs.tokens import Tokens

TEXT = 'the cat sat on the mat, and the dog sat on the log: “naïve” 日本語 they said.\n\n' * 40
QUICK = settings(max_examples=100, deadline=None, database=None, derandomize=True)


@pytest.fixture(scope='module')
def bpe(tmp_path_factory):
  path = str(tmp_path_factory.mktemp('bpe') / 'bpe.json')
  assert train_bpe.train_bpe([TEXT, '', TEXT], 290, path) == 290
  return path


def rng(i):
  return np.random.Generator(np.random.Philox(key=i))


def draw(value, text, generator=None):
  row = value.draw(value.decode({'text': text}), generator)
  assert {key: (array.shape, array.dtype) for key, array in row.items()} == {
    key: (s.shape, s.dtype) for key, s in value.shapes().items()
  }
  return row['tokens'], row['token_bytes']


def test_bytes_with_the_start_before_them():
  """A model that reads tokens[:-1] predicts every byte of the window, the first one from the start alone."""
  value = Tokens(length=6)
  assert (value.start, value.padding, value.vocab_size) == (256, 257, 258)
  tokens, sizes = draw(value, 'héllo!!')
  assert tokens.tolist() == [256, *'héllo!!'.encode()[:6]] and sizes.tolist() == [1] * 6
  tokens, sizes = draw(value, 'hi')
  assert tokens.tolist() == [256, 104, 105, 257, 257, 257, 257] and sizes.tolist() == [1, 1, 0, 0, 0, 0]
  assert draw(value, 'hi', rng(0))[0].tolist() == tokens.tolist()
  assert draw(value, b'\xff\0\xfe')[0].tolist() == [256, 255, 0, 254, 257, 257, 257]  # no text, and bytes all the same


def test_windows_of_bytes():
  data = bytes(range(50))
  starts = set()
  for i in range(300):
    tokens, _ = draw(Tokens(length=40), data, rng(i))
    assert tokens.tolist() == [256, *range(tokens[1], tokens[1] + 40)]
    starts.add(int(tokens[1]))
  assert starts == set(range(11))
  assert draw(Tokens(length=40), data)[0].tolist() == [256, *range(40)]


def test_of_several_texts_one_is_drawn():
  value = Tokens(length=1)
  for texts in (['a', 'b', 'c'], ('a', b'b', 'c'), np.array(['a', 'b', 'c']), ['', 'a', None, 'b', 'c', 7]):
    assert {chr(draw(value, texts, rng(i))[0][1]) for i in range(50)} == {'a', 'b', 'c'}
    assert draw(value, texts)[0].tolist() == [256, 97]
  assert draw(value, '\ud83d')[0].tolist() == [256, 63]  # half a pair: '?'


@pytest.mark.parametrize('text', [None, '', b'', [], [''], [None], 7])
def test_without_text(text):
  with pytest.raises(BadRecord, match='no text'):
    Tokens().decode({'text': text})
  with pytest.raises(BadRecord, match='no text'):
    Tokens().decode({'image': 1})


def test_learned_tokens(bpe):
  value = Tokens(bpe, length=20)
  library = tokenizers.Tokenizer.from_file(bpe)
  whole = library.encode(TEXT).ids
  assert (value.start, value.padding, value.vocab_size) == (290, 291, 292)
  tokens, sizes = draw(value, TEXT)
  assert tokens.tolist() == [290, *whole[:20]]  # the first stretch is tokenised as the whole text is
  for i in range(200):
    tokens, sizes = draw(value, TEXT, rng(i))
    assert tokens[0] == 290 and (tokens[1:] < 290).all()
    said = value.show({'tokens': tokens[None]})[0]
    assert said.strip('\ufffd') in TEXT
    if '\ufffd' not in said:
      assert sizes.sum() == len(said.encode())
    np.testing.assert_array_equal(sizes, [len(library.id_to_token(int(i))) for i in tokens[1:]])
  tokens, sizes = draw(value, 'the 日')
  n = len(library.encode('the 日').ids)
  assert tokens.tolist() == [290, *library.encode('the 日').ids] + [291] * (20 - n)
  assert sizes.sum() == 7 and (sizes[:n] > 0).all() and (sizes[n:] == 0).all()


def test_a_size_that_is_stated_needs_no_file(bpe):
  """Shapes, and the ids of start and padding, of a tokenizer that is elsewhere; one with another number of ids is refused."""
  value = Tokens('/elsewhere/tokenizer.json', length=20, size=290)
  assert (value.start, value.padding, value.vocab_size) == (290, 291, 292)
  value.require(292, 'vocab')
  with pytest.raises(UserError, match='elsewhere'):
    draw(value, TEXT)
  for stated, read in zip(draw(Tokens(bpe, length=20, size=290), TEXT), draw(Tokens(bpe, length=20), TEXT), strict=True):
    np.testing.assert_array_equal(stated, read)
  for value in (Tokens(bpe, size=291), Tokens(size=290)):
    with pytest.raises(UserError, match=f'size={value.size}, and the tokenizer .* has (290|256) ids'):
      draw(value, TEXT)


def test_places_of_windows_reach_the_whole_text(bpe):
  words = ' '.join(f'w{i}' for i in range(2000))
  value = Tokens(bpe, length=16)
  said = [value.show({'tokens': draw(value, words, rng(i))[0][None]})[0] for i in range(200)]
  assert all(text in words for text in said)
  places = np.array([words.index(text) for text in said]) / len(words)
  assert places.min() < 0.05 and places.max() > 0.95 and abs(places.mean() - 0.5) < 0.08


def test_tokens_longer_than_most(tmp_path):
  """A stretch of 8 bytes a token is too short here: it grows until the window is full."""
  path = str(tmp_path / 'long.json')
  train_bpe.train_bpe(['x' * 64] * 50, 270, path)
  value = Tokens(path, length=10)
  for generator in (None, rng(0)):
    tokens, sizes = draw(value, 'x' * 5000, generator)
    assert (tokens[1:] < value.start).all() and sizes.sum() > 300


@given(st.text(min_size=1, max_size=60))
@QUICK
def test_bytes_are_counted_once(bpe, text):
  text = text.encode('utf-8', 'replace').decode()
  for value in (Tokens(length=400), Tokens(bpe, length=400)):
    tokens, sizes = draw(value, text)
    assert sizes.sum() == len(text.encode())
    np.testing.assert_array_equal(sizes > 0, tokens[1:] != value.padding)
    assert value.show({'tokens': tokens[None]}) == [text]


def test_other_tokenizers(tmp_path):
  """Words with spaces that belong to no token, unknown words, merges left out at random, an end that the file would add."""
  path = str(tmp_path / 'words.json')
  library = tokenizers.Tokenizer(tokenizers.models.WordLevel({'é': 0, 'the': 1, '[UNK]': 2, '[END]': 3}, unk_token='[UNK]'))
  library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  library.post_processor = tokenizers.processors.TemplateProcessing('$A [END]', special_tokens=[('[END]', 3)])
  library.enable_truncation(2)
  library.enable_padding(length=9)
  library.save(path)
  tokens, sizes = draw(Tokens(path, length=8), '  the é  日本 the ')
  assert tokens.tolist() == [4, 1, 0, 2, 1, 5, 5, 5, 5]
  assert sizes.tolist() == [5, 3, 8, 4, 0, 0, 0, 0]  # each with the spaces before it
  with pytest.raises(BadRecord, match='not one token'):
    draw(Tokens(path, length=8), '   ')

  train_bpe.train_bpe([TEXT], 290, str(tmp_path / 'bpe.json'))
  stored = json.loads((tmp_path / 'bpe.json').read_text())
  stored['model']['dropout'] = 0.9
  (tmp_path / 'dropout.json').write_text(json.dumps(stored))
  assert (
    draw(Tokens(str(tmp_path / 'dropout.json')), TEXT)[0].tolist() == draw(Tokens(str(tmp_path / 'bpe.json')), TEXT)[0].tolist()
  )


@pytest.mark.parametrize(
  'kind, how',
  [('bytes', {'threads': 4}), ('bytes', {'start_step': 2}), ('bpe', {'threads': 1, 'prefetch': 1}), ('bpe', {'workers': 1})],
)
@pytest.mark.slow
def test_who_decodes_changes_nothing(bpe, kind, how):
  source = media.Memory([{'text': [TEXT[i:], TEXT[2 * i :]], 'label': i % 3} for i in range(16)])
  value = pickle.loads(pickle.dumps(Tokens(bpe if kind == 'bpe' else kind, length=12)))
  batches = media.take(source, value, 4)
  media.same(batches[how.get('start_step', 0) :], media.take(source, value, 4 - how.get('start_step', 0), **how))
  rows, bad = media.evaluated(source, value)
  media.same([rows], [media.evaluated(source, value, threads=1)[0]])
  assert bad == 0 and rows['tokens'].shape == (16, 13) and rows['token_bytes'].shape == (16, 12)


def test_baseline_and_pictures(bpe):
  for value in (Tokens(length=9), Tokens(bpe, length=9)):
    arrays = {'tokens': np.stack([draw(value, text)[0] for text in ('aab', 'é', 'b')])}
    rows = value.baseline(arrays)
    assert rows.shape == (3, 256) and rows.dtype == np.float32 and value.baseline_name == 'byte histogram'
    np.testing.assert_allclose(rows[0, [97, 98]], [2 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(rows[1, [0xC3, 0xA9]], [0.5, 0.5])
    np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-6)
    assert value.show(arrays) == ['aab', 'é', 'b']
    assert value.show({'tokens': np.zeros((0, 10), np.int32)}) == []
    value.require(value.vocab_size, 'vocab')
    with pytest.raises(UserError, match='vocab=200 is too small'):
      value.require(200, 'vocab')
  assert Tokens().describe([{'text': 'abc'}]) == 'texts of 3 bytes'
  assert Tokens().describe([{'text': 'abc'}, {'text': ['é', 'x' * 1200]}]) == 'texts of 2-1,200 bytes'


def test_real_text(real_data, tmp_path):
  text = (real_data / 'shakespeare' / 'input.txt').read_text()
  path = str(tmp_path / 'bpe.json')
  assert train_bpe.train_bpe([text[:100_000]], 1024, path) == 1024
  for value, each in ((Tokens(), 1), (Tokens(path), 1.5)):
    (batch,) = media.take(media.Memory([{'text': text}]), value, 1, batch_size=1)
    (said,) = value.show(batch)
    assert said in text and batch['token_bytes'].sum() == len(said) >= each * 128


@pytest.mark.parametrize('field, value', [('tokenizer', ''), ('length', 0), ('size', -1)])
def test_impossible_fields_are_told(field, value):
  with pytest.raises(ValueError, match=field):
    Tokens(**{field: value})


def test_files_that_are_none(tmp_path, monkeypatch):
  (tmp_path / 'junk.json').write_text('{"model": {"type": "BPE"}}')
  for path in ('nowhere.json', str(tmp_path / 'junk.json'), str(tmp_path), __file__):
    with pytest.raises(UserError, match="neither 'bytes' nor the path of a tokenizer.json"):
      draw(Tokens(path), 'text')
  monkeypatch.setitem(sys.modules, 'tokenizers', None)
  with pytest.raises(UserError, match=r"pip install 'sslax\[text\]'"):
    draw(Tokens('other.json'), 'text')
  draw(Tokens(), 'text')  # bytes need none
  with pytest.raises(UserError, match=r"pip install 'sslax\[text\]'"):
    train_bpe.train_bpe([TEXT], 300, str(tmp_path / 'x.json'))


def test_command_line(tmp_path, capsys):
  out = tmp_path / 'bpe.json'
  assert train_bpe.main(['--data=digits:captions', '--vocab_size=300', f'--out={out}']) == 0
  assert f'{out}: 300 tokens' in capsys.readouterr().out
  assert draw(Tokens(str(out), length=8), 'a handwritten three')[1].sum() > 16  # learned from such captions
  for flags, message in (
    (['--data=digits:', f'--out={out}'], 'no text to learn from'),
    (['--data=digits:captions', '--vocab_size=255', f'--out={out}'], 'vocab_size=255'),
    (['--data=digits:captions', f'--out={out}/x/y.json'], 'cannot write'),
    (['--data=digitz:', f'--out={out}'], 'digitz'),
  ):
    assert train_bpe.main(flags) == 2
    assert message in capsys.readouterr().err
  run = subprocess.run([sys.executable, '-m', 'sslax.data.train_bpe', '--data=x:'], capture_output=True, text=True, timeout=120)
  assert run.returncode == 2 and '--out' in run.stderr
