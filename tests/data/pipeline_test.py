import io
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
from PIL import Image

from sslax.data import host, pipeline, sources
from sslax.errors import UserError
from sslax.inputs.image import HostCrops
from sslax.inputs.image import Image as ImageInput
from sslax.ops.views import Crop

CROPS = (Crop(2, 8), Crop(3, 4, area=(0.05, 0.4)))


class Toy:
  """n random pictures 10 x 13; `bad` of them are not pictures, `gone` raise OSError. Counts its reads."""

  name = 'toy'
  classes = tuple('abcde')

  def __init__(self, n, bad=(), gone=(), num_classes=5):
    self.n, self.bad, self.gone, self.num_classes = n, frozenset(bad), frozenset(gone), num_classes
    self.reads = []

  def __len__(self):
    return self.n

  def __getitem__(self, i):
    self.reads.append(i)
    if i in self.gone:
      raise OSError('the disk is gone')
    label = {'label': i % self.num_classes} if self.num_classes else {}
    return {'image': b'junk' if i in self.bad else self.pixels(i), **label}

  def where(self, i):
    return f'toy/{i}.png'

  @staticmethod
  def pixels(i):
    return np.random.default_rng(i).integers(0, 256, (10, 13, 3), dtype=np.uint8)


SMALL = {'image': ImageInput(8)}


def take(source, n, inputs=SMALL, **how):
  how = {'batch_size': 16, 'seed': 3, 'threads': 2} | how
  with pipeline.train_batches(source, inputs, **how) as batches:
    return [next(batches) for _ in range(n)]


def same(a, b):
  assert len(a) == len(b)
  for x, y in zip(a, b, strict=True):
    assert x.keys() == y.keys()
    for key in x:
      assert x[key].dtype == y[key].dtype
      np.testing.assert_array_equal(x[key], y[key], err_msg=key)


HOST = {'inputs': {'image': ImageInput(8, crop_on='host').of_views(CROPS)}}
DEVICE = {'inputs': SMALL}


@pytest.mark.parametrize('how', [DEVICE, HOST], ids=['device', 'host'])
def test_processes_concatenate_to_one_global_batch(how):
  whole = take(Toy(40, bad=[7]), 4, **how)
  for count in (2, 4, 8):
    parts = [take(Toy(40, bad=[7]), 4, process_index=p, process_count=count, **how) for p in range(count)]
    assert len(parts[0][0]['index']) == 16 // count
    same(whole, [{key: np.concatenate([part[s][key] for part in parts]) for key in whole[0]} for s in range(4)])


def test_shapes_and_contents():
  (batch,) = take(Toy(40), 1)
  assert {key: (x.shape, x.dtype.name) for key, x in batch.items()} == {
    'image': ((16, 8, 8, 3), 'uint8'),
    'label': ((16,), 'int32'),
    'index': ((16,), 'int32'),
    'wanted': ((16,), 'int32'),
  }
  np.testing.assert_array_equal(batch['label'], batch['index'] % 5)
  np.testing.assert_array_equal(batch['index'], batch['wanted'])
  for image, i in zip(batch['image'], batch['index'], strict=True):
    np.testing.assert_array_equal(image, host.resize_center_crop(Toy.pixels(i), 8, 8))

  (batch,) = take(Toy(40), 1, **HOST)
  assert {key: x.shape for key, x in batch.items() if x.ndim > 1} == {'crops': (16, 2, 8, 8, 3), 'crops_1': (16, 3, 4, 4, 3)}
  assert batch['crops'].dtype == batch['crops_1'].dtype == np.uint8
  assert (batch['crops'][:, 0] != batch['crops'][:, 1]).any(axis=(1, 2, 3)).all()  # each view has a box of its own
  assert 'label' not in take(Toy(40, num_classes=0), 1)[0]


