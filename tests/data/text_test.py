import gzip
import hashlib
import html
import pickle
import re
import socket
import unicodedata
import urllib.request

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sslax.data import text
from sslax.errors import UserError

QUICK = settings(max_examples=200, deadline=None, database=None, derandomize=True)
ANY = st.text(st.characters(exclude_categories=['Cs']), max_size=40)
PUBLISHED = 'bpe_simple_vocab_16e6.txt.gz'
MERGES = ['t h', 'th e</w>', 'a b', 'ab c</w>', 'b c</w>', 'a a', 'aa aa', 'Ã ©</w>']


def random_texts(n, seed, known=False):
  """n strings of all kinds; known: without what Unicode got after 3.2, so that no version of a table matters."""
  rng = np.random.default_rng(seed)
  pick = lambda ranges, k: ''.join(chr(rng.integers(*ranges[rng.integers(len(ranges))])) for _ in range(k))
  kinds = {
    'ascii': [(0x20, 0x7F)],
    'latin': [(0x20, 0x7F), (0xA0, 0x180)],
    'all planes': [(0x20, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000)],
    'combining': [(0x61, 0x7B), (0x300, 0x370), (0x1AB0, 0x1ABF)],
    'right to left': [(0x5D0, 0x5EB), (0x620, 0x64B), (0x200E, 0x2010), (0x20, 0x21)],
    'emoji': [(0x1F300, 0x1F650), (0x1F3FB, 0x1F400), (0x200D, 0x200E), (0xFE0F, 0xFE10), (0x1F1E6, 0x1F200)],
    'controls': [(0x00, 0x20), (0x7F, 0xA1), (0x61, 0x7B), (0x2028, 0x202F)],
    'far east': [(0x3040, 0x30FF), (0x4E00, 0x9FA5), (0xAC00, 0xD7A4), (0xFF01, 0xFF5F)],
    'greek, georgian, cherokee': [(0x391, 0x3CA), (0x10A0, 0x10D0), (0x13A0, 0x13F5), (0x20, 0x21)],
  }
  phrases = [
    "it's", 'THE', '&amp;amp;', '&lt;b&gt;', '&eacute;', '&#x1F431;', '&nbsp;', "don't", '“quoted”', 'cafÃ©', 'ﬁne', '½', '\r\n',
    '\x1b[31m', 'a' * 60, '…', '１２３', 'Ⅻ', 'ſ', "'ſ", 'İ', '\x85', 'naïve', '#hash', 'x_y', '...!?', '42nd',
  ]  # fmt: skip
  texts = []
  for i in range(n):
    name = [*kinds, 'phrases', 'mojibake', 'long'][i % (len(kinds) + 3)]
    if name == 'phrases':
      t = ' '.join(phrases[rng.integers(len(phrases))] for _ in range(rng.integers(1, 12)))
    elif name == 'mojibake':
      t = pick(kinds['latin'], 12).encode().decode('latin-1')
    elif name == 'long':
      t = ' '.join(pick(kinds['latin'], rng.integers(1, 200)) for _ in range(rng.integers(1, 40)))
    else:
      t = pick(kinds[name], rng.integers(0, 60))
    texts.append(''.join(c for c in t if unicodedata.ucd_3_2_0.category(c) != 'Cn') if known else t)
  return texts


@pytest.fixture(scope='module')
def clip(real_data):
  return text.BPETokenizer(str(real_data / 'clip' / PUBLISHED))


@pytest.fixture
def vocab(tmp_path):
  path = tmp_path / 'merges.txt'
  path.write_text('#version: 0.2\n' + '\n'.join(MERGES) + '\n', encoding='utf-8')
  return str(path)


# ---------------------------------------------------------------------------------------------------------------------- bytes


