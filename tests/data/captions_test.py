"""Captions from the source to the batch: each container, the draw, what cannot be used, what is refused before a run starts."""

import dataclasses
import io
import json
import pickle
import sys
import tarfile
from typing import ClassVar

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sslax.data import bad, pipeline, sources, text
from sslax.data.arrayrecord import write_arrayrecord
from sslax.data.sources import open_source
from sslax.errors import UserError
from sslax.method import Crop, Method
from sslax.run import config as configs
from sslax.run import loop
from sslax.run.optim import Optimizer
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


def take(source, n, **how):
  how = {'batch_size': 12, 'seed': 3, 'image_size': 4, 'threads': 2, 'tokenize': BYTES} | how
  with pipeline.train_batches(source, **how) as batches:
    return [next(batches) for _ in range(n)]


def same(a, b):
  assert len(a) == len(b)
  for x, y in zip(a, b, strict=True):
    assert x.keys() == y.keys()
    for key in x:
      np.testing.assert_array_equal(x[key], y[key], err_msg=key)


def words(batch):
  return [BYTES.decode(ids) for ids in batch['text']]


PLAIN, HOST = {'cache': False}, {'crop_on': 'host', 'crops': (Crop(2, 4),)}
HOW = pytest.mark.parametrize('how', [{'cache': True}, PLAIN, HOST], ids=['cache', 'plain', 'host'])


# -------------------------------------------------------------------------------------------------------------- the pipeline


@HOW
def test_captions_belong_to_their_images(how):
  for batch in take(Toy(30, blank=[4], junk=[9]), 5, **how):
    assert batch['text'].shape == (12, 12) and batch['text'].dtype == np.int32
    for i, words_of_row in zip(batch['index'], words(batch), strict=True):
      assert words_of_row in [f'{name} {i}' for name in CAPTIONS[: 1 + i % 3]]
  assert 'text' not in take(Toy(30), 1, tokenize=None, **how)[0]


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
  with_text, without = take(Toy(30), 3, **HOST), take(Toy(30), 3, **HOST, tokenize=None)
  for a, b in zip(with_text, without, strict=True):
    np.testing.assert_array_equal(a['crops'], b['crops'])


@HOW
def test_no_usable_caption_is_a_bad_record(how, tmp_path):
  blank = range(len(BLANK))
  source = Toy(40, blank=blank)
  records = bad.BadRecords(source, tmp_path / 'bad.jsonl', 0.5, captioned=True)
  for batch in take(source, 4, **how):
    replaced = batch['wanted'] < len(BLANK)
    assert (batch['index'][replaced] == len(BLANK)).all()
    np.testing.assert_array_equal(batch['index'][~replaced], batch['wanted'][~replaced])
    records.update(batch['wanted'], batch['index'])
  assert records.count == len(BLANK)
  reasons = {(x := json.loads(line))['index']: x['reason'] for line in (tmp_path / 'bad.jsonl').read_text().splitlines()}
  assert set(reasons) == set(blank) and all('no usable caption' in reason for reason in reasons.values())
  with pytest.raises(UserError, match='7 of 40'):
    bad.BadRecords(source, tmp_path / 'bad.jsonl', 0.1, captioned=True)
  assert bad.BadRecords(source, tmp_path / 'bad.jsonl', 0.1).count == 0  # the images alone are fine


def test_evaluation_takes_the_first_caption():
  with pipeline.eval_batches(
    Toy(10, blank=[2], junk=[5]), batch_size=8, image_size=4, resize=4, threads=2, tokenize=BYTES
  ) as batches:
    x = [next(batches), next(batches)]
    assert batches.bad == 2
  ids, mask, index = (np.concatenate([batch[key] for batch in x]) for key in ('text', 'mask', 'index'))
  assert ids.shape == (16, 12) and ids.dtype == np.int32
  np.testing.assert_array_equal(mask, np.isin(index, [0, 1, 3, 4, 6, 7, 8, 9]))
  assert (ids[~mask] == 0).all() and [BYTES.decode(row) for row in ids[mask]] == [f'one {i}' for i in index[mask]]
  assert pipeline.captions(Toy(10, blank=[2]), 8) == ['one 8', 'second 8', 'third 8']
  assert pipeline.captions(Toy(10, blank=[2]), 2) == []


