"""Trees of arrays by path ('encoder/blocks_0/fc1/kernel'): rules, moving averages, norms."""

import difflib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sslax.errors import UserError

PyTree = Any


def path_name(path: tuple) -> str:
  """'a/b/0' for a JAX key path through dicts, sequences and attributes."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def paths(tree: PyTree) -> list[str]:
  """The path of every leaf, in the order of `jax.tree.leaves`."""
  return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def same_structure(a: PyTree, b: PyTree) -> bool:
  """Whether two trees have the same containers and keys, whatever their leaves are."""
  first: Any = jax.tree.structure(a)  # jax does not say that its tree definitions can be compared
  return first == jax.tree.structure(b)


def map_with_path(fn: Callable[[str, Any], Any], tree: PyTree) -> PyTree:
  """The tree of `fn(path, leaf)`."""
  return jax.tree_util.tree_map_with_path(lambda path, leaf: fn(path_name(path), leaf), tree)


def ema(target: PyTree, online: PyTree, momentum: float | jax.Array) -> PyTree:
  """m target + (1 - m) online, leaf by leaf, computed in float32 and returned in the target's dtypes.

  Keep the target itself in float32: in bfloat16 a step of (1 - m) = 0.004 is lost to rounding. Integer leaves follow `online`.
  """

  def move(t, o):
    if not jnp.issubdtype(t.dtype, jnp.floating):
      return o.astype(t.dtype)
    return (momentum * t.astype(jnp.float32) + (1 - momentum) * o.astype(jnp.float32)).astype(t.dtype)

  return jax.tree.map(move, target, online)


def scale_gradient(tree: PyTree, factor: float | jax.Array) -> PyTree:
  """The tree as it is; gradients into it are multiplied by `factor`."""
  return jax.tree.map(lambda x: factor * x + (1 - factor) * jax.lax.stop_gradient(x), tree)


def l2_norm(tree: PyTree) -> jax.Array:
  """[] float32: the Euclidean norm of all leaves as one vector, accumulated in float32; 0 for an empty tree."""
  return jnp.sqrt(sum((jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)), jnp.float32(0)))


def assign(tree: PyTree, rules: tuple[tuple[str, Any], ...], where: str = 'rules') -> PyTree:
  """The tree of values that the first matching rule gives to each leaf.

  Args:
    tree: parameters, or their shapes.
    rules: (regex, value) in order of precedence; a regex matches when `re.search` finds it in the leaf's path. ('', value) at the
      end is for all the rest.
    where: what the user wrote the rules under, for messages.

  Raises:
    UserError: a regex is malformed or matches no path, or a path matches no regex.
  """
  patterns = [(_compile(regex, where), value) for regex, value in rules]
  names = paths(tree)
  for pattern, _ in patterns:
    if not any(pattern.search(name) for name in names):
      raise UserError(f'{where}: {pattern.pattern!r} matches no parameter.{_nearest(pattern.pattern, names)}')
  values = [next(((True, value) for pattern, value in patterns if pattern.search(name)), (False, None)) for name in names]
  uncovered = [name for name, (found, _) in zip(names, values, strict=True) if not found]
  if uncovered:
    more = f' and {len(uncovered) - 5} more' if len(uncovered) > 5 else ''
    raise UserError(f"{where}: no rule covers {', '.join(uncovered[:5])}{more}. End with a rule for '' (everything else).")
  return jax.tree.unflatten(jax.tree.structure(tree), [value for _, value in values])


def _compile(regex, where):
  try:
    return re.compile(regex)
  except re.error as error:
    raise UserError(f'{where}: {regex!r} is no regular expression: {error}') from error


def _nearest(regex, names):
  near = difflib.get_close_matches(regex, names, n=3, cutoff=0.0)
  return f' Nearest: {", ".join(near)}.' if near else ' There are no parameters.'