def test_bytes():
  tokenize = text.ByteTokenizer(8)
  ids = tokenize('hé\0')
  assert ids.dtype == np.int32 and ids.tolist() == [257, 105, 0xC3 + 1, 0xA9 + 1, 1, 258, 0, 0]
  assert tokenize('').tolist() == [257, 258] + [0] * 6
  assert tokenize('x' * 9).tolist() == [257] + [121] * 6 + [258]
  assert tokenize('\ud83d').tolist() == [257, 64, 258] + [0] * 5  # half a pair: '?'
  assert tokenize.decode(tokenize('abcdeé')) == 'abcde'  # é was cut in half
  assert (tokenize.vocab_size, tokenize.length) == (259, 8)


@QUICK
@given(ANY, st.integers(3, 60))
def test_bytes_come_back(t, length):
  tokenize = text.ByteTokenizer(length)
  ids = tokenize(t)
  n = min(len(t.encode()), length - 2)
  assert ids.shape == (length,) and ids.argmax() == n + 1 and (ids[n + 2 :] == 0).all() and ids.max() < tokenize.vocab_size
  assert tokenize.decode(ids) == t.encode()[: length - 2].decode('utf-8', 'ignore')


# ------------------------------------------------------------------------------------------------------------------------ BPE


def slow_merge(symbols, ranks):
  """The loop of CLIP's `bpe`."""
  while len(symbols) > 1:
    pairs = set(zip(symbols, symbols[1:], strict=False))
    pair = min(pairs, key=lambda p: ranks.get(p, np.inf))
    if pair not in ranks:
      break
    joined = []
    while symbols:
      n = 2 if tuple(symbols[:2]) == pair else 1
      joined.append(''.join(symbols[:n]))
      symbols = symbols[n:]
    symbols = joined
  return symbols


def test_bpe_by_hand(vocab):
  tokenize = text.BPETokenizer(vocab, 10)
  b = lambda c: ord(c) - 0x21  # the bytes from '!' on have the first ids; the same, ending a word, are 256 further
  assert (tokenize.vocab_size, tokenize.start, tokenize.end) == (512 + 8 + 2, 520, 521)
  assert tokenize('THE  abc\n').tolist() == [520, 513, 515, 521] + [0] * 6
  assert tokenize('thx bc a').tolist() == [520, 512, b('x') + 256, 516, b('a') + 256, 521] + [0] * 4
  assert tokenize('é').tolist()[:3] == [520, 519, 521]
  assert tokenize("the's").tolist()[:5] == [520, 513, b("'"), b('s') + 256, 521]
  full = tokenize('the ' * 20)
  assert full.tolist() == [520] + [513] * 8 + [521]
  assert tokenize('&amp;amp; &lt;').tolist() == [520, b('&') + 256, b('<') + 256, 521] + [0] * 6
  assert tokenize.decode(tokenize('The, ABC é!')) == 'the , abc é !'
  spelt = tokenize('<end_of_text> the')
  assert spelt.argmax() == 9 and 521 not in spelt[:9]  # a caption cannot end itself


@QUICK
@given(st.text('abct h', max_size=30))
def test_merges_are_those_of_the_plain_loop(t):
  ranks = {tuple(line.split()): i for i, line in enumerate(MERGES)} | {('c', 'a'): 8, ('aa', 'b'): 9, ('aaaa', 'aa'): 10}
  ours = object.__new__(text.BPETokenizer)
  ours._ranks = ranks
  assert ours._merge(list(t)) == slow_merge(list(t), ranks)


@QUICK
@given(st.text(st.characters(max_codepoint=127), max_size=40) | st.text('&;\x1b\x7f\x0b\x0c\r\n\t \'"`<>#ampltx3', max_size=12))
def test_skipping_ftfy_changes_nothing(t):
  """Plain ASCII goes around ftfy and html.unescape, and comes out as if it had gone through them."""
  ftfy = pytest.importorskip('ftfy')
  assert text._normalized(t) == ' '.join(html.unescape(html.unescape(ftfy.fix_text(t))).split()).lower()


def test_plain_text_really_goes_around(monkeypatch):
  ftfy = pytest.importorskip('ftfy')
  seen = []
  monkeypatch.setattr(ftfy, 'fix_text', lambda t: seen.append(t) or t)
  for t in ('A photo of a "cat": 3 > 2?', 'tab\tnew\r\nline', 'café', 'R&amp;B', '\x1b[31m'):
    text._normalized(t)
  assert seen == ['café', 'R&amp;B', '\x1b[31m']