def test_probe():
  assert pipeline.probe(Toy(40, blank=range(39)), captioned=True) == [(4, 5)]
  assert len(pipeline.probe(Toy(40, blank=range(40)))) == 16
  with pytest.raises(UserError, match=r'not one of 16 records has a caption .*toy/0.png: no usable caption: the text is None'):
    pipeline.probe(Toy(40, blank=range(40)), captioned=True)
  with pytest.raises(UserError, match='Check that these are images'):
    pipeline.probe(Toy(40, blank=range(20), junk=range(20, 40)), captioned=True)


# ---------------------------------------------------------------------------------------------------------------- the sources


def image(i):
  out = io.BytesIO()
  Image.fromarray(np.full((2, 3, 3), i, np.uint8)).save(out, 'PNG')
  return out.getvalue()


def parquet(path, **columns):
  images = pa.array([{'bytes': image(i), 'path': ''} for i in range(len(next(iter(columns.values()))))])
  pq.write_table(pa.table({'image': images} | columns), path)
  return f'parquet:{path}'


def all_captions(uri):
  source = open_source(uri)
  return [pipeline.captions(source, i) for i in range(len(source))]


def test_digits():
  source, plain = open_source('digits:captions@test[:20]'), open_source('digits:@test[:20]')
  assert len(sources.CAPTIONS) * 2 == 12 and source.classes == plain.classes == tuple('0123456789')
  for i in range(20):
    record, name = source[i], sources.WORDS[source[i]['label']]
    np.testing.assert_array_equal(record['image'], plain[i]['image'])
    assert record['label'] == plain[i]['label'] and 'text' not in plain[i]
    assert len(set(record['text'])) == 12 and f'a handwritten {name}' in record['text'] == text.usable(record['text'])
    assert sum(name in t.split() for t in record['text']) == sum(str(record['label']) in t.split() for t in record['text']) == 6
  assert len(open_source('digits:captions@train')) == 1297
  assert pickle.loads(pickle.dumps(source))[3]['text'] == source[3]['text']
  with pytest.raises(UserError, match='digits:captions@train'):
    open_source('digits:caption@train')


@pytest.mark.parametrize('name', ['text', 'caption', 'captions', 'sentences'])
def test_parquet_columns(name, tmp_path):
  kinds = {
    'string': (pa.array(['a', None]), [['a'], []]),
    'large': (pa.array(['a', ''], pa.large_string()), [['a'], []]),
    'list': (pa.array([['a', 'b', None], []]), [['a', 'b'], []]),
    'struct': (pa.array([{'raw': 'a', 'tokens': ['x']}, {'raw': None, 'tokens': ['y']}]), [['a'], []]),
    'structs': (pa.array([[{'sentid': 1, 'raw': 'a'}, {'sentid': 2, 'raw': 'b'}], None]), [['a', 'b'], []]),
    'lists': (pa.array([[{'tokens': ['x', 'y'], 'text': 'a'}], []]), [['a'], []]),
  }
  for kind, (column, expected) in kinds.items():
    assert all_captions(parquet(tmp_path / f'{kind}.parquet', **{name: column})) == expected, kind


def test_parquet_column_by_name(tmp_path):
  uri = parquet(tmp_path / 'x.parquet', text=pa.array(['a', 'b']), title=pa.array(['t', 'u']), size=pa.array([1, 2]))
  assert all_captions(uri) == [['a'], ['b']]
  for asked in (f'{uri}?text=title@[1:]', f'{uri}@[1:]?text=title'):
    assert all_captions(asked) == [['u']]
  with pytest.raises(UserError, match="no column of text 'titel'.*Did you mean title"):
    open_source(f'{uri}?text=titel')
  with pytest.raises(UserError, match="no column of text 'size'"):
    open_source(f'{uri}?text=size')


