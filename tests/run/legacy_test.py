"""Configs and flags of commit 1ba14ae, as saved there: what they are today, and where each old key went."""

import json
import pathlib

import ml_collections
import pytest

from sslax.errors import UserError
from sslax.run import cli, legacy
from sslax.run import config as configs
from sslax.spec import build

OLD = pathlib.Path(__file__).parent / 'old'
ROOT = pathlib.Path(__file__).resolve().parents[2]


def saved(name):
  return configs._tuples(json.loads((OLD / f'{name}_1ba14ae.json').read_text()))


def today(name, preset='digits'):
  """The preset as a run of today saves it."""
  scope = {}
  path = ROOT / 'configs' / f'{name}.py'
  exec(compile(path.read_text(), path, 'exec'), scope)
  config = scope['get_config'](preset)
  return configs.upgraded(configs._tuples(json.loads(config.to_json())))


@pytest.mark.parametrize('name', ['clip', 'dino'])
def test_a_saved_config_becomes_the_preset_of_today(name):
  """Towers, views, optimizer, ramps, captions, kNN: all that counts is equal, and the method is built from it."""
  old, new = configs.upgraded(saved(name)), today(name)
  ours, theirs = configs.flat(new), configs.flat(old)
  differ = {key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)}
  allowed = {'num_epochs', 'num_steps', 'checkpoint.every_steps', 'checkpoint.keep', 'optim.warmup', 'data.train', 'data.test'}
  assert {key for key in differ if not key.startswith('eval.')} <= allowed
  assert build(old.method) == build(new.method)
  assert legacy.upgrade(old.to_dict()) == old.to_dict()  # one of this version comes back as it is


def test_every_old_key_of_data_and_eval_has_a_place():
  node = saved('clip')
  known = configs.flat(configs.base_config())
  for part in ('data', 'eval'):
    for key in node[part]:
      path = f'{part}.{key}'
      assert path in known or legacy.where_it_went(path) or legacy.gone(path), path


def test_values_move_with_their_keys():
  node = saved('clip')
  node['data'] |= {'image_size': 17, 'text_length': 9, 'text': 'bytes', 'max_pixels': 123}
  node['eval'] |= {'knn_k': 7, 'knn_temperature': 0.3, 'class_names': 'names.txt'}
  new = legacy.upgrade(node)
  assert new['method']['image']['size'] == 17 and new['method']['image']['max_pixels'] == 123
  assert new['method']['caption']['length'] == 9 and new['method']['caption']['tokenizer'] == 'bytes'
  assert new['eval']['probes']['knn']['k'] == 7 and new['eval']['probes']['knn']['temperature'] == 0.3
  assert new['eval']['probes']['zeroshot']['class_names'] == 'names.txt'
  assert 'image_size' not in new['data'] and 'knn_k' not in new['eval'] and 'microbatches' not in new['method']


def test_methods_inside_a_wrapper_move_too():
  node = saved('dino')
  node['method'] = {'make': 'sslax.methods.averaged:Averaged', 'momentum': 0.9, 'inner': node['method']}
  new = legacy.upgrade(node)['method']
  assert 'microbatches' not in new['inner'] and new['inner']['image']['make'] == legacy.IMAGE and 'image' not in new


def test_new_names_of_an_override():
  config = ml_collections.ConfigDict({'method': {'inner': {'image': {'make': legacy.IMAGE}}}})
  assert legacy.new_keys('data.image_size', config) == ['method.inner.image.size']
  assert legacy.new_keys('data.text_length', config) == []
  assert legacy.new_keys('eval.knn_k', config) == ['eval.probes.knn.k']
  assert legacy.new_keys('seed', config) == ['seed']


@pytest.fixture(scope='module')
def clip():
  return f'--config={ROOT / "configs" / "clip.py"}:digits'


def test_flags_get_their_names_of_today(clip):
  words = [
    clip,
    '--config.data.text_length=9',
    '--config.data.image_size=16',
    '--config.eval.knn_k=7',
    '--config.seed=1',
    '--workdir=w',
  ]
  assert cli._renamed(words) == [
    clip, '--config.method.caption.length=9', '--config.method.image.size=16', '--config.eval.probes.knn.k=7', '--config.seed=1',
    '--workdir=w',
  ]  # fmt: skip
  untouched = [clip, '--config.seed=1']
  assert cli._renamed(untouched) is untouched


def test_flags_that_nothing_took_the_place_of(clip):
  with pytest.raises(UserError, match='config.optim.name is gone: .*Lars'):
    cli._renamed([clip, '--config.optim.name=lars'])
  with pytest.raises(UserError, match='nothing that it could set; it is config.method.caption.length now'):
    cli._renamed([clip.replace('clip.py', 'simclr.py'), '--config.data.text_length=9'])


def test_a_damaged_config_is_told(tmp_path):
  (tmp_path / 'config.json').write_text('{"seed": ')
  with pytest.raises(UserError, match='damaged'):
    configs.load(tmp_path)
