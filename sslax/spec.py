"""How configs name things: a node with `make` is built by importing that name and calling it with the rest of the node.

    config.method = spec(SimCLR, encoder=spec(ResNet, depth=50), temperature=0.1)
    method = build(config.method, 'method')

No registry and no import side effects. Every argument of the target becomes a leaf with its default, so that any of them is a
flag (`--config.method.temperature=0.2`), the saved config is complete, and a misspelt argument fails when the config is read.
"""

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import pathlib
import sys
import traceback
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from sslax.errors import UserError, suggest

USER = 'sslax_user_'  # what the modules of config files are called


def spec(target: Any, /, **arguments: Any) -> ml_collections.ConfigDict:
  """A config node that `build` turns into `target(**arguments)`.

  Args:
    target: a class or function at the top level of a module, or of a config file outside any package.
    **arguments: its keyword arguments; values may be nested nodes, tuples, numbers, strings, booleans. Those left out appear with
      the target's defaults.

  Raises:
    UserError: `target` has no such argument.
  """
  parameters, caller = _parameters(target), sys._getframe(1).f_globals
  name = _name(target, caller)
  _check(name, parameters, arguments)
  node = {'make': name}
  node.update(_leaves(parameters, arguments, caller))
  node.update({k: v for k, v in arguments.items() if k not in node})
  return ml_collections.ConfigDict(node)


def complete(node: Any, where: str = 'config') -> Any:
  """A saved node, and those inside it, with the arguments that its targets have got since: those with a default.

  Raises:
    UserError: what a node names does not exist any more.
  """
  if isinstance(node, (tuple, list)):
    return tuple(complete(item, f'{where}[{i}]') for i, item in enumerate(node))
  if not isinstance(node, dict):
    return node
  inside = {key: complete(value, f'{where}.{key}') for key, value in node.items()}
  if 'make' not in inside:
    return inside
  return {**_leaves(_parameters(find(inside['make'], where)), {}, {}), **inside}


def build(node: Any, where: str = 'config') -> Any:
  """The object that a node names; nodes inside it are built first. Values that are no nodes come back as they are.

  Raises:
    UserError: no such name, no such argument, or the target refused a value; says where.
  """
  if isinstance(node, (tuple, list)):
    return tuple(build(item, f'{where}[{i}]') for i, item in enumerate(node))
  if not isinstance(node, (dict, ml_collections.ConfigDict)):
    return node
  items = {key: build(value, f'{where}.{key}') for key, value in node.items() if key != 'make'}
  if 'make' not in node:
    return items
  target = find(node['make'], where)
  _check(f'{where} ({node["make"]})', _parameters(target), items)
  try:
    return target(**items)
  except (TypeError, ValueError) as error:
    raise UserError(f'{where}: {node["make"]} refused its arguments: {error}') from error


def find(name: str, where: str = 'config') -> Any:
  """What 'package.module:Name' or '/path/to/file.py:Name' names.

  Raises:
    UserError: the module or the name in it does not exist, or the module does not run.
  """
  module_name, _, attribute = name.rpartition(':')
  try:
    module = _module_of_file(module_name) if module_name.endswith('.py') else importlib.import_module(module_name)
  except UserError:
    raise
  except Exception as error:  # a module is anybody's code
    raise UserError(f'{where}: {name!r}: cannot import {module_name!r} ({_said(error)})') from error
  if not hasattr(module, attribute):
    raise UserError(f'{where}: {name!r}: {module_name} has no {attribute!r}.{suggest(attribute, vars(module))}')
  return getattr(module, attribute)


def _module_of_file(path: str) -> types.ModuleType:
  """A config file outside any package, imported once under a name of its own."""
  file = pathlib.Path(path).resolve()
  name = f'{USER}{file.stem}_{hashlib.sha256(file.as_posix().encode()).hexdigest()[:16]}'  # of the whole path: no two are alike
  if name not in sys.modules:
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec and module_spec.loader, 'a file .py has a loader, also where there is none'
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
      module_spec.loader.exec_module(module)
    except BaseException:
      del sys.modules[name]
      raise
  return sys.modules[name]