def test_crops_are_drawn_anew_in_each_epoch():
  batches = take(Toy(16), 2, **HOST)
  first, second = ([x['crops'][np.flatnonzero(x['index'] == i)[0]] for x in batches] for i in (0, 1))
  assert (first[0] != first[1]).any() and (second[0] != second[1]).any()


def test_each_record_once_per_epoch_across_its_boundary():
  drawn = np.concatenate([batch['wanted'] for batch in take(Toy(10), 20, batch_size=4)]).reshape(8, 10)
  np.testing.assert_array_equal(np.sort(drawn), np.tile(np.arange(10), (8, 1)))
  assert len({tuple(epoch) for epoch in drawn}) > 6  # another order in each
  assert (drawn != np.concatenate([batch['wanted'] for batch in take(Toy(10), 20, batch_size=4, seed=4)]).reshape(8, 10)).any()


@pytest.mark.parametrize('how', [DEVICE, HOST], ids=['device', 'host'])
def test_resume_is_exact(how):
  whole = take(Toy(40), 6, **how)  # 2.4 epochs
  for start in (1, 3, 5):
    same(whole[start:], take(Toy(40), 6 - start, start_step=start, **how))


@pytest.mark.parametrize('how', [{'cache': True}, {'cache': False}, HOST], ids=['cache', 'plain', 'host'])
def test_threads_and_prefetch_change_nothing(how):
  source = Toy(40, bad=[0, 20, 21])
  plain = take(source, 6, threads=1, prefetch=1, **how | {'cache': False})
  same(plain, take(source, 6, threads=4, prefetch=5, **how))


