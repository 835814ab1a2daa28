"""Who may import whom: the floors of the house, read from the source."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / 'sslax'
ZERO = {'errors', 'io', 'spec', 'method', 'ops', 'data'}
ONE = {'inputs', 'losses', 'models', 'step', 'contract'}
FLOORS = {  # room: what it may import beside its own room
  'errors': set(),
  'io': {'errors'},
  'spec': {'errors'},
  'method': {'errors'},
  'ops': {'errors', 'method'},
  'data': {'errors', 'io', 'spec', 'method'},
  'inputs': ZERO,
  'losses': ZERO,
  'models': ZERO | {'inputs'},
  'step': ZERO,
  'contract': ZERO,
  'methods': ZERO | ONE,
  'evals': ZERO | ONE,
  'run': ZERO | ONE,
  'recipes': ZERO | ONE | {'evals', 'run'},
  'evaluation': ZERO | ONE | {'evals', 'run'},
  'planning': ZERO | ONE | {'run'},
  'comparison': ZERO | ONE | {'evals', 'run', 'evaluation'},
}
DOORS = {'train', 'evaluate', 'show', 'plan', 'compare'}
FLOORS |= {door: ZERO | ONE | {'evals', 'run', 'evaluation', 'planning', 'comparison'} for door in DOORS}
FLOORS['__main__'] = set()
WRAPPERS = {'averaged', 'online_probe'}  # a wrapper takes any method as an argument, so it imports none either
PROBES = {path.stem for path in (PACKAGE / 'evals').glob('*.py') if '(Probe):' in path.read_text(encoding='utf-8')}
ALONE = {'methods': {path.stem for path in (PACKAGE / 'methods').glob('*.py')}, 'evals': PROBES}  # none of them imports another


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
    there, file = name.split('.')[1], ''.join(name.split('.')[2:3])
    alone = path.stem in ALONE.get(here, ()) and file in ALONE[here] and file != path.stem
    if there == '__version__' or (there == here and not alone):
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
  'file, name', [
    ('run/loop.py', 'sslax.methods.simclr'), ('run/loop.py', 'sslax.evals.knn'), ('losses/contrastive.py', 'sslax.models.net'),
    ('methods/simclr.py', 'sslax.methods.averaged'), ('evals/knn.py', 'sslax.evals.linear'), ('data/host.py', 'sslax.run.loop'),
    ('data/pipeline.py', 'sslax.inputs.image'), ('train.py', 'configs.simclr'), ('comparison/plan.py', 'sslax.methods.simclr'),
    ('evaluation/store.py', 'sslax.comparison.plan'), ('evals/knn.py', 'sslax.run.config'), ('io/atomic.py', 'sslax.data.files'),
  ],
)  # fmt: skip
def test_the_rule_catches(file, name):
  assert breaks(PACKAGE / file, [name]) == [name]


def test_no_input_is_named_where_all_are_meant():
  """What loops over inputs knows none by name: the trainer, the pipeline, the contract, the evaluator."""
  names = {path.stem for path in (PACKAGE / 'inputs').glob('*.py')} - {'__init__'}
  files = [
    *(PACKAGE / 'run').rglob('*.py'),
    *(PACKAGE / 'evaluation').rglob('*.py'),
    PACKAGE / 'contract.py',
    PACKAGE / 'step.py',
  ]
  files += [PACKAGE / 'data' / 'pipeline.py', PACKAGE / 'data' / 'assemble.py', PACKAGE / 'data' / 'bad.py']
  for path in files:
    if path.name == 'legacy.py':  # knows what earlier versions called them
      continue
    assert not [name for name in imports(path) if name.startswith('sslax.inputs')], path
    strings = [n.value for n in ast.walk(ast.parse(path.read_text(encoding='utf-8'))) if isinstance(n, ast.Constant)]
    assert not names & {value for value in strings if isinstance(value, str)}, path


def test_nobody_reaches_into_a_method():
  """No getattr of a method: whatever may be asked stands in method.py."""
  for path in PACKAGE.rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ('getattr', 'hasattr'):
        asked = ast.unparse(node.args[0])
        assert not asked.endswith(('method', 'inner')), f'{path}:{node.lineno}: {ast.unparse(node)}'


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
