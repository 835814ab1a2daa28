"""Learn a byte-level BPE: python -m sslax.data.train_bpe --data='text:...' --vocab_size=1024 --out=bpe.json

As GPT-2's (Radford et al. 2019, section 2.2): words are split by its pattern, every byte is a token, so that no text is unknown.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator

from sslax.data.sources import Source, open_source
from sslax.errors import DONE, USER_ERROR, UserError
from sslax.io import atomic, extras


def train_bpe(texts: Iterable[str], vocab_size: int, path: str) -> int:
  """Writes a tokenizer.json that `sslax.inputs.tokens.Tokens` and the library `tokenizers` read.

  Args:
    texts: as many as are worth learning from; each is read once.
    vocab_size: tokens at most, the 256 bytes among them; fewer where the texts have no more pairs.
    path: of the file; replaced.

  Returns:
    How many tokens there are.

  Raises:
    UserError: impossible size, no text, the file cannot be written, or the package is missing.
  """
  if vocab_size < 256:
    raise UserError(f'vocab_size={vocab_size} must be at least 256: every byte is a token')
  tokenizers = extras.need('tokenizers', 'text')
  pre = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.pre_tokenizer, tokenizer.decoder = pre, tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=pre.alphabet(), show_progress=False)
  seen = 0

  def counted():
    nonlocal seen
    for text in texts:
      seen += bool(text)
      yield text

  tokenizer.train_from_iterator(counted(), trainer)
  if not seen:
    raise UserError('there is no text to learn from')
  try:
    atomic.write(path, tokenizer.to_str(pretty=True))
  except OSError as error:
    raise UserError(f'cannot write {path!r}: {error.strerror or error}') from error
  return tokenizer.get_vocab_size()


def texts_of(source: Source) -> Iterator[str]:
  """All texts of all records, in their order; those that cannot be read are left out."""
  for i in range(len(source)):
    try:
      text = source[i].get('text')
    except (OSError, ValueError):
      continue
    for item in text if isinstance(text, (list, tuple)) else [text]:
      if isinstance(item, (str, bytes)):
        yield item.decode('utf-8', 'ignore') if isinstance(item, bytes) else item.encode('utf-8', 'replace').decode()


def main(arguments: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog='python -m sslax.data.train_bpe', description='Learn a byte-level BPE from the texts of a source.'
  )
  parser.add_argument('--data', required=True, help='a source whose records have text, such as text:/data/*.txt')
  parser.add_argument('--vocab_size', type=int, default=1024, help='tokens at most, 256 bytes among them')
  parser.add_argument('--out', required=True, help='the tokenizer.json to write')
  flags = parser.parse_args(arguments)
  try:
    n = train_bpe(texts_of(open_source(flags.data)), flags.vocab_size, flags.out)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return USER_ERROR
  print(f'{flags.out}: {n} tokens, learned from {flags.data}')
  return DONE


if __name__ == '__main__':
  sys.exit(main())
