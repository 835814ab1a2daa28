"""Probes by name: --probes=knn is the class in sslax/evals/knn.py, or what config.eval.probes calls knn, or FILE.py:CLASS."""

import ast
import functools
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

from sslax import evals
from sslax.errors import UserError, suggest
from sslax.evals.probe import Probe
from sslax.spec import build, find


@functools.cache
def available() -> dict[str, type[Probe]]:
  """The probes of the package by the names of their files; those that give numbers and those that only draw."""
  found = {}
  for info in pkgutil.iter_modules(evals.__path__):
    module = importlib.import_module(f'{evals.__name__}.{info.name}')
    own = [value for value in vars(module).values() if _is_probe(value) and value.__module__ == module.__name__]
    if own:
      found[info.name] = own[0]
  return found


def _is_probe(value):
  return isinstance(value, type) and issubclass(value, Probe) and value is not Probe


def pick(names: Sequence[str], configured: Mapping[str, Any], settings: Sequence[str] = ()) -> dict[str, Probe]:
  """The probes of these names, with the settings of the config and then those given as 'knn.k=20'.

  Args:
    names: of files in sslax/evals, keys of `configured`, 'FILE.py:CLASS' or 'package.module:CLASS'.
    configured: `config.eval.probes`, {name: node}.
    settings: 'NAME.FIELD=VALUE'.

  Raises:
    UserError: no such probe, no such field, or a value that the probe refuses.
  """
  nodes = {name: _node(name, configured) for name in dict.fromkeys(names)}
  for text in settings:
    name, field, value = _setting(text)
    if name not in nodes:
      raise UserError(f'--set={text}: --probes has no {name!r}.{suggest(name, nodes)}')
    nodes[name][field] = value
  return {name: build(node, f'--probes={name}') for name, node in nodes.items()}


def drawn() -> dict[str, Probe]:
  """The probes whose figures are in every report, in their order."""
  always = {name: make for name, make in available().items() if make.in_report}
  return {name: make() for name, make in sorted(always.items(), key=lambda item: item[1].in_report)}


def _node(name: str, configured: Mapping[str, Any]) -> dict[str, Any]:
  if name in configured:
    return dict(configured[name])
  if ':' in name:
    if not _is_probe(find(name, '--probes')):
      raise UserError(f'--probes={name} is no sslax.evals.probe.Probe')
    return {'make': name}
  if name not in available():
    raise UserError(f'--probes={name}: no such probe.{suggest(name, [*available(), *configured])}')
  make = available()[name]
  return {'make': f'{make.__module__}:{make.__qualname__}'}


def _setting(text):
  key, equals, value = text.partition('=')
  name, dot, field = key.rpartition('.')
  if not equals or not dot:
    raise UserError(f'--set={text} is not of the form NAME.FIELD=VALUE, such as knn.k=20')
  try:
    return name, field, ast.literal_eval(value)
  except (ValueError, SyntaxError):
    return name, field, value  # a string without quotes
