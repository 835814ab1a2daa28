"""A collapse is called by its name, once; a healthy run, a slow start and a dip are not."""

import dataclasses

import jax.numpy as jnp
import pytest

from sslax.inputs.image import Image
from sslax.method import Features, Method, Output
from sslax.run import loop
from sslax.run.config import base_config
from sslax.run.faults import StopRequest, read_status
from sslax.run.health import GRACE, INFORMATION, PATIENCE, STD, Health
from sslax.run.optim import Sgd
from sslax.run.prepare import prepare
from sslax.spec import spec


def raised(curve, metric='embedding_std', health=None):
  """[(step, message)] of a run whose metric is curve(step), for 200 steps."""
  health = health or Health()
  return [(step, message) for step in range(1, 201) for message in health.update(step, {'loss': 1.0, metric: curve(step)})]


@pytest.mark.parametrize(
  'metric,name,threshold',
  [('embedding_std', 'CollapsedEmbeddings', STD), ('assignment_information', 'CollapsedAssignments', INFORMATION)],
)
@pytest.mark.parametrize('collapse', [1, 25, 60, 100])
def test_a_collapse_is_named_once_within_100_steps(metric, name, threshold, collapse):
  health = Health()
  found = raised(lambda step: 0.9 * threshold if step >= collapse else 1.1 * threshold, metric, health)
  [(step, message)] = found
  assert step == max(collapse, GRACE + 1) + PATIENCE - 1 and step - collapse < 100
  assert message.startswith(f'{name} at step {step}: {metric} is {0.9 * threshold:.3g}') and 'see that' in message
  assert health.warnings == [{'name': name, 'step': step, 'value': 0.9 * threshold}]


def test_healthy_runs_raise_none():
  low, high = STD / 2, STD * 2
  for curve in (
    lambda step: high,
    lambda step: low if step <= GRACE + PATIENCE - 1 else high,  # a slow start
    lambda step: high if step % PATIENCE == 0 else low,  # dips
    lambda step: STD,
  ):
    assert not raised(curve)
  assert not raised(lambda step: 0.0, 'another_metric')


def test_both_can_be_raised_and_a_resumed_run_does_not_repeat():
  health = Health()
  for step in range(1, 100):
    health.update(step, {'embedding_std': 0.0, 'assignment_information': 0.0})
  assert [warning['name'] for warning in health.warnings] == ['CollapsedEmbeddings', 'CollapsedAssignments']
  assert not raised(lambda step: 0.0, health=Health(health.warnings))
  assert len(raised(lambda step: 0.0, health=Health(health.warnings[1:]))) == 1


# ------------------------------------------------------------------------------------------------------------------ the loop


@dataclasses.dataclass(frozen=True)
class Collapsing(Method):
  """Trains nothing; its embeddings are one point from step `at` on."""

  at: int = 0

  def inputs(self):
    return {'image': Image(8)}

  def init(self, rng, views):
    return {'encoder': {'kernel': jnp.ones((2, 2))}}, {}

  def loss(self, params, memory, views, rng, step):
    return jnp.sum(params['encoder']['kernel'] ** 2), Output(memory, {'embedding_std': jnp.where(step < self.at, 1.0, 0.0)})

  def features(self, params, memory, batch):
    return Features(pooled=batch['image'].mean((1, 2)) / 255.0)


def train(workdir, steps, at, stop=None):
  config = base_config()
  config.batch_size, config.num_steps, config.data.test = 32, steps, ''
  config.log.every_steps = 50  # the metrics of every step count, logged or not
  config.method = spec(Collapsing, at=at)
  config.optim = spec(Sgd, learning_rate=0.001, warmup='0')
  run = prepare(config)
  workdir.mkdir(exist_ok=True)
  loop.train(run, run.lower(), workdir, stop or StopRequest())
  return read_status(workdir)['warnings']


@pytest.mark.slow
def test_the_loop_warns_and_remembers(tmp_path, capfd):
  expected = [{'name': 'CollapsedEmbeddings', 'step': 40 + PATIENCE, 'value': 0.0}]
  assert train(tmp_path / 'run', 55, at=40) == []
  assert 'Collapsed' not in capfd.readouterr().err
  assert train(tmp_path / 'run', 80, at=40) == [{**expected[0], 'step': 55 + PATIENCE}]  # in a row, since the resume
  error = capfd.readouterr().err
  assert error.count('warning: CollapsedEmbeddings at step 75: embedding_std is 0, and below') == 1
  assert train(tmp_path / 'run', 120, at=40) == [{**expected[0], 'step': 55 + PATIENCE}]
  assert 'Collapsed' not in capfd.readouterr().err
  assert train(tmp_path / 'whole', 70, at=40) == expected
  (tmp_path / 'new').mkdir()
  (tmp_path / 'new' / 'status.json').write_text('{"warnings": [{"name": "CollapsedEmbeddings", "step": 1, "value": 0.0}]}')
  assert train(tmp_path / 'new', 70, at=40) == expected  # there was no checkpoint: another run
