"""Configs saved when one class made all optimizers: the optimizer of today that each becomes."""

import pytest

from sslax import spec
from sslax.errors import UserError
from sslax.ops.schedules import Ramp
from sslax.run.optim import Adam, AdamW, Constant, Cosine, Larc, Lars, Multistep, Sgd, legacy

SAVED = {  # a whole node, as config.json has it
  'make': 'sslax.run.optim:Optimizer', 'name': 'lars', 'learning_rate': 0.3, 'scaling': 'linear', 'reference_batch': 256,
  'schedule': 'cosine', 'warmup': '10 epochs', 'warmup_init': 0.0, 'end_fraction': 0.0, 'milestones': ('60%', '80%'),
  'milestone_factor': 0.1, 'per_epoch': False, 'constant': '', 'momentum': 0.9, 'nesterov': False, 'b1': 0.9, 'b2': 0.999,
  'eps': 1e-8, 'trust_coefficient': 0.001, 'clip_lr': False, 'weight_decay': 1e-6, 'weight_decay_end': -1.0,
  'exclude': r'(bias|scale\d*)$', 'groups': (), 'layer_decay': 1.0, 'clip_norm': 0.0, 'clip_each': 0.0, 'freeze': '',
}  # fmt: skip
OTHER = {  # no field as it is by default
  'learning_rate': 0.1, 'scaling': 'sqrt', 'reference_batch': 128, 'warmup': '3 steps', 'warmup_init': 0.01,
  'constant': '^predictor/', 'weight_decay': 0.04, 'exclude': 'bias$', 'groups': (('', 1.0, 2.0),), 'layer_decay': 0.65,
  'clip_norm': 3.0, 'clip_each': 2.0, 'freeze': '^text/',
}  # fmt: skip


@pytest.mark.parametrize(
  'name,make,own',
  [
    ('lars', Lars, dict(momentum=0.8, nesterov=True, trust_coefficient=0.02)),
    ('larc', Larc, dict(momentum=0.8, nesterov=True, trust_coefficient=0.02, eps=1e-3, clip_lr=True)),
    ('sgd', Sgd, dict(momentum=0.8, nesterov=True)),
    ('adamw', AdamW, dict(b1=0.8, b2=0.95, eps=1e-3)),
    ('adam', Adam, dict(b1=0.8, b2=0.95, eps=1e-3)),
  ],
)
def test_every_field_finds_its_place(name, make, own):
  assert spec.build(legacy.upgrade({**SAVED, 'name': name})) == make()
  assert spec.build(legacy.upgrade({**SAVED, **OTHER, **own, 'name': name})) == make(**OTHER, **own)


@pytest.mark.parametrize(
  'old,schedule',
  [
    (dict(schedule='cosine', end_fraction=0.01, per_epoch=True), Cosine(0.01, True)),
    (dict(schedule='constant', end_fraction=0.01), Constant()),
    (
      dict(schedule='multistep', milestones=['1 epoch'], milestone_factor=0.5, per_epoch=True),
      Multistep(('1 epoch',), 0.5, True),
    ),
  ],
)
def test_schedules(old, schedule):
  assert spec.build(legacy.upgrade({**SAVED, **old})) == Lars(schedule=schedule)


def test_weight_decay_that_changes():
  node = legacy.upgrade({**SAVED, 'name': 'adamw', 'weight_decay': 0.04, 'weight_decay_end': 0.4})
  assert spec.build(node) == AdamW(weight_decay=Ramp(0.04, 0.4, 'cosine', '100%'))
  assert spec.build(legacy.upgrade({**SAVED, 'weight_decay_end': 0.0})) == Lars(weight_decay=Ramp(1e-6, 0.0))


def test_a_config_older_than_some_fields():
  assert spec.build(legacy.upgrade({'make': legacy.MAKE, 'name': 'sgd', 'learning_rate': 0.1})) == Sgd(0.1)
  assert spec.build(legacy.upgrade({'make': legacy.MAKE, 'weight_decay_end': 0.1})) == Lars(weight_decay=Ramp(1e-6, 0.1))


def test_the_node_is_whole_and_the_old_one_is_left_alone():
  before = dict(SAVED)
  node = legacy.upgrade(SAVED)
  assert before == SAVED
  assert spec.spec(Lars).to_dict() == node, 'as a config of today would save it'


@pytest.mark.parametrize('change,word', [({'name': 'lasr'}, 'name=.*Did you mean lars'), ({'schedule': 'cosin'}, 'cosine')])
def test_what_there_never_was(change, word):
  with pytest.raises(UserError, match=word):
    legacy.upgrade({**SAVED, **change})


def test_every_old_flag_is_one_of_today_or_says_what_to_write():
  """Under its own name, under another, or gone with a hint; nothing else is in the tables."""
  leaves = set()
  for make in (Adam, AdamW, Lars, Larc, Sgd):
    for schedule in (Cosine(), Multistep()):
      node = spec.spec(make, schedule=schedule)
      leaves |= {f'optim.{key}' for key in node} | {f'optim.schedule.{key}' for key in node.schedule}
  old = {f'optim.{key}' for key in SAVED if key != 'make'}
  assert set(legacy.RENAMED) | set(legacy.GONE) <= old
  assert set(legacy.RENAMED.values()) <= leaves
  assert old - set(legacy.RENAMED) - set(legacy.GONE) <= leaves
  assert all('spec(' in hint for hint in legacy.GONE.values())
