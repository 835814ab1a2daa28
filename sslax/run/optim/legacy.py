"""Saved configs and command lines from when there was one class for all optimizers, with a field `name`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from sslax.errors import UserError, suggest
from sslax.ops.schedules import Ramp
from sslax.run.optim.adam import Adam, AdamW
from sslax.run.optim.lars import Larc, Lars
from sslax.run.optim.rules import EXCLUDE
from sslax.run.optim.schedule import Constant, Cosine, Multistep
from sslax.run.optim.sgd import Sgd

MAKE = 'sslax.run.optim:Optimizer'
OPTIMIZERS = {'adam': Adam, 'adamw': AdamW, 'larc': Larc, 'lars': Lars, 'sgd': Sgd}
SCHEDULES = {'constant': Constant, 'cosine': Cosine, 'multistep': Multistep}

RENAMED = {  # leaf of an old config: of a new one
  'optim.end_fraction': 'optim.schedule.end_fraction',
  'optim.per_epoch': 'optim.schedule.per_epoch',
  'optim.milestones': 'optim.schedule.milestones',
  'optim.milestone_factor': 'optim.schedule.factor',
}
GONE = {  # leaf of an old config that has none now: what to write instead
  'optim.name': 'each optimizer is a class of sslax.run.optim: config.optim = spec(AdamW, ...), or Adam, Sgd, Lars, Larc',
  'optim.schedule': 'it is a node: config.optim.schedule = spec(Cosine), or Constant, or Multistep, of sslax.run.optim',
  'optim.weight_decay_end': 'config.optim.weight_decay = spec(Ramp, start=0.04, end=0.4), with Ramp of sslax.ops.schedules',
}


def upgrade(node: Mapping[str, Any]) -> dict[str, Any]:
  """The node of today that makes the same optimizer, with the same tree of state, as a saved node that `make`s MAKE.

  Fields that are not in it, because it is older than they are, get their defaults; those without effect under its `name` go.

  Raises:
    UserError: it names an optimizer or a schedule that there never was.
  """
  old = dict(node)
  optimizer = _known(OPTIMIZERS, old.get('name', 'lars'), 'name')
  schedule = _known(SCHEDULES, old.get('schedule', 'cosine'), 'schedule')
  if 'milestone_factor' in old:
    old['factor'] = old['milestone_factor']
  if (end := old.get('weight_decay_end', -1.0)) >= 0:
    ramp = Ramp(old.get('weight_decay', optimizer.weight_decay), end)
    old['weight_decay'] = {'make': _make(Ramp), **dataclasses.asdict(ramp)}
  if old.get('exclude') == EXCLUDE:  # it might match nothing, where any other regex is refused
    old['exclude'] = 'auto'
  return _node(optimizer, {**old, 'schedule': _node(schedule, old)})


def _known(classes, name, key):
  if name not in classes:
    raise UserError(f'config.optim.{key}={name!r} is not known.{suggest(str(name), classes)}')
  return classes[name]


def _node(target, values):
  """The node that makes `target` of those of the values that are its fields."""
  return {
    'make': _make(target),
    **{field.name: values[field.name] for field in dataclasses.fields(target) if field.name in values},
  }


def _make(target):
  return f'{target.__module__}:{target.__qualname__}'
