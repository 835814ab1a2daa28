"""Every public signature of the package says what it takes and what it gives, read from the source: nothing is imported."""

import ast
import pathlib
import textwrap
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def test_every_public_signature_is_annotated():
  files = sorted((ROOT / 'sslax').rglob('*.py'))
  assert len(files) > 200
  found = [f'{path.relative_to(ROOT)}:{line}' for path in files for line in missing(path.read_text())]
  assert not found, f'{len(found)} names of public signatures have no annotation:\n' + '\n'.join(found)


@pytest.mark.parametrize(
  ('source', 'expected'),
  [
    ('def f(x: int, y) -> int: ...', ['1: f: y']),
    ('def f(x: int): ...', ['1: f: return']),
    ('async def f(*args, **options) -> None: ...', ['1: f: *args', '1: f: **options']),
    ('def f(a, /, b: int, *, c) -> None: ...', ['1: f: a', '1: f: c']),
    ('try:\n  import x\nexcept ImportError:\n  def f(x) -> None: ...', ['4: f: x']),
    ('class A:\n  @property\n  def p(self): ...', ['3: A.p: return']),
    ('class A:\n  @staticmethod\n  def s(x) -> int: ...', ['3: A.s: x']),
    ('class A:\n  @classmethod\n  def c(cls, x) -> int: ...', ['3: A.c: x']),
    ('class A:\n  def __init__(self, x): ...', ['2: A.__init__: x']),
    ('class A:\n  def __call__(self, x: int): ...', ['2: A.__call__: return']),
    ('class A:\n  class B:\n    def m(self, x) -> int: ...', ['3: A.B.m: x']),
    ('def _f(x): ...', []),
    ('def f(x: int) -> int:\n  def inner(y): ...', []),
    ('class A:\n  def __init__(self, x: int): ...\n  def _m(self, x): ...', []),
    ('class _A:\n  def m(self, x): ...', []),
  ],
)
def test_it_finds_a_planted_fault(source, expected):
  assert list(missing(textwrap.dedent(source))) == expected


def missing(source: str) -> Iterator[str]:
  """'LINE: Class.method: name' of each argument, and 'return', without an annotation, of functions and methods that are public.

  Public is what has no leading underscore, nor a class around it that has one, and each method with two on both sides. Functions
  in functions are nobody's business but theirs; `self` and `cls` are known; __init__ returns None without saying so.
  """
  yield from _missing(ast.parse(source), '')


def _missing(scope: ast.AST, inside: str) -> Iterator[str]:
  for node in ast.iter_child_nodes(scope):
    if isinstance(node, ast.ClassDef):
      if not node.name.startswith('_'):
        yield from _missing(node, f'{inside}{node.name}.')
    elif isinstance(node, FUNCTIONS):
      if not node.name.startswith('_') or (node.name.startswith('__') and node.name.endswith('__')):
        for name in _bare(node, method=isinstance(scope, ast.ClassDef)):
          yield f'{node.lineno}: {inside}{node.name}: {name}'
    else:  # an `if` or a `try` around definitions
      yield from _missing(node, inside)


def _bare(function: ast.FunctionDef | ast.AsyncFunctionDef, method: bool) -> Iterator[str]:
  arguments = function.args
  positional = [*arguments.posonlyargs, *arguments.args]
  static = any(isinstance(decorator, ast.Name) and decorator.id == 'staticmethod' for decorator in function.decorator_list)
  yield from (a.arg for a in positional[int(method and not static) :] if a.annotation is None)
  yield from (f'*{a.arg}' for a in [arguments.vararg] if a and a.annotation is None)
  yield from (a.arg for a in arguments.kwonlyargs if a.annotation is None)
  yield from (f'**{a.arg}' for a in [arguments.kwarg] if a and a.annotation is None)
  if function.returns is None and function.name != '__init__':
    yield 'return'
