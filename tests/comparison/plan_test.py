"""Which runs there are: lists, files, presets, overrides; and mistakes in them, all at once and before anything runs."""

import shutil

import pytest
from comparison.making import FILE, tiny_comparison
from run.trainer import ROOT, TINY

from sslax.comparison import Comparison, fair
from sslax.errors import UserError
from sslax.evaluation import picks
from sslax.run import config as configs
from sslax.run.prepare import build_method
from sslax.spec import find


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'methods': ('cold',)}, ("'cold'", 'name=FILE.py:PRESET')),
    ({'methods': (f'a={TINY}', f'a={TINY}')}, ("'a' is taken",)),
    ({'methods': (f'floors={TINY}',)}, ("'floors' is taken",)),
    ({'methods': ()}, ('config.methods is empty',)),
    ({'seeds': ('0',)}, ('config.seeds',)),
    ({'probes': ('knm',)}, ('config.probes', 'knm', 'knn')),
  ],
)
def test_lists_that_cannot_be_read(make, changes, words):
  with pytest.raises(UserError) as error:
    make(**changes)
  assert all(word in str(error.value) for word in words), error.value


def test_a_file_in_a_folder_with_a_space(make, tmp_path):
  path = tmp_path / 'my .pyfiles' / 'tiny.py'
  path.parent.mkdir()
  path.write_text(TINY.read_text())
  config = make(methods=(f'a={path} method.temperature=0.5', f'b={path}:photos')).plan.resolve('a', 0)
  assert config.method.temperature == 0.5 and config.method.image.crop_on == 'device'


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'methods': ('a=nowhere.py:digits',)}, ('there is no file nowhere.py',)),
    ({'methods': (f'a={TINY} method.temprature=1',)}, ('method.temprature', 'method.temperature')),
    ({'methods': (f'a={TINY} batch_size=64',)}, ('batch_size=64', 'same for all')),
    ({'methods': (f'a={TINY} method.encoder.depth=50',)}, ('method.encoder.depth', 'same for all')),
    ({'methods': (f'a={TINY} method.temperature=-1.0',)}, ('a (', 'temperature must be positive')),
    ({'methods': (f'a={TINY} method.temperature=warm',)}, ("'warm' is no value for 0.1",)),
    ({'shared__data__train': 'digit:@train'}, ('config.shared.data.train', 'digits')),
    ({'shared__batch_size': 12}, ('batch_size=12', '8 devices')),
    ({'shared__data__test': ''}, ('config.shared.data.test', 'labelled')),
    ({'probes': ('classifier',)}, (f'cold ({TINY})', "needs 'logits'", 'SimCLR gives pooled')),
  ],
)
def test_runs_that_cannot_work(make, changes, words):
  with pytest.raises(UserError) as error:
    make(**changes).check()
  assert all(word in str(error.value) for word in words), error.value


def test_all_mistakes_are_told_at_once(make):
  with pytest.raises(UserError) as error:
    make(methods=('a=nowhere.py', f'b={TINY} method.temperature=-1.0', f'c={TINY} no=1'), shared__data__test='digit:').check()
  assert all(word in str(error.value) for word in ('a (nowhere.py)', 'temperature must be positive', "'no=1'")), error.value


def test_files_beside_the_config_come_before_those_of_the_current_folder(tmp_path, monkeypatch):
  (tmp_path / 'here').mkdir()
  (tmp_path / 'here' / 'theirs.py').write_text('raise RuntimeError("not this one")')
  file = tmp_path / 'beside' / 'tiny_compare.py'
  file.parent.mkdir()
  shutil.copy(FILE, file)
  (file.parent / 'theirs.py').write_text(TINY.read_text())
  monkeypatch.chdir(tmp_path / 'here')
  plan = tiny_comparison(tmp_path / 'runs', file=file, methods=('a=theirs.py:photos',)).plan
  assert plan.resolve('a', 0).method.image.crop_on == 'host'
  with pytest.raises(UserError, match='only.py:1: RuntimeError: broken'):
    (tmp_path / 'here' / 'only.py').write_text('raise RuntimeError("broken")')
    tiny_comparison(tmp_path / 'runs', file=file, methods=('a=only.py',)).check()


def test_a_comparison_goes_on_in_its_folder(make):
  first = make()
  configs.save(first.plan.config, first.plan.workdir)
  again = make(methods=(f'new={TINY}',), seeds=(3,), shared__checkpoint__every_steps=7).plan
  assert again.todo == [('new', 3)] and again.config.seeds == (0, 3) and list(again.methods) == ['new', 'cold', 'warm']
  assert [text.split('=')[0] for text in again.config.methods] == ['new', 'cold', 'warm']
  for changes, words in (
    ({'shared__num_steps': 50}, ('- shared.num_steps = 40', '+ shared.num_steps = 50')),
    ({'shared__encoder__base': 8}, ('- shared.encoder.base = 4', '+ shared.encoder.base = 8')),
  ):
    with pytest.raises(UserError) as error:
      make(**changes)
    assert all(word in str(error.value) for word in words), error.value


def test_the_workdir_of_a_training_is_refused(make):
  configs.save(make().plan.resolve('cold', 0), make().plan.workdir)
  with pytest.raises(UserError, match='holds a training run'):
    make()


def test_presets_of_the_shipped_comparison(tmp_path):
  """Each method of each preset resolves, takes the shared encoder and can be built."""
  path = ROOT / 'configs' / 'compare.py'
  for preset in find(f'{path}:PRESETS'):
    config = find(f'{path}:get_config')(preset)
    plan = Comparison(config, path, tmp_path).plan
    resolved = {name: plan.resolve(name, 0) for name in plan.methods}
    seen = {name: fair.seen_by_probes(build_method(one)) for name, one in resolved.items()}
    probes = {name: picks.pick(config.probes, one.eval.probes) for name, one in resolved.items()}
    assert fair.unfair(resolved, seen, probes) == []
    for name, one in resolved.items():
      assert (ROOT / plan.methods[name].split(':')[0]).exists(), name
      configs.check(one, 8)