def test_parquet_that_is_no_utf8(tmp_path):
  """Nothing checks the bytes of a string column; the image must not be lost for them."""
  column = pa.array([b'caf\xc3\xa9', b'\xffcat', b'\xff\xff']).view(pa.string())
  source = open_source(parquet(tmp_path / 'x.parquet', text=column))
  assert [pipeline.captions(source, i) for i in range(3)] == [['café'], ['\ufffdcat'], []]
  assert source[2]['image'] == image(2)


def test_tar(tmp_path):
  members = {
    'a': {'txt': b'\xef\xbb\xbfone\r\n'},
    'b': {'json': b'{"captions": ["p", null, 3, "q"]}', 'txt': b'no'},
    'c': {'json': b'{"captions": [null], "caption": "no"}', 'txt': b'yes'},
    'd': {'json': b'{"caption": "\\ud83d"}'},
    'e': {'txt': b'\0\0'},
    'f': {},
    'g': {'txt': b'\xff\xfe\xfd'},
    'h': {'txt': b'long ' * 200_000},
  }
  with tarfile.open(tmp_path / 'x.tar', 'w') as shard:
    for i, (key, parts) in enumerate(members.items()):
      for suffix, data in ({'png': image(i)} | parts).items():
        member = tarfile.TarInfo(f'{key}.{suffix}')
        member.size = len(data)
        shard.addfile(member, io.BytesIO(data))
  found = all_captions(f'tar:{tmp_path}/x.tar')
  assert found[:-1] == [['one'], ['p', 'q'], ['yes'], [], [], [], []]
  assert len(found[-1][0]) == text.MAX_CHARS


def test_arrayrecord(tmp_path):
  write_arrayrecord(str(tmp_path / 'x.array_record'), open_source('digits:captions@test[:5]'))
  source, digits = open_source(f'arrayrecord:{tmp_path}/x.array_record'), open_source('digits:captions@test[:5]')
  assert [source[i]['text'] for i in range(5)] == [digits[i]['text'] for i in range(5)]


BUILDER = """
import io
import numpy as np
import tensorflow_datasets as tfds

class SslaxCoco(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict({
        'image': tfds.features.Image(shape=(None, None, 3)),
        'text': tfds.features.ClassLabel(names=['no', 'captions']),
        'captions': tfds.features.Sequence({'id': np.int64, 'text': tfds.features.Text()}),
      }),
    )

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(3)}

  def _generate_examples(self, n):
    from PIL import Image
    for i in range(n):
      out = io.BytesIO()
      Image.fromarray(np.full((2, 3, 3), i, np.uint8)).save(out, 'PNG')
      captions = [{'id': k, 'text': f'{i} {k}'} for k in range(i)]
      yield i, {'image': io.BytesIO(out.getvalue()), 'text': i % 2, 'captions': captions}
"""


def test_tfds_captions_inside_a_sequence(tmp_path, monkeypatch):
  (tmp_path / 'sslax_coco_package').mkdir()
  (tmp_path / 'sslax_coco_package' / '__init__.py').write_text('')
  (tmp_path / 'sslax_coco_package' / 'sslax_coco.py').write_text(BUILDER)
  monkeypatch.syspath_prepend(str(tmp_path))
  from sslax_coco_package import sslax_coco

  sslax_coco.SslaxCoco(data_dir=str(tmp_path / 'data'), file_format='array_record').download_and_prepare()
  found = all_captions(f'tfds:{tmp_path}/data/sslax_coco/1.0.0@train')
  assert sorted(found) == [[], ['1 0'], ['2 0', '2 1']]
  assert 'tensorflow' not in sys.modules


