"""What a plan says, and the binary."""

import dataclasses
import importlib.util
import json

import pytest
from run.trainer import TINY, run

from sslax.errors import UserError
from sslax.planning.plan import plan
from sslax.planning.report import HEADER, report, row
from sslax.planning.target import GIB, target


def test_a_plan(here, config):
  parameters = here.state['parameters']
  assert (here.chips, here.batch_size, here.mesh, here.fits) == (8, 32, {'data': 8, 'fsdp': 1}, True)
  assert here.state['optimizer'] >= parameters  # momentum
  assert here.state['input'] == 32 // 8 * (8 * 8 * 3 + 4 + 4)  # uint8 pixels, index and label
  assert here.needed == sum(here.state.values()) + here.temporaries and here.temporaries > 0
  count, size = here.collectives['all-reduce']
  assert count >= 1 and size > parameters  # gradients, and the statistics of BatchNorm
  assert here.flops > 3 * 32 * 2e5
  halved = dataclasses.replace(here, changes={'microbatches': 2})
  assert here.batch_norm and 'BatchNorm' in report(halved)
  assert 'BatchNorm' not in report(dataclasses.replace(halved, batch_norm=False)) + report(here)
  text = report(here)
  for word in ('8 devices', 'parameters', 'optimizer', 'temporaries', 'fits', 'GFLOP a record', 'all-reduce', 'compiled in'):
    assert word in text, text
  assert row(here).count('|') == HEADER.splitlines()[0].count('|')
  json.dumps(dataclasses.asdict(here))


def test_a_plan_that_cannot_be(config):
  where = target(None)
  with pytest.raises(UserError, match='batch_size=12'):
    plan(config, where, 1000, {'batch_size': 12})
  with pytest.raises(UserError, match='fsdp=3'):
    plan(config, where, 1000, {'mesh.fsdp': 3})


@pytest.mark.slow
def test_the_binary_plans_for_this_machine(tmp_path):
  """As in the documentation: what does not fit is a result, with numbers."""
  out = tmp_path / 'plans.json'
  code, output = run('plan', f'--config={TINY}', '--noadvise', '--hbm=0.001', f'--json={out}', devices=2)
  assert code == 0 and 'DOES NOT FIT' in output and 'data 2 x fsdp 1' in output, output
  (plan,) = json.loads(out.read_text())
  assert plan['needed'] > plan['hbm'] == round(0.001 * GIB) and plan['chips'] == 2 and plan['topology'] == 'local'


libtpu = pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason="needs pip install 'jax[tpu]'")


@pytest.mark.slow
@libtpu
@pytest.mark.parametrize('topology, devices', [('v6e:1x1', 1), ('2*v5e:2x2', 8), ('v4:2x2x1', 4), ('tpu7x:2x2x1', 8)])
def test_a_slice_that_is_not_here(tmp_path, topology, devices):
  out = tmp_path / 'plans.json'
  code, output = run('plan', f'--config={TINY}', f'--topology={topology}', f'--json={out}', timeout=900)
  assert code == 0 and 'fits' in output and 'E0000' not in output, output
  (plan,) = json.loads(out.read_text())
  assert plan['mesh']['data'] == devices and plan['images_per_second'] > 0
  assert devices == 1 or plan['collectives']['all-reduce'][0] > 0


@pytest.mark.slow
@libtpu
def test_a_slice_that_is_too_small_gets_advice_that_works(tmp_path):
  """A batch that needs more than 15.75 GiB, and what the compiler accepts instead."""
  out = tmp_path / 'plans.json'
  sizes = ('--config.batch_size=16384', '--config.method.image.size=64', '--config.method.augment.size=64')
  code, output = run('plan', f'--config={TINY}', '--topology=v5e:1x1', *sizes, f'--json={out}', timeout=900)
  assert code == 0 and 'DOES NOT FIT' in output and 'sslax.train' in output and '--config.microbatches=' in output, output
  first, found = json.loads(out.read_text())
  assert not first['fits'] and first['needed'] > first['hbm'] == int(15.75 * GIB) > found['needed'] and found['fits']
