"""A run that starts from a graft, and goes on without it."""

import shutil

import numpy as np
import pytest
from PIL import Image
from run.toy import Toy, by_path, fresh, save, saved

from sslax.errors import UserError
from sslax.methods.averaged import Averaged
from sslax.run import loop
from sslax.run.config import base_config
from sslax.run.faults import StopRequest
from sslax.run.optim import Sgd
from sslax.run.prepare import prepare
from sslax.run.summary import summary
from sslax.spec import spec


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return saved(tmp_path_factory.mktemp('runs') / 'toy')


def config_of(method=None, **fields):
  config = base_config()
  config.batch_size, config.num_steps, config.data.test = 32, 2, ''
  config.method = method or spec(Toy)
  config.optim = spec(Sgd, learning_rate=0.0, warmup='0', weight_decay=0.0)  # the parameters stay
  config.update(fields)
  return config


def train(config, workdir):
  run = prepare(config, workdir)
  workdir.mkdir(exist_ok=True)
  lowered = run.lower()
  return by_path(loop.train(run, lowered, workdir, StopRequest())), summary(run, lowered)


def test_a_run_starts_from_the_graft_and_resumes_without_it(run, tmp_path):
  source, states = run
  shutil.copytree(source, tmp_path / 'source')
  config = config_of(graft=(str(tmp_path / 'source'),))
  after, summary = train(config, tmp_path / 'run')
  assert f'graft          params/encoder and memory/stats/encoder from {tmp_path}/source, step 20 (4 leaves)' in summary
  np.testing.assert_array_equal(after['params/encoder/dense/kernel'], states[1]['params/encoder/dense/kernel'])
  assert after['memory/stats/encoder/count'] == states[1]['memory/stats/encoder/count'] + 2
  assert not np.array_equal(after['params/head/kernel'], states[1]['params/head/kernel'])
  shutil.rmtree(tmp_path / 'source')
  with pytest.raises(UserError, match='no run with checkpoints'):
    prepare(config)
  config.num_steps = 4
  again, summary = train(config, tmp_path / 'run')
  assert 'graft' not in summary
  np.testing.assert_array_equal(again['params/encoder/dense/kernel'], after['params/encoder/dense/kernel'])
  assert again['memory/stats/encoder/count'] == after['memory/stats/encoder/count'] + 2
  save(tmp_path / 'source', fresh(Toy(), 5))  # not on a resume, not even where it could
  config.num_steps, run = 6, prepare(config)
  assert run.grafts
  after = by_path(loop.train(run, run.lower(), tmp_path / 'run', StopRequest()))
  np.testing.assert_array_equal(after['params/encoder/dense/kernel'], again['params/encoder/dense/kernel'])


def test_prepare_refuses_a_method_without_its_teacher():
  with pytest.raises(UserError, match='Toy needs memory/teacher'):
    prepare(config_of(spec(Toy, teacher=True)))
  with pytest.raises(UserError, match='config.graft holds 3'):
    prepare(config_of(graft=(3,)))


def test_labels_that_the_data_lacks(tmp_path):
  for i in range(40):
    Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / f'{i}.png')
  unlabelled = f'folder:{tmp_path}'
  for method, data, words in (
    (spec(Toy, uses_labels=True), unlabelled, 'Toy learns from labels, and config.data.train has none'),
    (spec(Averaged, inner=spec(Toy, uses_labels=True)), unlabelled, 'Averaged learns from labels'),
    (spec(Toy, uses_labels=True, label_classes=9), 'digits:', 'Toy is for 9 classes, and config.data.train has 10'),
    (spec(Averaged, inner=spec(Toy, uses_labels=True, label_classes=9)), 'digits:', 'Averaged is for 9 classes'),
  ):
    config = config_of(method)
    config.data.train = data
    with pytest.raises(UserError, match=words):
      prepare(config)
  for method, data in (
    (spec(Toy), unlabelled),
    (spec(Toy, uses_labels=True, label_classes=11), 'digits:'),
  ):
    config = config_of(method)
    config.data.train = data
    prepare(config)
