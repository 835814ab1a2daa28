"""How many bits a language model needs for a byte of text: what can be compared between tokenizers."""

import dataclasses
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sslax.data import assemble, pipeline
from sslax.data.sources import Source
from sslax.errors import UserError
from sslax.evals.probe import BASELINE, Card, Data, Needs, Probe, Score, Store
from sslax.inputs.tokens import Tokens

ROUND_TRIPS = 200  # texts of the test set that are looked at


@dataclasses.dataclass(frozen=True)
class BitsPerByte(Probe):
  """Total -log2 p of the tokens of the windows of evaluation over the total bytes that these stand for.

  Each token is counted once, padding not at all; the first of a window is predicted from the start alone. What is beyond the
  windows (the end of a text, a second text of a record) is left out, and its bytes are said. The baseline says of the same bytes
  how frequent they are in the texts of the training set.
  """

  records: int = 10_000  # of the training set whose bytes the baseline counts, evenly spaced

  def __post_init__(self) -> None:
    if self.records < 1:
      raise ValueError(f'records={self.records} must be at least 1')

  def needs(self) -> Needs:
    return Needs(features=('logits',), labels=False)

  def check(self, card: Card, data: Data) -> None:
    name, value = _tokens(card)
    shape = card.features['logits'].shape
    if len(shape) != 3 or shape[1] != value.length:
      raise UserError(
        f'--probes=bits_per_byte: the logits of {type(card.method).__name__} have shape {list(shape)} and predict no text'
      )
    for source in (data.train, data.test):
      pipeline.probe(source, {name: value})
    _check_round_trip(data.test, name, value)

  def run(self, store: Store, data: Data) -> Iterator[Score]:
    name, value = _tokens(store.card)
    found = self.of_bytes(store, data) if store.row == BASELINE else of_tokens(store, data.test)
    bits, tokens, sizes = (np.asarray(found[key], np.float64).sum() for key in ('bits', 'tokens', 'bytes'))
    if not np.isfinite(bits):
      raise UserError('bits_per_byte: NaN or Inf: the checkpoint has diverged')
    everything = sum(len(text) for texts in _texts(data.test, name, value) for text in texts)
    details = {
      'bytes': int(sizes),
      'bytes_left_out': everything - int(sizes),
      'tokens': int(tokens),
      'texts': len(found['bits']),
      'bad_records': len(data.test) - len(found['bits']),
    }
    print(f'{store.name}: {_counted(details)}', file=sys.stderr)
    yield Score('bits_per_byte', bits / sizes, 'bits per byte', more_is_better=False, chance=8.0, details=details)
    if store.row != BASELINE:
      yield Score('perplexity', math.exp(bits * math.log(2) / tokens), 'perplexity of a token', more_is_better=False)

  def of_bytes(self, store: Store, data: Data) -> dict[str, np.ndarray]:
    """The same as `of_tokens`, where each byte has its probability in the training set, one added to all counts."""
    name, value = _tokens(store.card)
    some = np.unique(np.linspace(0, len(data.train) - 1, min(self.records, len(data.train))).astype(int))
    count = np.ones(256)
    for texts in _texts(data.train, name, value, some.tolist()):
      count += sum(_histogram(text) for text in texts)
    cost = -np.log2(count / count.sum())
    rows = [
      (index, size)
      for batch in store.batches(data.test)
      for index, size in zip(batch['index'][batch['mask']], batch['token_bytes'].sum(1)[batch['mask']], strict=True)
    ]
    first = [next(_texts(data.test, name, value, [int(index)]))[0][:size] for index, size in rows]
    sizes = [size for _, size in rows]
    return {'bits': np.array([cost @ _histogram(text) for text in first]), 'tokens': np.array(sizes), 'bytes': np.array(sizes)}

  def caption(self, scores: Sequence[Score]) -> str:
    return f'bits per byte: {_counted(scores[0].details)}.' if scores else ''


def of_tokens(store: Store, source: Source) -> dict[str, np.ndarray]:
  """{'bits', 'tokens', 'bytes'} of each text of a set, [N] each; the logits of one batch are alive at a time."""
  _, value = _tokens(store.card)

  def count(features, batch):
    targets = batch['tokens'][:, 1:]
    right = jnp.take_along_axis(features.logits, targets[..., None], -1)[..., 0]
    nats = jnp.where(targets == value.padding, 0.0, jax.nn.logsumexp(features.logits, -1) - right)
    return {
      'bits': nats.sum(1) / math.log(2),
      'tokens': (targets != value.padding).sum(1),
      'bytes': batch['token_bytes'].sum(1),
    }

  return store.map(source, count)


def _tokens(card: Card) -> tuple[str, Tokens]:
  """(name, input) of the text that a method predicts."""
  for name, value in card.inputs.items():
    if isinstance(value, Tokens):
      return name, value
  raise UserError(f'--probes=bits_per_byte: {type(card.method).__name__} takes no text as tokens')


def _texts(source: Source, name: str, value: Tokens, numbers: Iterable[int] | None = None) -> Iterator[list[bytes]]:
  """The texts of each record that can be used."""
  for i in range(len(source)) if numbers is None else numbers:
    try:
      yield assemble.load(source, i, {name: value}).decoded[0]
    except assemble.BAD:
      continue


def _check_round_trip(source: Source, name: str, value: Tokens) -> None:
  """Raises UserError where tokens do not say the text: their bits would be over the bytes of another one."""
  some = np.unique(np.linspace(0, len(source) - 1, min(ROUND_TRIPS, len(source))).astype(int))
  for texts in _texts(source, name, value, some.tolist()):
    ids, _ = value.vocabulary.window(texts[0], value.length, None)
    # A window may end inside a character, which is U+FFFD then.
    whole, said = (text.decode('utf-8', 'ignore').rstrip('\ufffd') for text in (texts[0], value.vocabulary.text(ids)))
    if not (whole == said or len(ids) == value.length and whole.startswith(said)):
      at = max(0, next((i for i, (a, b) in enumerate(zip(whole, said, strict=False)) if a != b), len(said)) - 10)
      raise UserError(
        f'--probes=bits_per_byte: the tokenizer {value.tokenizer!r} changes texts, so its bits are not those of their bytes: '
        f'{whole[at : at + 30]!r} comes back as {said[at : at + 30]!r}; take one without a normalizer, [UNK] and add_prefix_space'
      )


def _histogram(text: bytes) -> np.ndarray:
  return np.bincount(np.frombuffer(text, np.uint8), minlength=256)


def _counted(details: Mapping[str, int]) -> str:
  """How much was counted, and what was not."""
  of, left, bad = details['bytes'] + details['bytes_left_out'], details['bytes_left_out'], details['bad_records']
  said = f'{details["bytes"]:,} of {of:,}' if left else f'all {of:,}'
  said += f' bytes of {details["texts"]:,} texts'
  said += f'; {left:,} are in no window and left out: take longer windows or shorter texts' if left else ''
  return said + (f'; {bad:,} records cannot be used' if bad else '')
