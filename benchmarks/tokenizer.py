"""Texts a second of our BPE tokenizer and of open_clip's: python -m benchmarks.tokenizer --help

    python -m benchmarks.tokenizer --data='tar:/data/fashion_captions/train-*.tar' \\
      --vocab=/data/clip/bpe_simple_vocab_16e6.txt.gz --open_clip_python=/envs/open_clip/bin/python

The first 2,000 captions of a source, per second of CPU time, a process for each tokenizer at a time. `first` is the first pass
of a fresh tokenizer, `again` the best of five further passes (epochs). Prints a table and whether all ids are equal.
"""

import json
import pathlib
import subprocess
import sys

from absl import app, flags

FLAGS = flags.FLAGS
_DATA = flags.DEFINE_string('data', 'digits:captions@train', 'source with captions')
_VOCAB = flags.DEFINE_string('vocab', '', "CLIP's merges; '': fetched once")
_OTHER = flags.DEFINE_string('open_clip_python', sys.executable, 'an interpreter that has open_clip')
_COUNT = flags.DEFINE_integer('count', 2000, 'captions', lower_bound=1)

MEASURE = """
import hashlib, json, sys, time
texts = json.load(sys.stdin)
{make}
def seconds():
  start = time.process_time()
  ids = [encode(text) for text in texts]
  return time.process_time() - start, ids
first, ids = seconds()
again = min(seconds()[0] for _ in range(5))
digest = hashlib.sha256(json.dumps([[int(i) for i in row] for row in ids]).encode()).hexdigest()
print(json.dumps([len(texts) / first, len(texts) / again, digest]))
"""
OURS = """
from sslax.data import text
encode = text.make('bpe', 77, {vocab!r})
encode('café')  # imports ftfy
"""
THEIRS = """
from open_clip.tokenizer import SimpleTokenizer
tokenizer = SimpleTokenizer()
encode = lambda text: tokenizer(text)[0]
"""


def texts_per_second(python, make, texts):
  """(first pass, best of later passes, hash of the ids) in a process of its own."""
  run = subprocess.run(
    [python, '-c', MEASURE.format(make=make)],
    input=json.dumps(texts),
    capture_output=True,
    text=True,
    cwd=pathlib.Path(__file__).resolve().parents[1],
  )
  if run.returncode:
    raise app.UsageError(f'{python} failed:\n{run.stderr[-2000:]}')
  return json.loads(run.stdout.splitlines()[-1])


def main(_):
  from sslax.data.sources import open_source
  from sslax.inputs.text import Text

  source, texts = open_source(_DATA.value), []
  for i in range(len(source)):
    texts += Text().decode(source[i])
    if len(texts) >= _COUNT.value:
      break
  texts = texts[: _COUNT.value]
  print(f'{len(texts)} captions of {_DATA.value}, {sum(map(len, texts)) / len(texts):.0f} characters each')
  rows = {
    'sslax': texts_per_second(sys.executable, OURS.format(vocab=_VOCAB.value), texts),
    'open_clip': texts_per_second(_OTHER.value, THEIRS, texts),
  }
  print(f'{"texts/s":<12}{"first":>10}{"again":>10}')
  for name, (first, again, _) in rows.items():
    print(f'{name:<12}{first:>10,.0f}{again:>10,.0f}')
  first, again = (rows['sslax'][k] / rows['open_clip'][k] for k in (0, 1))
  print(f'{"ratio":<12}{first:>10.1f}{again:>10.1f}')
  print(f'ids equal: {rows["sslax"][2] == rows["open_clip"][2]}')


if __name__ == '__main__':
  app.run(main)
