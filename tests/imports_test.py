"""Who may import whom: the floors of the house, read from the source."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / 'sslax'
BASE = {'errors', 'io', 'method', 'spec'}
FLOORS = {  # room: what it may import beside its own room
  'errors': set(),
  'io': set(),
  'method': set(),
  'spec': {'errors'},
  'ops': BASE,
  'data': BASE,
  'losses': BASE | {'ops', 'data'},
  'models': BASE | {'ops', 'data'},
  'step': BASE | {'ops', 'data'},
  'methods': BASE | {'ops', 'data', 'losses', 'models', 'step'},
  'evals': BASE | {'ops', 'data', 'losses', 'models', 'step'},
  'run': BASE | {'ops', 'data', 'losses', 'models', 'step'},
  'evaluation': BASE | {'ops', 'data', 'losses', 'models', 'step', 'evals', 'run'},
}
FLOORS['comparison'] = FLOORS['evaluation'] | {'evaluation'}
for door in ('train', 'evaluate', 'show', 'plan'):
  FLOORS[door] = FLOORS['evaluation'] | {'evaluation'}
FLOORS['compare'] = FLOORS['comparison'] | {'comparison'}
ALONE = {'methods'}  # no file of these rooms imports another of the same room ...
WRAPPERS = {'averaged', 'online_probe'}  # ... and a wrapper takes any method as an argument, so it imports none either


def room(path):
  return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imports(path):
  """'sslax.a.b' for every import of the package in a file, wherever it stands."""
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.ImportFrom) and node.module:
      yield from (
        [f'{node.module}.{a.name}' for a in node.names]
        if node.module == 'sslax'
        else [node.module + '.' + a.name for a in node.names]
      )
    elif isinstance(node, ast.Import):
      yield from (a.name for a in node.names)


def breaks(path, names):
  """The imports of a file that the floors forbid."""
  here, found = room(path), []
  for name in names:
    if name.split('.')[0] == 'configs':
      found.append(name)
    if not name.startswith('sslax.'):
      continue
    there = name.split('.')[1]
    same_file = name.split('.')[1:3] == [here, path.stem]
    if there == '__version__' or (there == here and not (here in ALONE and not same_file)):
      continue
    if there not in FLOORS[here]:
      found.append(name)
  return found


@pytest.mark.parametrize(
  'path', sorted(p for p in PACKAGE.rglob('*.py') if p.name != '__init__.py'), ids=lambda p: p.relative_to(PACKAGE).as_posix()
)
def test_imports_only_what_is_below(path):
  assert room(path) in FLOORS, f'{room(path)} is a new room: give it a floor'
  assert breaks(path, list(imports(path))) == []


@pytest.mark.parametrize(
  'file, name', [('run/loop.py', 'sslax.methods.simclr'), ('losses/contrastive.py', 'sslax.models.net'),
                 ('methods/simclr.py', 'sslax.methods.averaged'),
                 ('data/host.py', 'sslax.run.loop'), ('train.py', 'configs.simclr'),
                 ('comparison/run.py', 'sslax.methods.simclr'), ('evaluation/store.py', 'sslax.comparison'),
                 ('evals/knn.py', 'sslax.run.config')],
)  # fmt: skip
def test_the_rule_catches(file, name):
  assert breaks(PACKAGE / file, [name]) == [name]


def test_no_method_is_named_outside_its_files():
  """Nothing in run, step, evals, data or the binaries mentions a method."""
  names = {p.stem for p in (PACKAGE / 'methods').glob('*.py')} - {'__init__'} - WRAPPERS
  allowed = {'methods', 'losses', 'ops', 'models'}  # docstrings there cite papers
  for path in PACKAGE.rglob('*.py'):
    if room(path) in allowed:
      continue
    code = '\n'.join(
      ast.unparse(node) for node in ast.parse(path.read_text(encoding='utf-8')).body if not isinstance(node, ast.Expr)
    )
    tree = ast.parse(code)
    for node in ast.walk(tree):
      if isinstance(node, (ast.Name, ast.Attribute)):
        word = node.id if isinstance(node, ast.Name) else node.attr
        if word == 'clip':
          continue  # to clip is also what numpy does to values and an optimizer to gradients
        assert word.lower() not in names, f'{path}: {word}'


def test_nothing_dangerous():
  """No pickle, eval, exec or yaml.load in the package: checkpoints and data are data."""
  for path in PACKAGE.rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if isinstance(node, ast.Import):
        assert not {a.name.split('.')[0] for a in node.names} & {
          'pickle',
          'cloudpickle',
          'dill',
          'marshal',
          'torch',
          'tensorflow',
        }, path
      if isinstance(node, ast.ImportFrom) and node.module:
        assert node.module.split('.')[0] not in {'pickle', 'cloudpickle', 'dill', 'marshal', 'torch', 'tensorflow'}, path
      if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        assert node.func.id not in {'eval', 'exec'}, path
      if isinstance(node, ast.keyword) and node.arg == 'allow_pickle':
        assert ast.unparse(node.value) == 'False', path
