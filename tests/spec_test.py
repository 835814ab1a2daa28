import dataclasses
import sys
import textwrap

import ml_collections
import pytest

from sslax.errors import UserError, suggest
from sslax.models.mlp import MLP
from sslax.models.resnet import ResNet
from sslax.ops.schedules import Ramp
from sslax.ops.views import RandomViews
from sslax.run.optim import AdamW, Constant, Cosine
from sslax.spec import build, complete, find, outside_files, spec


@dataclasses.dataclass(frozen=True)
class Inner:
  size: float = 1.0


@dataclasses.dataclass(frozen=True)
class Named:
  name: str = 'ours'
  rate: float | Ramp = 0.5
  inner: Inner = Inner(2)


def test_round_trip_through_json():
  """What a run saves builds the same object again."""
  node = spec(ResNet, depth=18, stages=(1, 2), dtype='bfloat16')
  import json

  again = ml_collections.ConfigDict(json.loads(node.to_json()))
  again.stages = tuple(again.stages)
  assert build(node) == build(again) == ResNet(depth=18, stages=(1, 2), dtype='bfloat16')


def test_every_argument_becomes_a_leaf_with_its_default():
  node = spec(RandomViews, size=32)
  assert node.size == 32 and node.count == 2 and node.gray_prob == 0.2
  assert 'name' not in spec(MLP, features=(4,)) and 'parent' not in spec(MLP, features=(4,)), "Flax's own fields are no arguments"
  assert spec(Named).name == 'ours', 'a `name` that is no Flax field is an argument'


def test_nodes_inside_tuples_and_dicts_are_built():
  node = ml_collections.ConfigDict({'a': (spec(RandomViews, size=8), 3), 'b': {'c': spec(MLP, features=(4,))}})
  built = build(node)
  assert built['a'] == (RandomViews(size=8), 3) and built['b']['c'] == MLP(features=(4,))


def test_integers_for_float_arguments_stay_flags():
  assert isinstance(spec(RandomViews, flip=1).flip, float)
  assert isinstance(spec(AdamW, weight_decay=1).weight_decay, float), 'also where a ramp would do'
  assert (
    isinstance(spec(RandomViews, count=1).count, int)
    and spec(AdamW, weight_decay=spec(Ramp, start=0, end=1)).weight_decay.end == 1
  )


def test_a_nested_default_is_a_node():
  """Its fields are flags as the others are, and a class of this file is named by the file there, too."""
  node = spec(Named)
  assert node.inner.make == f'{__file__}:Inner' and isinstance(node.inner.size, float)
  node.inner.size = 3.0
  assert build(node.inner).size == 3.0
  assert spec(AdamW).schedule == spec(Cosine) and spec(AdamW, schedule=Constant()).schedule == spec(Constant)


@pytest.mark.parametrize(
  'make, words',
  [
    (lambda: spec(ResNet, dept=18), ('dept', 'depth')),
    (lambda: spec(MLP), ('features',)),
    (lambda: build({'make': 'sslax.models.resnet:ResNt'}, 'config.x'), ('config.x', 'ResNt', 'ResNet')),
    (lambda: build({'make': 'sslax.models.nowhere:X'}), ('sslax.models.nowhere',)),
    (lambda: build({'make': 'sslax.models.resnet:ResNet', 'dpeth': 5}, 'config.e'), ('config.e', 'dpeth', 'depth')),
    (lambda: build({'e': {'make': 'sslax.models.resnet:ResNet', 'depth': 19}}, 'config'), ('config.e', '19')),
    (lambda: find('/nowhere/x.py:Y'), ('/nowhere/x.py',)),
  ],
)
def test_mistakes_name_the_place_and_the_remedy(make, words):
  with pytest.raises(UserError) as error:
    make()
  assert all(word in str(error.value) for word in words), error.value


def test_a_class_of_a_file_outside_any_package(tmp_path):
  """spec() names it by the file's path, and build() finds it again in a process that never read the config."""
  path = tmp_path / 'my config.py'
  path.write_text(
    textwrap.dedent("""
      import dataclasses
      from sslax.spec import spec

      @dataclasses.dataclass
      class Mine:
        x: int = 1

      def get_config():
        return spec(Mine, x=2)
    """)
  )
  import importlib.util

  module_spec = importlib.util.spec_from_file_location('whatever', path)
  module = importlib.util.module_from_spec(module_spec)
  module_spec.loader.exec_module(module)
  node = module.get_config()
  assert node.make == f'{path}:Mine'
  assert 'whatever' not in sys.modules
  assert build(node).x == 2


def test_files_whose_paths_are_alike_are_two(tmp_path):
  """a_b.py and a/b.py, and two of one name."""
  (tmp_path / 'a').mkdir()
  for i, path in enumerate(('a_b.py', 'a/b.py', 'b.py')):
    (tmp_path / path).write_text(f'X = {i}\n')
  assert [find(f'{tmp_path}/{path}:X') for path in ('a_b.py', 'a/b.py', 'b.py')] == [0, 1, 2]


@pytest.mark.parametrize(
  'source, words',
  [
    ('def f(:\n', ('SyntaxError', 'theirs.py, line 1')),
    ('x = 1\nx = nothing\n', ('theirs.py:2', "NameError: name 'nothing'")),
    ('import nothing_at_all\n', ('nothing_at_all',)),
    ('raise KeyError(3)\n', ('theirs.py:1', 'KeyError')),
  ],
)
def test_a_file_that_does_not_run_is_said_with_its_line(tmp_path, source, words):
  (tmp_path / 'theirs.py').write_text(source)
  with pytest.raises(UserError) as error:
    find(f'{tmp_path}/theirs.py:X', 'config.x')
  assert all(word in str(error.value) for word in ('config.x', *words)), error.value


def test_the_files_of_what_is_not_ours(tmp_path):
  """Of an object and of all that is in its fields: a change in one of them is a change of the object."""
  (tmp_path / 'one.py').write_text('import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass One:\n  inner: object = 0\n')
  (tmp_path / 'two.py').write_text((tmp_path / 'one.py').read_text().replace('One', 'Two'))
  one, two = (find(f'{tmp_path}/{name.lower()}.py:{name}') for name in ('One', 'Two'))
  assert list(outside_files(one((two(), ResNet(18))))) == [tmp_path / 'one.py', tmp_path / 'two.py']
  assert list(outside_files(ResNet(18))) == []


def test_suggest():
  assert 'depth' in suggest('dept', ['depth', 'width'])
  assert 'Known: a, b' in suggest('zzz', ['b', 'a'])
  assert suggest('x', []) == ''


def test_a_nested_default_of_a_file_outside_is_named_by_the_file(tmp_path):
  """Also where a saved node is completed with it, in another process."""
  file = tmp_path / 'theirs.py'
  file.write_text('import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass Inner:\n  size: float = 2.0\n'
                  '@dataclasses.dataclass(frozen=True)\nclass Outer:\n  inner: Inner = Inner()\n')  # fmt: skip
  assert complete({'make': f'{file}:Outer'})['inner'].make == f'{file}:Inner'