def test_a_long_word_takes_no_long_time(vocab):
  tokenize = text.BPETokenizer(vocab)
  assert tokenize('a' * 30_000)[1:-1].tolist() == [tokenize._ids['aaaa']] * 75  # minutes with the plain loop


def test_pickle_is_the_path(vocab):
  for tokenize in (text.BPETokenizer(vocab, 12), text.ByteTokenizer(12)):
    tokenize('the')
    data = pickle.dumps(tokenize)
    assert len(data) < 300
    again = pickle.loads(data)
    np.testing.assert_array_equal(again('the abc'), tokenize('the abc'))


def golden_texts(found):
  """Strings are kept as UTF-8 with lengths: an array of strings would drop 0s at their ends."""
  data, ends = found['utf8'].tobytes(), np.cumsum(found['sizes'])
  return [data[end - size : end].decode() for end, size in zip(ends, found['sizes'], strict=True)]


def test_golden(clip, golden):
  found = np.load(golden / 'clip_tokens.npz')
  np.testing.assert_array_equal(np.stack([clip(str(t)) for t in found['texts']]), found['ids'])
  assert (clip.vocab_size, clip.start, clip.end) == (49408, 49406, 49407)
  assert clip.decode(clip('A photo of a café 日本')) == 'a photo of a café 日本'


def test_golden_random(clip, golden):
  found = np.load(golden / 'clip_tokens_random.npz')
  texts = golden_texts(found)
  assert len(texts) == 120 == len(found['ids'])
  for t, ids in zip(texts, found['ids'], strict=True):
    assert clip(t).tolist() == ids.tolist(), ascii(t)


def test_open_clip_gives_the_same(clip):
  tokenizer = pytest.importorskip('open_clip.tokenizer')
  theirs = tokenizer.SimpleTokenizer()
  texts = random_texts(500, 0)
  ids = theirs(texts).numpy()
  for t, row in zip(texts, ids, strict=True):
    assert clip(t).tolist() == row.tolist(), ascii(t)
    assert clip(t).tolist() == row.tolist(), ascii(t)  # from the cache


# ----------------------------------------------------------------------------------------------------------------- vocabularies


@pytest.mark.parametrize(
  'arguments, words',
  [
    (('byte', 77, ''), "'byte' is no tokenizer. Did you mean bytes"),
    (('bytes', 77, 'x.txt'), 'read by config.data.text=bpe only'),
    (('', 77, 'x.txt'), 'read by config.data.text=bpe only'),
    (('bytes', 2, ''), 'text_length: 2 positions'),
    (('bpe', 77, '/nowhere/x.txt.gz'), "'/nowhere/x.txt.gz': No such file"),
    (('bpe', 77, '/'), 'Is a directory'),
  ],
)
def test_mistakes(arguments, words):
  with pytest.raises(UserError, match=re.escape(words)):
    text.make(*arguments)


def test_make(vocab):
  assert text.make('', 77, '') is None
  assert text.make('bytes', 9).length == 9 and text.make('bpe', 9, vocab).vocab_size == 522


def test_damaged_vocabulary(tmp_path):
  whole = gzip.compress(('#version\n' + '\n'.join(MERGES) + '\n').encode())
  cases = {
    'cut.gz': (whole[:40], 'damaged'),
    'bits.gz': (whole[:30] + bytes([whole[30] ^ 255]) + whole[31:], 'damaged'),
    'binary': (b'\xff\xfe\x00', 'damaged'),
    'empty': (b'', 'no merges'),
    'header': (b'#version: 0.2\n', 'no merges'),
    'words': (b'a b\nthis is prose\n', 'line 2'),
    'unknown': (b'a b\nabc d\n', 'line 2'),
  }
  for name, (data, words) in cases.items():
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=words):
      text.BPETokenizer(str(tmp_path / name))
  (tmp_path / 'good.gz').write_bytes(whole)
  assert text.BPETokenizer(str(tmp_path / 'good.gz')).vocab_size == 522