def _said(error: Exception) -> str:
  """What an import ended with, and where."""
  if isinstance(error, (ImportError, FileNotFoundError)):
    return str(error)
  if isinstance(error, SyntaxError):  # says its line itself
    return f'{type(error).__name__}: {error}'
  last = traceback.extract_tb(error.__traceback__)[-1]
  return f'{last.filename}:{last.lineno}: {type(error).__name__}: {error}'


def outside_files(value: Any) -> Iterator[pathlib.Path]:
  """The files outside any package that define a method, a probe, or what is in its fields: their code is a part of what it is."""
  if isinstance(value, (tuple, list)):
    for item in value:
      yield from outside_files(item)
  if not dataclasses.is_dataclass(value) or isinstance(value, type):
    return
  module = sys.modules[type(value).__module__]
  if module.__name__.startswith(USER) and module.__file__:
    yield pathlib.Path(module.__file__)
  for field in dataclasses.fields(value):
    yield from outside_files(vars(value).get(field.name))


def _name(target: Any, caller: Mapping[str, Any]) -> str:
  """What `find` takes for `target`; `caller`: the globals of the config file that names it."""
  module = target.__module__
  if module == caller.get('__name__'):  # defined in the config file itself, which is no importable module
    return f'{pathlib.Path(caller["__file__"]).resolve()}:{target.__qualname__}'
  if module.startswith(USER):
    return f'{sys.modules[module].__file__}:{target.__qualname__}'
  return f'{module}:{target.__qualname__}'


def _parameters(target: Any) -> dict[str, inspect.Parameter]:
  parameters = inspect.signature(target).parameters
  flax = {'parent', 'name'} if 'parent' in parameters else set()  # every Flax module has these two, and no config sets them
  return {key: p for key, p in parameters.items() if key not in flax}


def _check(where, parameters, arguments):
  if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
    return
  for key in arguments:
    if key not in parameters:
      raise UserError(f'{where} has no argument {key!r}.{suggest(key, parameters)}')
  missing = [k for k, p in parameters.items() if p.default is p.empty and k not in arguments and p.kind is not p.VAR_POSITIONAL]
  if missing:
    raise UserError(f'{where} needs {", ".join(missing)}')


def _leaves(
  parameters: Mapping[str, inspect.Parameter], arguments: Mapping[str, Any], caller: Mapping[str, Any]
) -> dict[str, Any]:
  """The arguments that a config can hold, given or by default."""
  leaves = {}
  for key, parameter in parameters.items():
    value = _as_config(arguments.get(key, parameter.default), caller)
    if isinstance(value, int) and not isinstance(value, bool) and _takes_float(parameter.annotation):
      value = float(value)  # so that `--config.key=0.5` is not refused as a wrong type
    if _is_config(value):
      leaves[key] = value
  return leaves


def _as_config(value: Any, caller: Mapping[str, Any]) -> Any:
  """A dataclass, a default say, as the node that builds it."""
  if isinstance(value, tuple) and type(value) is tuple:
    return tuple(_as_config(item, caller) for item in value)
  if not dataclasses.is_dataclass(value) or isinstance(value, type):
    return value
  target = type(value)
  fields = {key: vars(value)[key] for key in _parameters(target)}
  return ml_collections.ConfigDict({'make': _name(target, caller), **_leaves(_parameters(target), fields, caller)})


def _takes_float(annotation: Any) -> bool:
  """Whether it is `float`, or a union such as `float | Ramp`."""
  return annotation in (float, 'float') or float in typing.get_args(annotation)


def _is_config(value: Any) -> bool:
  if isinstance(value, tuple):
    return all(_is_config(v) for v in value)
  return (
    isinstance(value, (bool, int, float, str, ml_collections.ConfigDict, ml_collections.FieldReference))
    and value is not inspect.Parameter.empty
  )
