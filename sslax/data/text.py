"""Captions to token ids: which captions can be used, a byte tokenizer that needs no file, and CLIP's byte-level BPE.

Ids are `[L]` int32: start, tokens, end, then 0s. The end token has the largest id, so that argmax over positions finds it. What
does not fit is cut off and the end token kept. Padding is what follows the end token: in BPE, 0 is also the id of '!'.
"""

import functools
import hashlib
import heapq
import html
import os
import re
import tempfile
import unicodedata
import urllib.request
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from sslax.errors import BadRecord, UserError, suggest
from sslax.io import extras

KINDS = ('bytes', 'bpe')
MAX_CHARS = 2000  # of a caption that are used: several times what 77 tokens hold, and no megabyte is ever tokenised
MAX_MERGES = 48_894  # what CLIP takes of its file, which has 262,144
VOCAB_SIZE = 512 + MAX_MERGES + 2  # bytes, merges, start and end: 49,408
VOCAB_URL = 'https://github.com/openai/CLIP/raw/main/clip/bpe_simple_vocab_16e6.txt.gz'
VOCAB_SHA256 = '924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a'

# Text that ftfy and html.unescape leave as it is: ASCII without entities and without the control characters that ftfy removes.
_PLAIN = re.compile(r'[\t\n\r\x20-\x25\x27-\x7e]*').fullmatch
_WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
_INVISIBLE = ('Cc', 'Cf', 'Cs', 'Zs', 'Zl', 'Zp')  # Unicode categories: controls, formats (BOM, joiners), surrogates, spaces
_REPLACEMENT = '\ufffd'  # where bytes were no UTF-8


class NoCaption(BadRecord):
  """A record without a caption that can be used: a bad record like an image that cannot be decoded."""


def usable(text: Any) -> list[str]:
  """The captions of a record that say something.

  Bytes are read as UTF-8; what is invalid in them, and a lone surrogate, becomes U+FFFD. NUL, a byte order mark and spaces around
  are removed, CRLF becomes LF, and of what is left the first MAX_CHARS characters are taken.

  Args:
    text: `record.get('text')`: None, str, bytes, or several of these.

  Returns:
    Captions in their order, without those in which no character can be seen (empty, blank, nothing but controls or U+FFFD) and
    without anything that is no text.
  """
  return [caption for item in _items(text) if (caption := _clean(item))]


class ByteTokenizer:
  """One token a byte of UTF-8: 0 pads, byte b is b + 1, start is 257, end is 258. As in ByT5 (Xue et al. 2022), no vocabulary.

  Args:
    length: L, positions, start and end included.
  """

  vocab_size = 259

  def __init__(self, length: int = 77):
    self.length = _checked(length)

  def __call__(self, text: str) -> np.ndarray:
    """[L] int32 of a text; a lone surrogate counts as '?'."""
    data = text[: self.length].encode('utf-8', 'replace')[: self.length - 2]  # a character is one byte at least
    return _padded([257, *(b + 1 for b in data), 258], self.length)

  def decode(self, ids: Iterable[int]) -> str:
    """The text of ids up to the end token; half a character that was cut is dropped."""
    return bytes(i - 1 for i in _inside(ids, 257, 258) if i > 0).decode('utf-8', 'ignore')