def test_vocabulary_is_fetched_once(tmp_path, monkeypatch):
  data, asked = gzip.compress(b'#version\na b\n'), []

  class Reply:
    def __enter__(self):
      return self

    def __exit__(self, *_):
      pass

    def read(self, _):
      return data

  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(urllib.request, 'urlopen', lambda url, timeout: asked.append(url) or Reply())
  with pytest.raises(UserError, match='not the published vocabulary'):
    text.fetch_vocab()
  assert not (tmp_path / 'cache').exists()
  monkeypatch.setattr(text, 'VOCAB_SHA256', hashlib.sha256(data).hexdigest())
  for _ in range(2):
    assert text.make('bpe').vocab_size == 515
  assert len(asked) == 2 and [p.name for p in (tmp_path / 'cache' / 'sslax').iterdir()] == [PUBLISHED]
  (tmp_path / 'cache' / 'sslax' / PUBLISHED).write_bytes(b'half')  # damaged since: fetched again
  assert text.make('bpe').vocab_size == 515 and len(asked) == 3


def test_no_network_says_what_to_do(tmp_path, monkeypatch):
  def refuse(*_, **__):
    raise socket.gaierror(-3, 'Temporary failure in name resolution')

  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  monkeypatch.setattr(socket, 'getaddrinfo', refuse)
  monkeypatch.setattr(urllib.request, 'urlopen', urllib.request.build_opener(urllib.request.ProxyHandler({})).open)
  with pytest.raises(UserError, match=r'cannot fetch.*--config\.data\.vocab=PATH.*text=bytes'):
    text.make('bpe')


# ------------------------------------------------------------------------------------------------------------------- captions


def test_usable():
  nothing = [
    None,
    '',
    ' \t\r\n',
    '\0\0',
    '\ufeff',
    '\u200b\u200d\u2028\xa0',
    '\ufffd\ufffd',
    3,
    b'',
    b'\xff\xfe\xfa',
    '\ud83d',
    (),
  ]
  cases = [
    *((one, []) for one in nothing),
    ('a cat', ['a cat']),
    (' a\r\ncat\r\n', ['a\ncat']),
    ('\ufeffa\0 cat', ['a cat']),
    (b'\xef\xbb\xbfone\xff', ['one\ufffd']),
    ('\ud83d' + '\ude00', ['😀']),
    ('x\ud83d', ['x\ufffd']),
    *((one, [one]) for one in ('🐱', '👩\u200d🚀', 'שלום עולם', '!!!')),
    (('', 'a', None, b'b', 4.0, ' '), ['a', 'b']),
    ('y' * 1_000_000, ['y' * text.MAX_CHARS]),
    ('word ' * 100_000, [('word ' * 400)[: text.MAX_CHARS]]),
    (b'\xc3\xa9' * 1_000_000, ['é' * text.MAX_CHARS]),
  ]
  for given_text, expected in cases:
    assert text.usable(given_text) == expected, ascii(given_text)[:60]
  assert text.usable(['a', '']) == text.usable(np.array(['a', ''])) == text.usable(np.array([b'a'], object)) == ['a']
  assert text.usable({'raw': 'a'}) == []


@settings(QUICK, max_examples=500)
@given(st.lists(st.none() | st.text(max_size=30) | st.binary(max_size=30) | st.integers(), max_size=3))
def test_whatever_is_usable_can_be_tokenised(items):
  tokenize = text.ByteTokenizer(16)
  for caption in text.usable(items):
    assert caption.encode() and len(caption) <= text.MAX_CHARS
    assert any(c != '\ufffd' and unicodedata.category(c) not in ('Cc', 'Cf', 'Zs', 'Zl', 'Zp') for c in caption)
    ids = tokenize(caption)
    assert ids.shape == (16,) and 2 <= ids.argmax() < 16 and ids[ids.argmax()] == 258
