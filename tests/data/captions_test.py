"""Captions from the record to the batch: the draw, what cannot be used, what is refused before a run starts."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from sslax.data import bad, pipeline, text
from sslax.data.schemes import digits as digits_scheme
from sslax.errors import UserError
from sslax.inputs.image import Image as ImageInput
from sslax.inputs.text import Text
from sslax.method import Features, Method, Output
from sslax.ops.views import Crop
from sslax.run import config as configs
from sslax.run.optim import Sgd
from sslax.run.prepare import prepare
from sslax.run.session import train_batches
from sslax.spec import spec

BYTES = text.ByteTokenizer(12)
BLANK = (None, '', ' \n', '\0', b'\xff\xff', [], [None, ''])
# The last caption is 'third 17', so that 12 positions hold it.
CAPTIONS = ('one', 'second', 'third')


class Toy:
  """n pictures with up to three captions; those of `blank` have none that can be used, those of `junk` no image."""

  name, classes, num_classes = 'toy', (), 0

  def __init__(self, n, blank=(), junk=()):
    self.n, self.blank, self.junk, self.reads = n, tuple(blank), frozenset(junk), []

  def __len__(self):
    return self.n

  def __getitem__(self, i):
    self.reads.append(i)
    image = b'junk' if i in self.junk else np.random.default_rng(i).integers(0, 256, (4, 5, 3), np.uint8)
    if i in self.blank:
      return {'image': image, 'text': BLANK[self.blank.index(i) % len(BLANK)]}
    return {'image': image, 'text': [f'{name} {i}' for name in CAPTIONS[: 1 + i % 3]]}

  def where(self, i):
    return f'toy/{i}.png'


IMAGE, TEXT = ImageInput(4), Text('bytes', 12)


def take(source, n, image=IMAGE, text=TEXT, **how):
  how = {'batch_size': 12, 'seed': 3, 'threads': 2} | how
  inputs = {'image': image, 'text': text} if text else {'image': image}
  with pipeline.train_batches(source, inputs, **how) as batches:
    return [next(batches) for _ in range(n)]


def same(a, b):
  assert len(a) == len(b)
  for x, y in zip(a, b, strict=True):
    assert x.keys() == y.keys()
    for key in x:
      np.testing.assert_array_equal(x[key], y[key], err_msg=key)


def words(batch):
  return [BYTES.decode(ids) for ids in batch['text']]


PLAIN, HOST = {'cache': False}, {'image': ImageInput(4, crop_on='host').of_views((Crop(2, 4),))}
HOW = pytest.mark.parametrize('how', [{'cache': True}, PLAIN, HOST], ids=['cache', 'plain', 'host'])


# -------------------------------------------------------------------------------------------------------------- the pipeline


@HOW
def test_captions_belong_to_their_images(how):
  for batch in take(Toy(30, blank=[4], junk=[9]), 5, **how):
    assert batch['text'].shape == (12, 12) and batch['text'].dtype == np.int32
    for i, words_of_row in zip(batch['index'], words(batch), strict=True):
      assert words_of_row in [f'{name} {i}' for name in CAPTIONS[: 1 + i % 3]]
  assert 'text' not in take(Toy(30), 1, text=None, **how)[0]


@HOW
def test_the_draw_is_a_function_of_seed_and_row(how):
  source = Toy(30, blank=[4, 5], junk=[9])
  whole = take(source, 6, **how)  # 2.4 epochs
  parts = [take(source, 6, process_index=p, process_count=3, **how) for p in range(3)]
  same(whole, [{key: np.concatenate([part[s][key] for part in parts]) for key in whole[0]} for s in range(6)])
  same(whole[3:], take(source, 3, start_step=3, **how))
  same(whole, take(source, 6, **how | {'threads': 4, 'prefetch': 5}))
  other = take(source, 6, **how | {'seed': 4})
  assert any(words(a) != words(b) for a, b in zip(whole, other, strict=True))


def test_the_cache_changes_nothing():
  source = Toy(30, blank=[4])
  same(take(source, 6, **PLAIN), take(source, 6, cache=True))


@pytest.mark.slow  # a worker imports this file and with it jax
def test_workers_change_nothing():
  source = Toy(30, blank=[4])
  same(take(source, 6, **PLAIN), take(source, 6, cache=True, workers=1))


@HOW
def test_every_caption_is_drawn_over_the_epochs(how):
  source = Toy(12)
  drawn = [{} for _ in range(12)]
  for batch in take(source, 40, **how):
    for i, caption in zip(batch['index'], words(batch), strict=True):
      drawn[i][caption.split()[0]] = drawn[i].get(caption.split()[0], 0) + 1
  for i, counts in enumerate(drawn):
    n = 1 + i % 3
    assert set(counts) == set(CAPTIONS[:n]) and min(counts.values()) >= 0.4 * 40 / n
  if how.get('cache'):
    assert len(source.reads) <= 2 * 12  # the captions are kept as the images are


def test_the_draw_does_not_move_the_crops():
  with_text, without = take(Toy(30), 3, **HOST), take(Toy(30), 3, **HOST, text=None)
  for a, b in zip(with_text, without, strict=True):
    np.testing.assert_array_equal(a['crops'], b['crops'])


@HOW
def test_no_usable_caption_is_a_bad_record(how, tmp_path):
  blank = range(len(BLANK))
  source = Toy(40, blank=blank)
  both = {'image': IMAGE, 'text': TEXT}
  records = bad.BadRecords(source, tmp_path / 'bad.jsonl', 0.5, inputs=both)
  for batch in take(source, 4, **how):
    replaced = batch['wanted'] < len(BLANK)
    assert (batch['index'][replaced] == len(BLANK)).all()
    np.testing.assert_array_equal(batch['index'][~replaced], batch['wanted'][~replaced])
    records.update(batch['wanted'], batch['index'])
  assert records.count == len(BLANK)
  reasons = {(x := json.loads(line))['index']: x['reason'] for line in (tmp_path / 'bad.jsonl').read_text().splitlines()}
  assert set(reasons) == set(blank) and all('no usable caption' in reason for reason in reasons.values())
  with pytest.raises(UserError, match='7 of 40'):
    bad.BadRecords(source, tmp_path / 'bad.jsonl', 0.1, inputs=both)
  assert bad.BadRecords(source, tmp_path / 'bad.jsonl', 0.1, inputs={'image': IMAGE}).count == 0  # the images alone are fine


def test_evaluation_takes_the_first_caption():
  inputs = {'image': IMAGE, 'text': TEXT}
  with pipeline.eval_batches(Toy(10, blank=[2], junk=[5]), inputs, batch_size=8, threads=2) as batches:
    x = [next(batches), next(batches)]
    assert batches.bad == 2
  ids, mask, index = (np.concatenate([batch[key] for batch in x]) for key in ('text', 'mask', 'index'))
  assert ids.shape == (16, 12) and ids.dtype == np.int32
  np.testing.assert_array_equal(mask, np.isin(index, [0, 1, 3, 4, 6, 7, 8, 9]))
  assert (ids[~mask] == 0).all() and [BYTES.decode(row) for row in ids[mask]] == [f'one {i}' for i in index[mask]]
  assert TEXT.captions(Toy(10, blank=[2])[8]) == ['one 8', 'second 8', 'third 8']
  assert TEXT.captions(Toy(10, blank=[2])[2]) == []


def test_probe():
  both, image = {'image': IMAGE, 'text': TEXT}, {'image': IMAGE}
  assert pipeline.probe(Toy(40, blank=range(39)), both) == '4x5 pixels, captions of 12 tokens (bytes)'
  assert pipeline.probe(Toy(40, blank=range(40)), image) == '4x5 pixels'
  with pytest.raises(
    UserError, match=r'not one of 16 records can be used as text: toy/0.png: no usable caption: the text is None'
  ):
    pipeline.probe(Toy(40, blank=range(40)), both)
  with pytest.raises(UserError, match='used as image and text.*Check that these hold image and text'):
    pipeline.probe(Toy(40, blank=range(20), junk=range(20, 40)), both)


# ------------------------------------------------------------------------------------------------------------------- a run


@dataclasses.dataclass(frozen=True)
class Reader(Method):
  """Wants captions and learns the mean of their ids."""

  rows: int  # of its table of tokens
  caption: Text = Text()

  def inputs(self):
    return {'text': self.caption}

  def init(self, rng, views):
    self.caption.require(self.rows, 'config.method.rows')
    assert views['text'].dtype == np.int32
    return {'encoder': jax.random.normal(rng, views['text'].shape[1:])}, {}

  def loss(self, params, memory, views, rng, step):
    return ((params['encoder'][None] - views['text']) ** 2).mean(), Output(memory, {})

  def features(self, params, memory, batch):
    return Features(pooled=batch['text'] * params['encoder'][None])


def reader_config(**changes):
  config = configs.base_config()
  config.batch_size, config.num_steps = 8, 4
  config.data.train, config.data.test = 'digits:captions@train', 'digits:captions@test'
  config.method = spec(Reader, rows=259, caption=spec(Text, length=20))
  config.optim = spec(Sgd, warmup='0 steps')
  config.update_from_flattened_dict(changes)
  return config


def test_the_run_delivers_what_the_method_asks_for():
  run = prepare(reader_config())
  assert run.abstract_batch['text'].shape == (8, 20) and run.abstract_state.params['encoder'].shape == (20,)
  with train_batches(run, 2) as batches:
    batch = next(batches)
  wanted = {key: (a.shape, a.dtype) for key, a in run.abstract_batch.items()}
  assert {key: (a.shape, a.dtype) for key, a in batch.items() if key != 'wanted'} == wanted
  tokenize = run.method.caption.tokenize
  assert {caption for row in batch['text'] if (caption := tokenize.decode(row))} <= {
    form.format(name)[:18] for form in digits_scheme.CAPTIONS for name in (*digits_scheme.WORDS, *'0123456789')
  }


@pytest.mark.parametrize(
  'changes, words_of_error',
  [
    ({'data.train': 'digits:@train'}, 'can be used as text.*no usable caption'),
    ({'method.caption.tokenizer': 'byte'}, "config.method.caption.*tokenizer='byte' is none of 'bytes', 'bpe'"),
    ({'method.caption.length': 2}, 'length=2 must be at least 3'),
    ({'method.caption.vocab': 'x.txt'}, "read by tokenizer='bpe' only"),
    ({'method.caption.tokenizer': 'bpe', 'method.caption.vocab': '/nowhere/x'}, '/nowhere/x'),
    ({'method.rows': 258}, 'rows=258 is too small for the 259 tokens'),
  ],
)
def test_mistakes_are_told_before_anything_expensive(changes, words_of_error):
  with pytest.raises(UserError, match=words_of_error):
    prepare(reader_config(**changes))
