"""Language: 'tokens' [L + 1] int32, a window of a text for models that predict it, and how many bytes each token stands for."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from sslax.errors import BadRecord, UserError
from sslax.io import extras
from sslax.method import Input, Picture

STRETCH = 8  # bytes of a long text that are tokenised for each token of a window, at first: about twice what one stands for


@dataclasses.dataclass(frozen=True)
class Tokens(Input):
  """What a config says of language: 'tokens' [length + 1] and 'token_bytes' [length] int32 of the field `text` of a record.

  A row is the start id and L tokens, so that a causal model predicts all L from tokens[:-1]: `targets = tokens[1:]`, those equal
  to `padding` left out. token_bytes[i] is how many bytes of the text tokens[i + 1] stands for, 0 for padding: bits per byte are
  the sum of the losses over log(2) times the sum of these. Training takes a window at a random place of one of the texts of a
  record, evaluation the first one of the first. Shorter texts are padded at the end; a record without any text is a bad one.

  'bytes' needs no file: ids 0 to 255 are the bytes of UTF-8, 256 is the start, 257 the padding. With a tokenizer.json the ids
  are those of the file, special tokens that it would add are not added, and start and padding are the two ids after its last
  one. Of a long text only a stretch is tokenised then, and bytes that are no UTF-8 are left out.

  Attributes:
    tokenizer: 'bytes', or the path of a tokenizer.json of the library `tokenizers` (`python -m sslax.data.train_bpe` makes one).
    length: L.
    size: ids of the tokenizer.json; 0: read from it. Where it is stated, shapes are known without the file: to plan, and to
      check a recipe. A file with another number is refused.
  """

  tokenizer: str = 'bytes'
  length: int = 128
  size: int = 0

  baseline_name: ClassVar[str] = 'byte histogram'

  def __post_init__(self) -> None:
    if not self.tokenizer:
      raise ValueError("tokenizer='' must be 'bytes' or the path of a tokenizer.json")
    if self.length < 1:
      raise ValueError(f'length={self.length} must be at least 1')
    if self.size < 0:
      raise ValueError(f'size={self.size} must be that of the tokenizer, or 0: read from it')

  @property
  def vocabulary(self) -> 'Bytes | Learned':
    """Read once a process, where it is first needed.

    Raises:
      UserError: see `Learned`; or `size` is not its.
    """
    found = _vocabulary(self.tokenizer)
    if self.size not in (0, found.size):
      raise UserError(f'size={self.size}, and the tokenizer {self.tokenizer!r} has {found.size} ids: state that, or 0')
    return found

  @property
  def vocab_size(self) -> int:
    """Ids are below it: the tokens, the start, the padding."""
    return self.start + 2

  @property
  def start(self) -> int:
    """The id before the first token."""
    return self.size or self.vocabulary.size

  @property
  def padding(self) -> int:
    """The id where there is no text."""
    return self.start + 1

  def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    row = lambda n: jax.ShapeDtypeStruct((n,), np.int32)
    return {'tokens': row(self.length + 1), 'token_bytes': row(self.length)}

  def decode(self, record: Mapping[str, Any]) -> list[bytes]:
    text = record.get('text')
    text = text.tolist() if isinstance(text, np.ndarray) else text
    items = text if isinstance(text, (list, tuple)) else [text]
    # Half a surrogate pair, which JSON may hold, becomes '?'.
    found = [item.encode('utf-8', 'replace') if isinstance(item, str) else item for item in items if item]
    found = [item for item in found if isinstance(item, bytes)]
    if not found:
      raise BadRecord(f'no text: {ascii(text)[:80]}')
    return found

  def draw(self, decoded: list[bytes], rng: np.random.Generator | None) -> dict[str, np.ndarray]:
    text = decoded[0 if rng is None else int(rng.integers(len(decoded)))]  # ORDER MATTERS: the text, then the place in it
    ids, sizes = self.vocabulary.window(text, self.length, rng)
    if not len(ids):
      raise BadRecord(f'not one token in {ascii(text)[:80]}')
    tokens, token_bytes = np.full(self.length + 1, self.padding, np.int32), np.zeros(self.length, np.int32)
    tokens[0] = self.start
    tokens[1 : len(ids) + 1], token_bytes[: len(ids)] = ids, sizes
    return {'tokens': tokens, 'token_bytes': token_bytes}

  def describe(self, records: Sequence[Mapping[str, Any]]) -> str:
    sizes = [len(text) for record in records for text in self.decode(record)]
    low, high = min(sizes), max(sizes)
    return f'texts of {low:,} bytes' if low == high else f'texts of {low:,}-{high:,} bytes'

  def baseline(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """[N, 256]: how frequent each byte is in the text of a row."""
    texts = [np.frombuffer(text, np.uint8) for text in self._texts(arrays)]
    return np.stack([np.bincount(text, minlength=256) / max(1, len(text)) for text in texts]).astype(np.float32)

  def show(self, arrays: dict[str, np.ndarray]) -> list[Picture]:
    """The text of each row, U+FFFD where the window cuts a character."""
    return [text.decode('utf-8', 'replace') for text in self._texts(arrays)]

  def require(self, rows: int, where: str) -> None:
    """Raises UserError where a table of `rows` embeddings is smaller than the vocabulary: a look-up on device is silent."""
    if rows < self.vocab_size:
      raise UserError(f'{where}={rows} is too small for the {self.vocab_size} tokens of the tokenizer {self.tokenizer!r}')

  def _texts(self, arrays):
    return [self.vocabulary.text(row[row < self.start]) for row in np.asarray(arrays['tokens'])]


class Bytes:
  """Every byte is a token."""

  size = 256

  def window(self, text: bytes, length: int, rng: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
    """Ids, and the bytes that each stands for, of at most `length` tokens: at a random place, or with rng None the first."""
    first = 0 if rng is None else int(rng.integers(max(0, len(text) - length) + 1))
    ids = np.frombuffer(text[first : first + length], np.uint8)
    return ids, np.ones(len(ids), np.int32)

  def text(self, ids: np.ndarray) -> bytes:
    """What ids say."""
    return bytes(ids.tolist())


class Learned:
  """A tokenizer.json.

  Raises:
    UserError: it cannot be read, or the package is missing.
  """

  def __init__(self, path: str):
    tokenizers = extras.need('tokenizers', 'text')
    try:
      self._tokenizer = tokenizer = tokenizers.Tokenizer.from_file(os.path.expanduser(path))
    except Exception as error:  # the library raises Exception itself
      reason = ' '.join(str(error).split())[:200]
      raise UserError(f"tokenizer={path!r} is neither 'bytes' nor the path of a tokenizer.json: {reason}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, 'dropout', None):
      tokenizer.model.dropout = None  # merges left out at random, by a generator that nobody seeds
    words = tokenizer.get_vocab(with_added_tokens=True)
    self.size = max(words.values()) + 1
    self._sizes = None
    if isinstance(tokenizer.decoder, tokenizers.decoders.ByteLevel):  # a character of a word stands for a byte
      self._sizes = np.zeros(self.size, np.int32)
      for word, i in words.items():
        self._sizes[i] = len(word)
      for i, added in tokenizer.get_added_tokens_decoder().items():  # those are written as they are
        self._sizes[i] = len(added.content.encode())

  def window(self, text: bytes, length: int, rng: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
    """See `Bytes.window`."""
    room = STRETCH * length
    start = 0 if rng is None else int(rng.integers(max(0, len(text) - room) + 1))
    ids, sizes = self._stretch(text, start, start + room)
    while len(ids) < length and room < len(text):  # tokens that are longer than most
      room *= 2
      start = max(0, min(start, len(text) - room))
      ids, sizes = self._stretch(text, start, start + room)
    first = 0 if rng is None else int(rng.integers(max(0, len(ids) - length) + 1))
    return ids[first : first + length], sizes[first : first + length]

  def text(self, ids: np.ndarray) -> bytes:
    """What ids say, U+FFFD for half a character."""
    return self._tokenizer.decode(ids.tolist(), skip_special_tokens=False).encode()

  def _stretch(self, text, start, stop):
    """Ids and bytes of the tokens in text[start:stop], but for those at a cut end: half a word has other tokens."""
    ids, sizes = self._encoded(text[start:stop].decode('utf-8', 'ignore'))
    inner = slice(1 if start else 0, -1 if stop < len(text) else None)
    return ids[inner], sizes[inner]

  def _encoded(self, text):
    encoding = self._tokenizer.encode(text, add_special_tokens=False)
    ids = np.array(encoding.ids, np.int32)
    if self._sizes is not None:
      return ids, self._sizes[ids]
    # From where the token before it ends to where it ends, so that spaces that belong to no token are counted with the next one.
    byte = np.cumsum([0, *(len(c.encode()) for c in text)])
    ends = np.array([end for _, end in encoding.offsets], np.int64)
    return ids, np.diff(byte[np.maximum.accumulate(ends)] if len(ends) else ends, prepend=0)


@functools.lru_cache(maxsize=8)
def _vocabulary(tokenizer: str) -> Bytes | Learned:
  return Bytes() if tokenizer == 'bytes' else Learned(tokenizer)