def test_real_captions(real_data):
  train = open_source(f'tar:{real_data}/fashion_captions/train-{{00000..00001}}.tar?label=label')
  test = open_source(f'tar:{real_data}/fashion_captions/test-00000.tar?label=label')
  assert (len(train), len(test)) == (6383, 1594) and train.classes == test.classes and len(test.classes) == 40
  assert all(len(pipeline.captions(test, i)) == 1 for i in range(0, 1594, 50))
  coco = open_source(f'tar:{real_data}/coco_captions/{{train,validation}}-00000.tar')
  assert len(coco) == 478 and all(len(pipeline.captions(coco, i)) >= 5 for i in range(0, 478, 20))


# ------------------------------------------------------------------------------------------------------------------- the loop


@dataclasses.dataclass(frozen=True)
class Tower:
  vocab_size: int


@dataclasses.dataclass(frozen=True)
class Reader(Method):
  """Wants captions and does nothing with them."""

  uses_text: ClassVar[bool] = True

  text: Tower

  def init(self, rng, views):
    assert views['text'].dtype == np.int32
    return {'encoder': jax.random.normal(rng, views['text'].shape[1:])}, {}

  def loss(self, params, memory, views, rng, step):
    raise NotImplementedError

  def features(self, params, memory, batch):
    raise NotImplementedError


def reader_config(**changes):
  config = configs.base_config()
  config.batch_size, config.num_steps, config.data.image_size = 8, 4, 8
  config.data.train, config.data.text, config.data.text_length = 'digits:captions@train', 'bytes', 20
  config.method, config.optim = spec(Reader, text=spec(Tower, vocab_size=259)), spec(Optimizer, name='sgd', warmup='0 steps')
  config.update_from_flattened_dict(changes)
  return config


def test_the_loop_delivers_what_the_config_asks_for():
  run = loop.prepare(reader_config())
  assert run.abstract_batch['text'].shape == (8, 20) and run.abstract_state.params['encoder'].shape == (20,)
  with loop.train_batches(run, 2) as batches:
    batch = next(batches)
  wanted = {key: (a.shape, a.dtype) for key, a in run.abstract_batch.items()}
  assert {key: (a.shape, a.dtype) for key, a in batch.items() if key != 'wanted'} == wanted
  assert {caption for row in batch['text'] if (caption := run.tokenize.decode(row))} <= {
    form.format(name)[:18] for form in sources.CAPTIONS for name in (*sources.WORDS, *'0123456789')
  }
  shapes = loop.prepare_shapes(reader_config(**{'data.text': 'bpe'}), 1000)  # no vocabulary is needed for these
  assert shapes.abstract_batch['text'].shape == (8, 20)


@pytest.mark.parametrize(
  'changes, words_of_error',
  [
    ({'data.text': ''}, 'Reader learns from captions: set config.data.text'),
    ({'data.train': 'digits:@train'}, 'has a caption that can be used.*digits:captions@train'),
    ({'data.text': 'byte'}, r"config\.data\.text='byte'.*bytes"),
    ({'data.text_length': 2}, 'config.data.text_length=2 must be at least 3'),
    ({'data.vocab': 'x.txt'}, 'read by config.data.text=bpe only'),
    ({'data.text': 'bpe', 'data.vocab': '/nowhere/x'}, 'config.data.vocab=./nowhere/x'),
    ({'method.text.vocab_size': 258}, 'vocab_size=258 is too small for the 259 tokens'),
  ],
)
def test_mistakes_are_told_before_anything_expensive(changes, words_of_error):
  with pytest.raises(UserError, match=words_of_error):
    loop.prepare(reader_config(**changes))


def test_shapes_alone_need_a_tokenizer_too():
  with pytest.raises(UserError, match='Reader learns from captions'):
    loop.prepare_shapes(reader_config(**{'data.text': ''}), 1000)
