"""Parts of a fresh state that come from another run or from PyTorch weights: fine-tuning, frozen teachers, warm starts.

An entry of `config.graft` is one of

  RUN                     the encoder of that run, its parameters and running statistics; RUN@STEP for a step, else the latest
  TO=RUN[@STEP][:FROM]    any part: 'memory/teacher=runs/simclr:params'; FROM defaults to TO
  encoder=FILE.safetensors[:PREFIX]    names of torchvision or timm, behind PREFIX: 'encoder=moco.safetensors:module.encoder_q.'

Averages and queues that a method makes from the encoder are not the encoder: graft 'memory/target' too where it should not start
at random.
"""

import contextlib
import dataclasses
import difflib
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from sslax.errors import UserError, suggest
from sslax.method import Method, encoder_stats
from sslax.models import import_torch
from sslax.ops import tree
from sslax.run.checkpoint import Reader, Vanished

PyTree = Any
Shapes = Mapping[str, jax.ShapeDtypeStruct]  # path -> leaf

ENCODER = 'params/encoder'
WEIGHTS = ('.safetensors', '.pth', '.pt', '.bin', '.ckpt', '.tar', '.th')  # the importer refuses all but the first, and says why
_SOURCE = re.compile(r'(?P<place>.+?)(@(?P<step>\d+))?(:(?P<part>[^:/][^:]*))?')  # a colon before '/' is that of gs://


@dataclasses.dataclass(frozen=True)
class Graft:
  """One entry, resolved and checked."""

  source: str  # where from, for the reader of the summary
  targets: tuple[str, ...]  # sub-trees of the state, for the same
  leaves: tuple[str, ...]  # paths of all leaves that it replaces
  read: Callable[[Mapping[str, jax.ShapeDtypeStruct]], dict[str, jax.Array]]  # {path: where to live} -> {path: values}

  def __str__(self) -> str:
    return f'{" and ".join(self.targets)} from {self.source} ({len(self.leaves)} leaves)'


def plan(entries: str | tuple[str, ...], method: Method, state: PyTree, where: str = 'config.graft') -> tuple[Graft, ...]:
  """Reads and checks all entries, loads no arrays of runs.

  Args:
    entries: as in the module's docstring; a string is split at white space.
    method: says which parts must come from elsewhere.
    state: the `TrainState`, or its shapes.
    where: the key of the entries, for messages.

  Raises:
    UserError: an entry is no such thing; its source is not there, or lacks a leaf of the same shape and type; two entries give
      the same leaf; a part that the method needs comes from nowhere.
  """
  shapes = {path: leaf for path, leaf in _leaves(state).items() if path.startswith(('params/', 'memory/'))}
  grafts = tuple(_plan(entry, state, shapes, where) for entry in (entries.split() if isinstance(entries, str) else entries))
  given: dict[str, Graft] = {}
  for graft in grafts:
    for path in graft.leaves:
      if path in given:
        raise UserError(f'{where}: {path} comes from both {given[path].source} and {graft.source}; leave one out')
      given[path] = graft
  missing = [part for part in method.grafts() if any(_inside(path, part) and path not in given for path in shapes)]
  if missing:
    # A run alone stands for its encoder with the statistics.
    whole = all(part == ENCODER or encoder_stats(part) for part in missing)
    example = (
      "'RUN'"
      if whole
      else ', '.join(f"'{part}=RUN:{'memory/stats' if part.endswith('stats') else 'params'}'" for part in missing)
    )
    raise UserError(
      f'{type(method).__name__} needs {" and ".join(missing)} from another run, which {where} must name, for example '
      f'--{where}="({example},)" where RUN is the workdir of that run'
    )
  return grafts


def apply(grafts: tuple[Graft, ...], state: PyTree) -> PyTree:
  """`state` with the leaves that the grafts name, bit for bit, each living where the state's leaf did.

  Raises:
    UserError: a source has gone since it was planned, or is damaged.
  """
  leaves = _leaves(state)
  values: dict[str, jax.Array] = {}
  for graft in grafts:
    values |= graft.read(
      {p: jax.ShapeDtypeStruct(leaves[p].shape, leaves[p].dtype, sharding=leaves[p].sharding) for p in graft.leaves}
    )
  return tree.map_with_path(lambda path, leaf: values.get(path, leaf), state)


def _plan(entry: str, state: PyTree, shapes: Shapes, where: str) -> Graft:
  to, equals, source = entry.partition('=')
  whole = _SOURCE.fullmatch(entry)
  if not equals or (whole and os.path.exists(os.path.expanduser(whole['place']))):  # a workdir may be named lr=0.1
    to, source = 'encoder', entry
  found = _SOURCE.fullmatch(source)
  if not found or not to:
    raise UserError(f"{where}: {entry!r} is none of RUN, RUN@STEP, 'TO=RUN:FROM', 'encoder=FILE.safetensors:PREFIX'")
  place, part = os.path.expanduser(found['place']), found['part'] or ''
  about = f'{where}: {entry!r}'
  if to != 'encoder':
    to = to.strip('/')
    if not _exists(state, to):
      raise UserError(f'{about}: the state has nothing at {to}.{_near(to, shapes)}')
  if pathlib.Path(place).suffix in WEIGHTS and not os.path.isdir(place):
    if to != 'encoder':
      raise UserError(f'{about}: weights of PyTorch can only become the encoder: write encoder={source}')
    return _from_weights(place, part, shapes, about)
  if to == 'encoder' and part:
    raise UserError(f'{about}: the encoder comes with its statistics; for another part write {ENCODER}={source}')
  return _from_run(place, found['step'], to, part.strip('/'), shapes, about)


