"""What all runs have in common, put into the config of one run."""

import ast
from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict as Config

from sslax.errors import UserError, suggest
from sslax.run import config as configs
from sslax.run import legacy
from sslax.spec import find

OPEN = ('config.shared.eval.probes',)  # a run's config may have any keys there


def nodes(shared: Config, config: Config) -> dict[str, Config]:
  """What of `shared` replaces nodes of a method by name, {'encoder': spec(ResNet)}: those that no run's config has."""
  return {key: value for key, value in shared.items() if is_node(value) and key not in config}


def is_node(value: Any) -> bool:
  """Whether `spec.build` makes something of it."""
  return isinstance(value, Config) and 'make' in value


def merge(config: Config, shared: Config, where: str = 'config.shared') -> None:
  """Sets every leaf of `shared`; a node with `make` replaces the whole node.

  Raises:
    UserError: a key that a run does not have, or a value of another type.
  """
  for key, value in shared.items():
    if key not in config and not (where in OPEN and is_node(value)):
      raise UserError(f'{where}.{key}: no such key in the config of a run.{_hint(where, key, value, config)}')
    if isinstance(value, Config) and not is_node(value):
      if not isinstance(config[key], Config):
        raise UserError(f'{where}.{key} is a node, but in the config of a run it is {config[key]!r}')
      merge(config[key], value, f'{where}.{key}')
    else:
      _set(config, key, value, f'{where}.{key}')


def replace(method: Any, name: str, node: Config) -> int:
  """Puts `node` in the place of every node of that name, however deep; returns how many there were.

  What belongs to the method stays: fields that both classes, of the old and of the new node, count as `of_method`.
  """
  if isinstance(method, (tuple, list)):
    return sum(replace(item, name, node) for item in method)
  if not isinstance(method, Config):
    return 0
  count = 0
  for key, value in method.items():
    if key == name and is_node(value):
      with method.ignore_type():
        method[key] = node.copy_and_resolve_references()
      for own in {*of_method(value)} & {*of_method(node)}:
        method[key][own] = value[own]
      count += 1
    else:
      count += replace(value, name, node)
  return count


def of_method(node: Config) -> tuple[str, ...]:
  """Fields of a node that its class says belong to the method that uses it, not to what is compared: `of_method`, a ClassVar."""
  return getattr(find(node['make']), 'of_method', ())


def override(config: Config, text: str, fixed: Collection[str], replaced: Collection[str]) -> None:
  """'method.temperature=0.5': one leaf of one method's config, by its name of today or of an earlier version.

  Args:
    fixed: keys that are the same for all methods.
    replaced: names of nodes that are.

  Raises:
    UserError: no such key, no such value, or the same for all.
  """
  name, equals, value = text.partition('=')
  known = configs.flat(config)
  keys = legacy.new_keys(name, config) if equals else []
  if not keys or not all(key in known for key in keys):
    raise UserError(f'{text!r}: there is no such key.{suggest(name, known)}')
  for key in keys:
    if key in fixed or any(f'.{node}.' in key for node in replaced):
      raise UserError(f'{text!r}: that is the same for all methods: set config.shared, or leave it')
    parent, _, leaf = key.rpartition('.')
    node = configs.get(config, parent) if parent else config
    _set(node, leaf, value if isinstance(node[leaf], str) else _literal(text, value, node[leaf]), key)


def _hint(where, key, value, config):
  moved = legacy.where_it_went(f'{where}.{key}'.removeprefix('config.shared.')).removeprefix('config.')
  if moved.startswith('method.'):
    _, node, field = moved.split('.')
    return f' It is {field!r} of the nodes {node!r} of the methods now: config.shared.{node}=spec(...) replaces all of them.'
  if moved:
    return f' It is config.shared.{moved} now.'
  near = suggest(key, config)
  if isinstance(value, Config) and where == 'config.shared' and 'Did you mean' not in near:
    return f' To replace the nodes {key!r} of all methods, make it with spec(...).'
  return near


def _literal(text, value, old):
  try:
    return ast.literal_eval(value)
  except (ValueError, SyntaxError):
    raise UserError(f'{text!r}: {value!r} is no value for {old!r}') from None


def _set(config, key, value, where):
  try:
    config[key] = value
  except TypeError as error:
    raise UserError(f'{where}={value!r}: {error}') from None
