"""Files of weights, and a tree of parameters filled from their names."""

import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from sslax.errors import UserError
from sslax.io import extras
from sslax.models.positions import sincos

PyTree = Any
Take = Callable[[str], np.ndarray]  # the array of this name
Rule = Callable[[tuple[str, ...], Take], np.ndarray]  # path of a parameter -> what it is

_CONVERT = """where PyTorch is at hand, convert it with
  python -c "import sys, torch, safetensors.torch as s; d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); \\
  d = d.get('state_dict', d); s.save_file({k: v.clone() for k, v in d.items() if torch.is_tensor(v)}, sys.argv[2])" \
"""


def load(source: str | pathlib.Path | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays of a state_dict, by name.

  Args:
    source: a .safetensors file, or a dict of arrays, which comes back as numpy arrays.

  Raises:
    UserError: a pickled file (.pth, .pt, .bin, ...; reading one may run code), no such file, or a damaged one.
  """
  if isinstance(source, Mapping):
    return {name: np.asarray(x) for name, x in source.items()}
  path = pathlib.Path(source)
  if path.suffix != '.safetensors':
    raise UserError(f'{path}: only .safetensors are read, not pickled files; {_CONVERT}{path} {path.with_suffix(".safetensors")}')
  safetensors = extras.need('safetensors', 'eval')
  try:
    return extras.need('safetensors.numpy', 'eval').load_file(path)
  except (OSError, safetensors.SafetensorError) as error:
    raise UserError(f'{path}: cannot be read as safetensors ({error}); check the path, or fetch the file again') from error


def kernel(path: tuple[str, ...], x: np.ndarray) -> np.ndarray:
  """PyTorch's [out, in, ...] -> Flax's [..., in, out]."""
  return np.moveaxis(x, (0, 1), (-1, -2)) if path[-1] == 'kernel' else x


def fill(
  template: PyTree,
  state: Mapping[str, np.ndarray],
  rule: Rule,
  prefix: str | tuple[str, ...],
  ignore: tuple[str, ...],
  tables: tuple[str, ...] = (),
) -> PyTree:
  """`template` with rule(path, take) at each leaf, where take(name) is an entry of `state`; every entry must be taken.

  `tables` names sin-cos positions [1, 1 + T, D] with a row of zeros in front: if they are there they must be what we compute.
  """
  names = {}
  for name in state:
    short = name
    for p in (prefix,) if isinstance(prefix, str) else prefix:
      short = short.removeprefix(p)
    if not name.startswith(tuple(ignore)) and not short.startswith(tuple(ignore)):
      names[short] = name
  taken, problems, leaves = set(), [], {}

  def take(name):
    taken.add(name)
    return state[names[name]]

  for path, leaf in traverse_util.flatten_dict(template).items():
    inner = path[1:] if path[0] in ('params', 'stats') else path
    try:
      x = rule(inner, take)
    except KeyError as error:
      problems.append(f'missing: {error.args[0]} for {"/".join(path)} {leaf.shape}')
      continue
    except ValueError as error:  # positions of another grid
      problems.append(f'wrong shape: {"/".join(path)} {leaf.shape}: {error}')
      continue
    if x.shape != leaf.shape:
      problems.append(f'wrong shape: {"/".join(path)} is {leaf.shape}, the weights are {x.shape}')
    leaves[path] = jnp.asarray(x, leaf.dtype)
  for name in set(tables) & set(names):
    x = take(name)
    side = math.isqrt(x.shape[1] - 1)
    ours = np.pad(sincos(side, side, x.shape[2], 'sincos_mae').reshape(-1, x.shape[2]), ((1, 0), (0, 0)))
    if x.shape[1:] != ours.shape or np.abs(x[0] - ours).max() > 2e-3:  # half precision
      problems.append(f'other positions: {name} {x.shape} is not the sin-cos table of MAE')
  problems += [f'not used: {names[name]} {state[names[name]].shape}' for name in names if name not in taken]
  if problems:
    raise UserError('these weights are not of this network (see `prefix` and `ignore`):\n  ' + '\n  '.join(problems))
  return traverse_util.unflatten_dict(leaves)