def _from_run(place: str, step: str | None, to: str, part: str, shapes: Shapes, about: str) -> Graft:
  reader = Reader(place)
  chosen = _agreed(_step(reader, place, step, about))
  with _still_there(about):
    saved = reader.leaves(chosen)
  source = f'{place}, step {chosen}'
  pairs = {to: part or to}
  if to == 'encoder':
    pairs = {ENCODER: ENCODER, **dict(zip(_stats(shapes), _stats(saved) or ['memory/stats/encoder'], strict=False))}
  of = {path: b + path[len(a) :] for a, b in pairs.items() for path in shapes if _inside(path, a)}
  b = next(iter(pairs.values()))
  if of and not any(_inside(path, b) for path in saved):
    raise UserError(f'{about}: {source}, has nothing at {b}.{_near(b, saved)}')
  wrong = []
  for path, theirs in of.items():
    want, have = _kind(shapes[path].shape, shapes[path].dtype), 'none'
    if theirs in saved:
      have = _kind(saved[theirs].shape, saved[theirs].dtype)
    if want != have:
      wrong.append(f'{path} is {want}, and there {theirs} is {have}')
  if wrong:
    raise UserError(f'{about}: {source}, does not fit; is it the same network?' + _listed(wrong))

  def read(targets):
    nested = traverse_util.unflatten_dict({tuple(of[path].split('/')): target for path, target in targets.items()})
    with _still_there(about), reader.pin(chosen):
      restored = traverse_util.flatten_dict(reader.restore(nested, chosen, partial=True), sep='/')
    return {path: restored[of[path]] for path in targets}

  return Graft(source, tuple(pairs), tuple(of), read)


@contextlib.contextmanager
def _still_there(about):
  """The run may train, and delete the step that was chosen."""
  try:
    yield
  except Vanished as error:
    raise UserError(f'{about}: {error}: its run has deleted it; start again') from error


def _step(reader, place, step, about):
  steps = reader.steps()
  if not steps:
    folder = pathlib.Path(place)
    beside = [str(p.parent) for p in folder.parent.glob('*/checkpoints')] if folder.parent.is_dir() else []
    raise UserError(f'{about}: {place} is no run with checkpoints.{suggest(place, beside)}')
  if step and int(step) not in steps:
    raise UserError(f'{about}: {place} has no checkpoint of step {step}; there are {", ".join(map(str, steps))}')
  return int(step) if step else steps[-1]


def _agreed(step: int) -> int:
  """The step that process 0 found: a run that still trains may save another one between two looks."""
  if jax.process_count() == 1:
    return step
  from jax.experimental import multihost_utils

  return int(multihost_utils.broadcast_one_to_all(np.int32(step)))


def _from_weights(place: str, prefix: str, shapes: Shapes, about: str) -> Graft:
  stats_at = _stats(shapes)
  params, stats = (_subtree(shapes, at) if at else {} for at in (ENCODER, stats_at[0] if stats_at else ''))
  state = import_torch.load(place)
  try:
    params, stats = import_torch.encoder(state, params, stats, prefix=prefix, file=place)
  except UserError as error:
    raise UserError(f'{about}: {error}') from None
  parts = {ENCODER: params} | ({stats_at[0]: stats} if stats_at else {})
  values = {
    f'{at}/{path}': np.asarray(x) for at, part in parts.items() for path, x in traverse_util.flatten_dict(part, sep='/').items()
  }

  def read(targets):
    def copied(path, target):
      # A copy that jax alone holds: on CPU it would take the memory as it is, and the first step gives it away.
      return jax.make_array_from_callback(target.shape, target.sharding, lambda index: np.array(values[path][index]))

    return {path: copied(path, target) for path, target in targets.items()}

  return Graft(place, tuple(parts), tuple(values), read)


def _leaves(state: PyTree) -> dict[str, Any]:
  return dict(zip(tree.paths(state), jax.tree.leaves(state), strict=True))


def _subtree(shapes, at):
  """The nested dict below `at`."""
  return traverse_util.unflatten_dict({tuple(p[len(at) + 1 :].split('/')): leaf for p, leaf in shapes.items() if _inside(p, at)})


def _stats(paths: Iterable[str]) -> list[str]:
  """Where the running statistics of the encoder are: [] or one place."""
  return sorted({where for where in map(encoder_stats, paths) if where})


def _inside(path, part):
  return path == part or path.startswith(f'{part}/')


def _exists(state, path):
  """Is there a node at `path`, be it an empty one (the statistics of a network without any)?"""
  if path.split('/')[0] not in ('params', 'memory'):
    return False
  nodes = jax.tree_util.tree_leaves_with_path(state, is_leaf=lambda x: isinstance(x, dict) and not x)
  return any(_inside(tree.path_name(p), path) for p, _ in nodes)


def _near(path, leaves):
  """Suggests nodes of a tree with these leaves."""
  parts = [p.split('/') for p in leaves if p.startswith(('params/', 'memory/'))]
  nodes = {'/'.join(p[:k]) for p in parts for k in range(1, len(p) + 1)}
  near = difflib.get_close_matches(path, nodes, n=3, cutoff=0.6)
  return f' Did you mean {" or ".join(near)}?' if near else suggest(path, {'/'.join(p[:2]) for p in parts})


def _kind(shape, dtype):
  return f'{np.dtype(dtype).name}[{",".join(map(str, shape))}]'


def _listed(lines, limit=10):
  more = [f'... and {len(lines) - limit} more'] if len(lines) > limit else []
  return ''.join(f'\n  {line}' for line in lines[:limit] + more)
