"""Captions: 'text' [L] int32, the ids of a tokenizer of `sslax.data.text`."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sslax.data import text
from sslax.errors import UserError
from sslax.method import Input, Picture


@dataclasses.dataclass(frozen=True)
class Text(Input):
  """Of several captions of a record one is drawn, anew in each epoch; probes see the first. A record without one is a bad one.

  Attributes:
    tokenizer: 'bytes', which needs no file, or 'bpe', CLIP's own.
    length: L, positions, start and end included.
    vocab: path of the merges of 'bpe'; '': the published ones, fetched once and checked.
  """

  tokenizer: str = 'bytes'
  length: int = 77
  vocab: str = ''

  def __post_init__(self) -> None:
    if self.tokenizer not in text.KINDS:
      raise ValueError(f'tokenizer={self.tokenizer!r} is none of {", ".join(map(repr, text.KINDS))}')
    if self.length < 3:
      raise ValueError(f'length={self.length} must be at least 3: the start, one token, the end')
    if self.vocab and self.tokenizer != 'bpe':
      raise ValueError(f"vocab={self.vocab!r} is read by tokenizer='bpe' only, and that is {self.tokenizer!r}")

  @property
  def tokenize(self) -> text.ByteTokenizer | text.BPETokenizer:
    """str -> [L] int32; read once a process, where it is first needed."""
    return _tokenizer(self.tokenizer, self.length, self.vocab)

  @property
  def vocab_size(self) -> int:
    """Ids are below it. Of the published vocabulary it is known, which need not be here."""
    return text.VOCAB_SIZE if self.tokenizer == 'bpe' and not self.vocab else self.tokenize.vocab_size

  def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    return {'text': jax.ShapeDtypeStruct((self.length,), np.int32)}

  def decode(self, record: Mapping[str, Any]) -> list[str]:
    found = self.captions(record)
    if not found:
      raise text.NoCaption(f'no usable caption: the text is {ascii(record.get("text"))[:80]}')
    return found

  def captions(self, record: Mapping[str, Any]) -> list[str]:
    """All usable captions of a record in their order, [] where there is none."""
    return text.usable(record.get('text'))

  def draw(self, decoded: list[str], rng: np.random.Generator | None) -> dict[str, np.ndarray]:
    return {'text': self.tokenize(decoded[0 if rng is None else rng.integers(len(decoded))])}

  def kept_bytes(self) -> int:
    return 5 * self.length  # some captions of a token a character; pictures beside them are what counts

  def describe(self, records: Sequence[Mapping[str, Any]]) -> str:
    return f'captions of {self.length} tokens ({self.tokenizer})'

  def show(self, arrays: dict[str, np.ndarray]) -> list[Picture]:
    return [self.tokenize.decode(ids) for ids in np.asarray(arrays['text'])]

  def require(self, rows: int, where: str) -> None:
    """Raises UserError where a table of `rows` embeddings is smaller than the vocabulary: a look-up on device is silent."""
    if rows < self.vocab_size:
      raise UserError(f'{where}={rows} is too small for the {self.vocab_size} tokens of the tokenizer {self.tokenizer!r}')


@functools.lru_cache(maxsize=8)
def _tokenizer(kind: str, length: int, vocab: str) -> text.ByteTokenizer | text.BPETokenizer:
  found = text.make(kind, length, vocab)
  assert found is not None, 'Text has a kind: see __post_init__'
  return found