class BPETokenizer:
  """CLIP's lower-cased byte-level BPE: Radford et al. 2021, section 2.4; open_clip's SimpleTokenizer gives the same ids.

  One deviation: a text that spells '<start_of_text>' or '<end_of_text>' is tokenised like any other, so that no caption can end
  itself early.

  Args:
    vocab: path of the merges, plain or .gz, one pair a line under a header; the first MAX_MERGES are used, as in CLIP.
    length: L, positions, start and end included.

  Raises:
    UserError: there is no such file, or it holds something else.
  """

  def __init__(self, vocab: str, length: int = 77):
    regex = extras.need('regex', 'text')  # \p{L}, which re does not have; neither is needed where no BPE is

    self.vocab, self.length = vocab, _checked(length)
    merges = _read_merges(vocab)
    self._byte = _byte_symbols()
    symbols = [*self._byte.values(), *(s + '</w>' for s in self._byte.values()), *(a + b for a, b in merges)]
    self._ranks = {pair: rank for rank, pair in enumerate(merges)}
    self._ids = {symbol: i for i, symbol in enumerate(symbols)}  # a symbol that two merges make has the later id, as in CLIP
    self._symbols = symbols
    self.start, self.end, self.vocab_size = len(symbols), len(symbols) + 1, len(symbols) + 2
    self._words = regex.compile(_WORDS, regex.IGNORECASE).findall
    self._cached = functools.lru_cache(2**16)(self._encode)

  def __reduce__(self) -> tuple[Any, ...]:  # a worker process gets the path and reads the file itself
    return type(self), (self.vocab, self.length)

  def __call__(self, text: str) -> np.ndarray:
    """[L] int32 of a text."""
    ids = [self.start]
    # No word of the pattern holds a space, so the pieces between spaces can be encoded, and remembered, one by one.
    for piece in _normalized(text).split(' '):
      ids += self._cached(piece) if len(piece) <= 64 else self._encode(piece)
      if len(ids) >= self.length:
        break
    return _padded([*ids[: self.length - 1], self.end], self.length)

  def decode(self, ids: Iterable[int]) -> str:
    """The cleaned, lower-cased text of ids up to the end token, words and marks parted by spaces."""
    text = ''.join(self._symbols[i] for i in _inside(ids, self.start, self.end)).replace('</w>', ' ')
    byte = {symbol: b for b, symbol in self._byte.items()}
    return bytes(byte.get(c, 32) for c in text).decode('utf-8', 'replace').strip()

  def _encode(self, piece):
    """Ids of a text without spaces."""
    ids = []
    for word in self._words(piece):
      symbols = [self._byte[b] for b in word.encode('utf-8', 'replace')]
      symbols[-1] += '</w>'
      ids += [self._ids[symbol] for symbol in self._merge(symbols)]
    return tuple(ids)

  def _merge(self, symbols):
    """Joins the pair of lowest rank, everywhere from the left, until no two neighbours have a rank: n log n in the symbols."""
    n, ranks = len(symbols), self._ranks
    before, after = list(range(-1, n - 1)), list(range(1, n + 1))
    heap = [(ranks[pair], i) for i, pair in enumerate(zip(symbols, symbols[1:], strict=False)) if pair in ranks]
    heapq.heapify(heap)
    while heap:
      rank, joined = heap[0][0], []
      while heap and heap[0][0] == rank:
        i = heapq.heappop(heap)[1]
        j = after[i]
        if j < n and ranks.get((symbols[i], symbols[j])) == rank:  # else one of the two has been joined since
          symbols[i], symbols[j], after[i] = symbols[i] + symbols[j], '', after[j]
          if after[j] < n:
            before[after[j]] = i
          joined.append(i)
      for i in joined:
        for k in (before[i], i):
          pair = (symbols[k], symbols[after[k]]) if k >= 0 and after[k] < n else None
          if pair in ranks:
            heapq.heappush(heap, (ranks[pair], k))
    return [symbol for symbol in symbols if symbol]


def make(kind: str, length: int = 77, vocab: str = '') -> ByteTokenizer | BPETokenizer | None:
  """The tokenizer of `config.data.text`, `.text_length` and `.vocab`.

  Args:
    kind: '' (None is returned: no captions), 'bytes' or 'bpe'.
    length: L, positions, start and end included.
    vocab: path of the BPE's merges; '': the published ones, fetched once (see `fetch_vocab`).

  Raises:
    UserError: unknown kind, impossible length, a vocabulary that cannot be read or that nothing would read.
  """
  if kind not in ('', *KINDS):
    raise UserError(f'config.data.text={kind!r} is no tokenizer.{suggest(kind, KINDS)}')
  if vocab and kind != 'bpe':
    raise UserError(f'config.data.vocab={vocab!r} is read by config.data.text=bpe only, and that is {kind!r}')
  if not kind:
    return None
  try:
    return ByteTokenizer(length) if kind == 'bytes' else BPETokenizer(os.path.expanduser(vocab) or fetch_vocab(), length)
  except ValueError as error:
    raise UserError(f'config.data.text_length: {error}') from error


