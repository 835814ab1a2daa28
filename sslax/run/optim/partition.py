"""Several optimizers in one run, each with parameters of its own: two players, or a part that stands still."""

import dataclasses
from typing import Any

import jax
import optax

from sslax.errors import UserError
from sslax.method import Facts
from sslax.ops import schedules, tree
from sslax.run.optim import rules
from sslax.run.optim.base import Optimizer

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Partition(Optimizer):
  """An optimizer for each part of the parameters, as a config writes it:

    config.optim = spec(Partition, parts=(('^discriminator/', spec(Adam, ...)), ('', spec(Adam, ...))))

  Each sees its own parameters only: norms, clipping and rules by path are of those. Its state is the tuple of theirs.

  Attributes:
    parts: (regex, optimizer); the first match wins and every parameter needs one. The learning rate that a run shows is the last
      one's. A part whose optimizer has freeze='.' stands still.
  """  # fmt: skip

  parts: tuple

  def build(
    self, facts: Facts, params_shape: PyTree, groups: PyTree, where: str = 'config.optim'
  ) -> tuple[optax.GradientTransformation, schedules.Schedule]:
    where = f'{where}.parts'
    for i, part in enumerate(self.parts):
      pair = isinstance(part, tuple) and len(part) == 2
      if not pair or not isinstance(part[0], str) or not isinstance(part[1], Optimizer):
        raise UserError(f'{where}[{i}]={part!r} is not (regex, optimizer)')
    which = tree.assign(params_shape, tuple((regex, i) for i, (regex, _) in enumerate(self.parts)), where)
    txs, rates = [], []
    for i, (regex, optimizer) in enumerate(self.parts):
      if i not in jax.tree.leaves(which):
        raise UserError(f'{where}[{i}]: all parameters that {regex!r} matches are of parts before it; the first match wins')
      tx, rate = optimizer.build(facts, _of(i, which, params_shape), groups, f'{where}[{i}][1]')
      txs.append(tx)
      rates.append(rate)
    return _partition(tuple(txs), which), rates[-1]


def _of(i, which, t):
  """The parameters of part i."""
  return rules.only(jax.tree.map(lambda j: j == i, which), t)


def _partition(txs, which):
  def init(params):
    return tuple(tx.init(_of(i, which, params)) for i, tx in enumerate(txs))

  def update(updates, state, params=None):
    if params is None:
      raise ValueError('the optimizers of a partition need the parameters')
    done = [
      tx.update(_of(i, which, updates), part, _of(i, which, params)) for i, (tx, part) in enumerate(zip(txs, state, strict=True))
    ]
    merged = jax.tree.map(lambda i, *parts: parts[i], which, *(updates for updates, _ in done))
    return merged, tuple(state for _, state in done)

  return optax.GradientTransformation(init, update)
