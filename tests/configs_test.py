"""Every preset of every config file is built at full size, in shapes only, and says what it must."""

import importlib.util
import inspect
import json
import pathlib

import jax
import ml_collections
import numpy as np
import pytest

from sslax.errors import UserError
from sslax.method import Facts
from sslax.models import net
from sslax.run import config as configs
from sslax.run.prepare import assumed_facts, prepare_shapes
from sslax.spec import build

FOLDER = pathlib.Path(__file__).resolve().parents[1] / 'configs'


def load(path):
  spec = importlib.util.spec_from_file_location(f'config_{path.stem}', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


MODULES = {path.stem: load(path) for path in sorted(FOLDER.glob('*.py'))}
RUNS = {name: module for name, module in MODULES.items() if 'method' in module.get_config()}  # compare.py names other files
PRESETS = [(name, preset) for name, module in RUNS.items() for preset in module.PRESETS]
# Presets that differ from the file's largest in sizes and in the views are traced among the slow tests.
LARGEST = [(name, 'imagenet' if 'imagenet' in module.PRESETS else list(module.PRESETS)[-1]) for name, module in RUNS.items()]


@pytest.mark.parametrize(
  'name, preset', [preset if preset in LARGEST else pytest.param(*preset, marks=pytest.mark.slow) for preset in PRESETS]
)
@pytest.mark.slow
def test_preset_builds_at_full_size(name, preset):
  config = MODULES[name].get_config(preset)
  configs.check(config, jax.device_count())
  run = prepare_shapes(config, assumed_facts(config, 50_000))  # which traces init, views, loss, after and features
  assert run.total_steps > 0 and 'encoder' in run.abstract_state.params and run.features['pooled'].ndim == 2


@pytest.mark.parametrize('name, preset', PRESETS)
def test_preset_says_command_number_and_status(name, preset):
  text = inspect.getdoc(MODULES[name].PRESETS[preset])
  assert 'Status:' in text and '--config=configs/' in text, f'{name}:{preset} needs its command and an honest status'


@pytest.mark.slow
def test_the_recipes_of_simclr():
  """Numbers that the paper and the official code state."""
  get = MODULES['simclr'].get_config
  imagenet, cifar = get('imagenet'), get('cifar10_simclr')
  run = prepare_shapes(imagenet, assumed_facts(imagenet, 1_281_167))
  assert run.total_steps == 31_200 and run.steps_per_epoch == 312
  assert float(run.learning_rate(3120)) == pytest.approx(0.3 * 4096 / 256)  # 4.8 at the end of 10 epochs of warm-up
  assert float(run.learning_rate(31_200)) == pytest.approx(0, abs=1e-6)
  encoder = sum(a.size for a in jax.tree.leaves(run.abstract_state.params['encoder']))
  assert encoder == 23_508_032
  assert (cifar.method.temperature, cifar.optim.weight_decay, cifar.method.augment.blur_prob) == (0.5, 1e-4, 0.0)


def test_lightlys_settings():
  config = MODULES['simclr'].get_config('cifar10')
  run = prepare_shapes(config, assumed_facts(config, 50_000))
  assert float(run.learning_rate(0)) == pytest.approx(0.06 * 512 / 128)
  assert float(run.learning_rate(96)) == float(run.learning_rate(0)) > float(run.learning_rate(97)), (
    'the rate changes between epochs only'
  )
  assert run.total_steps == 200 * 97


@pytest.mark.parametrize(
  'preset, rate, decay',
  [('imagenet', 6.4, 1e-4), ('imagenet_finetune', 0.064, 0.0), ('imagenet_distill', 6.4, 1e-4)],
)
def test_the_recipes_of_simclr_v2(preset, rate, decay):
  """Chen et al. 2020, section 3 and appendix: 0.1 sqrt(4096), 0.002 sqrt(1024); the classifier is left out of LARS."""
  config = MODULES['simclr_v2'].get_config(preset)
  leaf = jax.ShapeDtypeStruct((3, 3), np.float32)
  params = {'encoder': {'kernel': leaf, 'bias': leaf}, 'classifier': {'dense0': {'kernel': leaf}}}
  facts = Facts(config.batch_size, total_steps=1000, steps_per_epoch=10.0, num_records=10 * config.batch_size, num_classes=0)
  _, learning_rate = build(config.optim).build(facts, params, net.groups({}, params))
  assert max(float(learning_rate(step)) for step in range(0, 1000, 10)) == pytest.approx(rate)
  assert config.optim.weight_decay == decay and config.optim.make.endswith(':Lars')
  assert preset == 'imagenet' or 'classifier' in config.optim.exclude


@pytest.mark.parametrize(
  'change, words',
  [
    ({'batch_size': 12}, ('batch_size=12', '8 devices', '16')),
    ({'microbatches': 7}, ('microbatches=7',)),
    ({'num_steps': 5}, ('num_epochs', 'num_steps')),
    ({'data.max_bad_fraction': 1.5}, ('max_bad_fraction',)),
    ({'data.cache': 'of'}, ('data.cache', 'off')),
    ({'seed': -1}, ('seed',)),
    ({'checkpoint.every_steps': 0}, ('checkpoint.every_steps',)),
  ],
)
def test_impossible_values_are_named(change, words):
  config = MODULES['simclr'].get_config('digits')
  config.update_from_flattened_dict(change)
  with pytest.raises(UserError) as error:
    configs.check(config, 8)
  assert all(word in str(error.value) for word in words), error.value


def test_unknown_preset():
  with pytest.raises(UserError, match='digits'):
    MODULES['simclr'].get_config('digit')


def test_save_load_and_diff(tmp_path):
  config = MODULES['simclr'].get_config('digits')
  configs.save(config, tmp_path)
  configs.refuse_other(config, tmp_path)
  assert configs.flat(configs.load(tmp_path)) == configs.flat(ml_collections.ConfigDict(config))
  config.log.every_steps = 10
  configs.refuse_other(config, tmp_path)
  old = json.loads((tmp_path / 'config.json').read_text())
  del old['data']['cache'], old['graft'], old['method']['augment']['noise']  # a run from before there were such keys
  (tmp_path / 'config.json').write_text(json.dumps(old))
  configs.refuse_other(config, tmp_path)
  config.method.temperature = 0.7
  with pytest.raises(UserError, match=r'\+ method.temperature = 0.7'):
    configs.refuse_other(config, tmp_path)
