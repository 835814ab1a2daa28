"""What the rules of an optimizer say of each parameter. A rule by path must match something, and rules must cover every path."""

from typing import Any, NamedTuple

import jax
import optax

from sslax.errors import UserError
from sslax.models.net import VECTORS
from sslax.ops import tree
from sslax.run.optim.layers import layer_factors

PyTree = Any

EXCLUDE = VECTORS  # what 'auto' comes to for the networks of sslax, as a regex: for rules that add to it, or name the same


class Leaves(NamedTuple):
  """Trees like the parameters."""

  adapted: PyTree  # bool: weight decay, and the adaptation of LARS and LARC
  rate: PyTree  # float, or an array for stacked layers: multiplies the learning rate
  decay: PyTree  # float: multiplies the weight decay; 0 where not `adapted`
  moving: PyTree  # bool: the rate follows the schedule; False: it stays at the peak
  stacked: PyTree  # bool, whether layers are stacked in front; see `models.net.Group`


def leaves(
  params_shape: PyTree,
  groups: PyTree,
  *,
  exclude: str,
  multipliers: tuple,
  layer_decay: float,
  constant: str,
  where: str,
) -> Leaves:
  """The fields of an optimizer, worked out for each parameter; `multipliers` is its field `groups`.

  Raises:
    UserError: a rule does not fit the parameters.
  """
  of_path = dict(zip(tree.paths(groups), jax.tree.leaves(groups), strict=True))
  own = tree.map_with_path(lambda path, _: of_path[path], params_shape)
  if exclude == 'auto':
    adapted = jax.tree.map(lambda group: group.decay, own)
  else:
    adapted = matches_not(exclude, params_shape, f'{where}.exclude')
  rate, decay = _multipliers(multipliers, params_shape, f'{where}.groups')
  if layer_decay != 1:
    factors = layer_factors(params_shape, groups, layer_decay, f'{where}.layer_decay')
    rate = jax.tree.map(lambda a, b: a * b, rate, factors)
  decay = jax.tree.map(lambda factor, adapt: factor if adapt else 0.0, decay, adapted)
  moving = matches_not(constant, params_shape, f'{where}.constant')
  return Leaves(adapted, rate, decay, moving, jax.tree.map(lambda group: group.stacked > 0, own))


def matches_not(regex: str, params_shape: PyTree, where: str) -> PyTree:
  """The tree of booleans: False where `regex` ('' for none) finds something in the path."""
  if not regex:
    return jax.tree.map(lambda _: True, params_shape)
  return tree.assign(params_shape, ((regex, False), ('', True)), where)


def only(chosen: PyTree, t: PyTree) -> PyTree:
  """`t` with `optax.MaskedNode`, which has no leaves, where `chosen` is False."""
  return jax.tree.map(lambda choose, leaf: leaf if choose else optax.MaskedNode(), chosen, t)


def _multipliers(groups, params_shape, where):
  """(rate, weight decay) multipliers of each parameter."""
  for i, group in enumerate(groups):
    if len(group) != 3 or not isinstance(group[0], str) or not all(isinstance(x, (int, float)) and x >= 0 for x in group[1:]):
      raise UserError(f'{where}[{i}]={group!r} is not (regex, rate multiplier, weight decay multiplier), both zero or more')
  groups = groups or (('', 1.0, 1.0),)
  return tuple(tree.assign(params_shape, tuple((g[0], g[k]) for g in groups), where) for k in (1, 2))
