"""What is known to collapse raises a named warning from the metrics within 100 steps; what is healthy raises none."""

import dataclasses
import functools

import jax
import optax
import pytest
from methods import tiny
from methods.battery import SEED, Trainer, tiny_batch
from methods.byol_test import tiny_byol
from methods.dino_test import tiny_dino
from methods.simsiam_test import tiny_simsiam

from sslax.ops.views import RandomViews, TwoViews
from sslax.run.health import Health
from sslax.step import init_state, jit_step

COLOURS = RandomViews(size=16, blur_kernel=3)  # without colours the task is too easy to collapse within 100 steps
ONE = dataclasses.replace(COLOURS, count=1)
PAIR = TwoViews(first=ONE, second=dataclasses.replace(ONE, blur_prob=0.1, solarize_prob=0.2))
DEEP = tiny.resnet(stages=(1, 1))
tiny_resnet_dino = functools.partial(
  tiny_dino, encoder=tiny.resnet(), head=tiny.head(activation='gelu'), momentum=0.9, teacher_temperature=0.04
)


def warnings_of(method, learning_rate, steps=100):
  trainer = Trainer(method, batch=tiny_batch(32))
  tx = optax.adamw(learning_rate)
  trainer.init = jax.jit(functools.partial(init_state, method, tx, SEED), out_shardings=trainer.state)
  trainer.step = jit_step(method, tx, SEED, trainer.state, trainer.rows)
  health, state = Health(), None
  for first in range(0, steps, 10):
    state, history = trainer.run(10, state)
    for step, metrics in enumerate(history, first + 1):
      health.update(step, metrics)
    if health.warnings:
      break
  return {warning['name']: warning['step'] for warning in health.warnings}


@pytest.mark.parametrize(
  'make, ablation, learning_rate, name',
  [
    pytest.param(
      functools.partial(tiny_byol, momentum=0.9, encoder=DEEP, augment=PAIR),
      {'use_predictor': False},
      3e-3,
      'CollapsedEmbeddings',
      marks=pytest.mark.slow,
    ),
    (functools.partial(tiny_simsiam, encoder=DEEP, augment=COLOURS), {'stop_gradient': False}, 1e-2, 'CollapsedDimensions'),
    (tiny_resnet_dino, {'targets': 'none'}, 3e-3, 'CollapsedAssignments'),
  ],
  ids=['byol', 'simsiam', 'dino'],
)
def test_a_collapse_is_named_and_health_is_silent(make, ablation, learning_rate, name):
  assert warnings_of(make(**ablation), learning_rate).get(name, 101) <= 100
  assert warnings_of(make(), learning_rate) == {}