@pytest.mark.parametrize('workers', [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_workers_change_nothing_and_survive_signals(workers):
  how = {'start_step': 1, **HOST}
  whole = take(Toy(40, bad=[7]), 12, **how)
  with pipeline.train_batches(Toy(40, bad=[7]), batch_size=16, seed=3, workers=workers, **how) as batches:
    got = [next(batches) for _ in range(2)]
    children = multiprocessing.active_children()
    assert len(children) >= workers
    for worker in children:
      os.kill(worker.pid, signal.SIGTERM)
      os.kill(worker.pid, signal.SIGINT)
    got += [next(batches) for _ in range(10)]  # more than was prefetched before the signals
    same(whole, got)
    del got
  for worker in children:
    worker.join(5)
    assert not worker.is_alive()


def test_cache_reads_each_record_once():
  source = Toy(40, bad=[7])
  batches = take(source, 10, cache=True)
  assert len(source.reads) <= 2 * 40  # two batches in flight may both miss the same record; without a cache: 160 and more
  np.testing.assert_array_equal(np.unique(source.reads), np.arange(40))
  same(batches, take(source, 10, cache=False))
  before = len(source.reads)
  same(batches, take(source, 10))  # 'auto': 40 small pictures fit
  assert len(source.reads) - before <= 2 * 40


def test_large_data_is_not_cached(monkeypatch):
  monkeypatch.setattr(pipeline, 'CACHE_BYTES', 40 * 8 * 8 * 3 - 1)
  source = Toy(40)
  take(source, 10)
  assert len(source.reads) >= 160


def test_little_is_prepared_ahead():
  source = Toy(1000)
  with pipeline.train_batches(source, batch_size=10, seed=0, inputs=SMALL, threads=2, prefetch=3, cache=False) as batches:
    next(batches)
    time.sleep(0.3)
    assert len(source.reads) <= 10 * (1 + 3 + 1)


def test_close_ends_the_threads():
  before = threading.active_count()
  for source in (Toy(40), Toy(40, bad=range(40))):
    batches = pipeline.train_batches(source, batch_size=16, seed=0, inputs=SMALL, threads=3)
    try:
      next(batches)
    except UserError:
      pass
    batches.close()
  deadline = time.time() + 5
  while threading.active_count() > before and time.time() < deadline:
    time.sleep(0.01)
  assert threading.active_count() <= before


def test_bad_records_are_replaced_by_the_next_good_one():
  bad, gone = {3, 4, 39}, {5}
  for how in (DEVICE, HOST, {'cache': False}):
    wanted, index, label = (
      np.concatenate([b[k] for b in take(Toy(40, bad, gone), 5, **how)]) for k in ('wanted', 'index', 'label')
    )
    replaced = {int(w): int(i) for w, i in zip(wanted, index, strict=True) if w != i}
    assert replaced == {3: 6, 4: 6, 5: 6, 39: 0}
    np.testing.assert_array_equal(label, index % 5)


@pytest.mark.parametrize('n, tries', [(20, 20), (300, 100)])
def test_nothing_but_bad_records_ends_the_run(n, tries):
  source = Toy(n, bad=range(n))
  with pytest.raises(UserError, match=rf'toy: {tries} records in a row .* toy/\d+.png: no JPEG'):
    take(source, 1, batch_size=1, threads=1, prefetch=1)


def test_faults_of_the_program_are_not_taken_for_bad_records():
  class Broken(Toy):
    def __getitem__(self, i):
      return {'image': self.pixels(i)}  # labelled by its own account

  with pytest.raises(KeyError):
    take(Broken(40), 1)


@pytest.mark.parametrize(
  'how, message',
  [
    ({'batch_size': 6, 'process_count': 4}, 'batch_size 6 does not divide by 4'),
    ({'batch_size': 41}, '40 records are less than one batch of 41'),
    ({'seed': -1}, 'seed -1'),
    ({'inputs': {'image': ImageInput(8, crop_on='host')}}, 'asks for no crops'),
    ({'inputs': {'image': ImageInput()}}, 'give Image a size'),
  ],
)
def test_mistakes_are_told(how, message):
  with pytest.raises(UserError, match=message):
    take(Toy(40), 1, **how)


def test_probe():
  assert pipeline.probe(Toy(3), SMALL) == '10x13 pixels'
  source = Toy(1000, bad=range(999))
  assert pipeline.probe(source, SMALL, 5) == '10x13 pixels'  # the last one is among those tried
  assert sorted(set(source.reads)) == [0, 249, 499, 749, 999]
  with pytest.raises(UserError, match=r'not one of 16 .* toy/0.png: no JPEG.*; toy/\d+.png: the disk is gone; [^;]*$'):
    pipeline.probe(Toy(1000, bad=range(1000), gone=range(1, 100)), SMALL)
  with pytest.raises(UserError, match='not one of 2 .* 10'):
    pipeline.probe(Toy(2), {'image': ImageInput(8, max_pixels=100)})
  with pytest.raises(UserError, match='no record'):
    pipeline.probe(Toy(0), SMALL)


def test_what_a_decoder_raises_is_a_bad_record_whatever_it_is():
  class Odd(ImageInput):
    def decode(self, record):
      if record['label'] == 3:
        raise IndexError('beyond the end')
      return super().decode(record)

  (batch,) = take(Toy(40), 1, {'image': Odd(8)})
  assert 3 not in batch['label'] and (batch['wanted'] % 5 == 3).any()
  with pytest.raises(UserError, match='IndexError: beyond the end'):
    take(Toy(4), 1, {'image': Always(8)}, batch_size=1)


class Always(ImageInput):
  def decode(self, record):
    raise IndexError('beyond the end')


def evaluate(source, inputs=None, **how):
  how = {'batch_size': 8, 'threads': 2} | how
  with pipeline.eval_batches(source, inputs or {'image': ImageInput(8, resize=9)}, **how) as batches:
    return list(batches), batches.bad


def test_eval_goes_through_everything_once_in_order():
  batches, bad = evaluate(Toy(19))
  x = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
  assert bad == 0
  assert {key: (v.shape, v.dtype.name) for key, v in x.items()} == {
    'image': ((24, 8, 8, 3), 'uint8'),
    'label': ((24,), 'int32'),
    'index': ((24,), 'int32'),
    'mask': ((24,), 'bool'),
  }
  np.testing.assert_array_equal(x['index'], [*range(19), *[-1] * 5])
  np.testing.assert_array_equal(x['mask'], np.arange(24) < 19)
  np.testing.assert_array_equal(x['label'], [*(i % 5 for i in range(19)), *[-1] * 5])
  for i in range(19):
    np.testing.assert_array_equal(x['image'][i], host.resize_center_crop(Toy.pixels(i), 9, 8))
  assert (x['image'][19:] == 0).all()
  assert (evaluate(Toy(19, num_classes=0))[0][0]['label'] == -1).all()


def test_eval_masks_bad_records_and_counts_them():
  batches, bad = evaluate(Toy(19, bad=[2, 17], gone=[9]))
  mask, label = (np.concatenate([batch[key] for batch in batches]) for key in ('mask', 'label'))
  assert bad == 3
  assert set(np.flatnonzero(~mask)) == {2, 9, 17, 19, 20, 21, 22, 23}
  assert (label[[2, 9, 17]] == -1).all()


def test_eval_processes_concatenate_to_one_global_batch():
  whole, _ = evaluate(Toy(19, bad=[4]))
  for count in (2, 4, 8):  # with 8, some get nothing but padding in the last batch
    parts = [evaluate(Toy(19, bad=[4]), process_index=p, process_count=count)[0] for p in range(count)]
    same(whole, [{key: np.concatenate([part[s][key] for part in parts]) for key in whole[0]} for s in range(3)])


def test_eval_mistakes_are_told():
  with pytest.raises(UserError, match='divide'):
    evaluate(Toy(19), batch_size=6, process_count=4)
  with pytest.raises(ValueError, match='smaller than size'):
    ImageInput(8, resize=7)


def test_encoded_images_of_several_sizes():
  class Encoded(Toy):
    def __getitem__(self, i):
      file = io.BytesIO()
      Image.fromarray(np.full((20 + i, 30, 3), 5 * i, np.uint8)).save(file, 'PNG')
      return {'image': file.getvalue(), 'label': i % 5}

  for how in (DEVICE, HOST):
    for batch in take(Encoded(40), 2, **how):
      for key in {'image', 'crops', 'crops_1'} & batch.keys():
        np.testing.assert_array_equal(
          batch[key], np.broadcast_to(5 * batch['index'].reshape(-1, *[1] * (batch[key].ndim - 1)), batch[key].shape)
        )


def test_real_sources(real_data):
  photos = sources.open_source(f'folder:{real_data}/imagenet_sample')
  assert 'pixels' in pipeline.probe(photos, SMALL)
  crops = (Crop(2, 32, area=(0.9, 1.0), ratio=(0.5, 2.0)),)
  (batch,) = take(photos, 1, {'image': HostCrops(ImageInput(32), crops)})
  assert set(batch['label']) <= set(range(125)) and len(set(batch['index'])) == 16
  # crops of at least nine tenths of the same photo differ little; photos differ much
  small = batch['crops'].reshape(16, 2, 4, 8, 4, 8, 3).mean((3, 5)).reshape(16, 2, -1)
  distance = np.abs(small[:, None, 0] - small[None, :, 1]).mean(-1)
  assert (distance.argmin(1) == np.arange(16)).all()

  cifar = sources.open_source(f'parquet:{real_data}/cifar10/test-*.parquet@[:64]')
  train = take(cifar, 4, {'image': ImageInput(32)})  # one epoch
  batches, _ = evaluate(cifar, {'image': ImageInput(32)})
  image, label = (np.concatenate([batch[key] for batch in batches]) for key in ('image', 'label'))
  for batch in train:  # 32 pixels: untouched by both
    np.testing.assert_array_equal(batch['image'], image[batch['index']])
    np.testing.assert_array_equal(batch['label'], label[batch['index']])
  assert len(set(label)) == 10