def fetch_vocab() -> str:
  """The path of CLIP's published merges (MIT licence, 1.4 MB), fetched once to $XDG_CACHE_HOME/sslax or ~/.cache/sslax.

  Raises:
    UserError: no network, no room, or other bytes than were published.
  """
  home = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  path = os.path.join(home, 'sslax', os.path.basename(VOCAB_URL))
  remedy = (
    f'Get it from {VOCAB_URL} and name it: --config.data.vocab=PATH, or take --config.data.text=bytes, which needs no file.'
  )
  try:
    if os.path.exists(path) and _sha256(_read(path)) == VOCAB_SHA256:
      return path
    with urllib.request.urlopen(VOCAB_URL, timeout=30) as reply:
      data = reply.read(2**24)
    if _sha256(data) != VOCAB_SHA256:
      raise UserError(f'{VOCAB_URL} answered {len(data)} bytes that are not the published vocabulary. {remedy}')
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tempfile.NamedTemporaryFile(
      dir=os.path.dirname(path), prefix='.vocab', delete=False
    ) as f:  # several may do this at once
      f.write(data)
    os.replace(f.name, path)
  except OSError as error:
    raise UserError(f"cannot fetch CLIP's vocabulary to {path}: {' '.join(str(error).split())[:200]}. {remedy}") from error
  return path


def _items(text):
  if isinstance(text, np.ndarray):
    text = text.tolist()
  return text if isinstance(text, (list, tuple)) else [text]


def _clean(text):
  """A caption ready to be tokenised; '' where it cannot be used."""
  if isinstance(text, bytes):
    text = text[: 8 * MAX_CHARS].decode('utf-8', 'replace')
  if not isinstance(text, str):
    return ''
  text = text[: 2 * MAX_CHARS].replace('\0', '').replace('\ufeff', '').replace('\r\n', '\n').strip(' \t\r\n\f\v')[:MAX_CHARS]
  try:
    text.encode()
  except UnicodeEncodeError:  # JSON may hold halves of a pair: '"\\ud83d"'
    text = text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')
  visible = any(c != _REPLACEMENT and unicodedata.category(c) not in _INVISIBLE for c in text)
  return text if visible else ''


def _normalized(text):
  """What CLIP does before it splits: repair, unescape twice, one space between words, lower case."""
  if not _PLAIN(text):
    text = html.unescape(html.unescape(extras.need('ftfy', 'text').fix_text(text)))
  return ' '.join(text.split()).lower()


def _byte_symbols():
  """256 bytes -> a printable character each (GPT-2): the printable ones stand for themselves, the others follow from 256 on."""
  printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
  others = [b for b in range(256) if b not in printable]
  return {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(others)}


def _read(path):
  with open(path, 'rb') as f:
    return f.read()


def _sha256(data):
  return hashlib.sha256(data).hexdigest()


def _read_merges(path):
  """Pairs of symbols, each made of what came before it."""
  try:
    data = _read(path)
    if data[:2] == b'\x1f\x8b':
      data = zlib.decompressobj(wbits=31).decompress(data, 2**26)  # at most 64 MiB, whatever the file says
    lines = data.decode('utf-8').splitlines()
  except OSError as error:
    raise UserError(f'cannot read the vocabulary config.data.vocab={path!r}: {error.strerror or error}') from error
  except (zlib.error, UnicodeDecodeError) as error:
    raise UserError(f'the vocabulary {path!r} is damaged or no list of merges: {str(error)[:200]}') from error
  symbols = {s for c in _byte_symbols().values() for s in (c, c + '</w>')}
  merges = []
  for number, line in enumerate(lines, 1):
    if (number == 1 and '#version' in line) or not line.strip():
      continue
    pair = tuple(line.split())
    if len(pair) != 2 or not symbols.issuperset(pair):
      raise UserError(f'the vocabulary {path!r} is damaged or no list of merges: line {number} is {line[:60]!r}')
    merges.append(pair)
    symbols.add(pair[0] + pair[1])
    if len(merges) == MAX_MERGES:
      break
  if not merges:
    raise UserError(f'the vocabulary {path!r} holds no merges: expected a header and two symbols a line')
  return merges


def _checked(length):
  if length < 3:
    raise ValueError(f'{length} positions: at least 3 are needed, for the start, one token and the end')
  return length


def _padded(ids, length):
  out = np.zeros(length, np.int32)
  out[: len(ids)] = ids
  return out


def _inside(ids, start, end):
  """The ids between start and end."""
  ids = [int(i) for i in ids]
  ids = ids[: ids.index(end)] if end in ids else ids
  return [i for i in ids if i != start]
