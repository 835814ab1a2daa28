"""Learning rates over a run, impossible values, and what configs and command lines see of an optimizer."""

import json

import ml_collections
import numpy as np
import pytest
from run.optim_case import PLAIN, build, params

from sslax import spec
from sslax.errors import UserError
from sslax.ops.schedules import Ramp
from sslax.run.optim import Adam, AdamW, Constant, Cosine, Larc, Lars, Multistep, Sgd


@pytest.mark.parametrize(
  'kwargs,batch,peak',
  [
    (dict(learning_rate=0.3), 4096, 4.8),  # SimCLR, section 2.1 and appendix B.1
    (dict(learning_rate=0.075, scaling='sqrt'), 4096, 4.8),
    (dict(learning_rate=0.06, reference_batch=128), 512, 0.24),
    (dict(learning_rate=0.06, scaling='none'), 512, 0.06),
  ],
)
def test_rates_scale_with_the_batch(kwargs, batch, peak):
  _, rate = build(Lars(**kwargs), params(), batch_size=batch, total_steps=1000, steps_per_epoch=10)
  assert rate(0) == 0
  np.testing.assert_allclose([rate(50), rate(100), rate(550)], [peak / 2, peak, peak / 2], rtol=1e-5)
  np.testing.assert_allclose(rate(1000), 0, atol=1e-6)


def rates(steps, schedule, **fields):
  optimizer = Sgd(learning_rate=1.0, scaling='none', schedule=schedule, **fields)
  _, rate = build(optimizer, params(), batch_size=64, total_steps=200, steps_per_epoch=10)
  return [float(rate(s)) for s in steps]


def test_schedules_after_a_warmup():
  np.testing.assert_allclose(rates((10, 20, 199), Constant(), warmup='2 epochs'), [0.5, 1, 1])
  steps = (10, 99, 100, 159, 160, 199)
  multistep = Multistep(milestones=('10 epochs', '80%'), factor=0.2)
  np.testing.assert_allclose(rates(steps, multistep, warmup='10%'), [0.5, 1, 0.2, 0.2, 0.04, 0.04], rtol=1e-5)
  np.testing.assert_allclose(rates((0, 10, 20), Constant(), warmup='20', warmup_init=0.2), [0.2, 0.6, 1], rtol=1e-6)
  np.testing.assert_allclose(rates((20, 110, 200), Cosine(end_fraction=0.01), warmup='20'), [1, 0.505, 0.01], rtol=1e-5)


def test_a_rate_that_changes_once_an_epoch():
  """MoCo's adjust_learning_rate and lightly's CosineAnnealingLR: (1 + cos(pi epoch / epochs)) / 2."""
  steps = (0, 9, 10, 19, 105, 199)
  expected = [(1 + np.cos(np.pi * (s // 10) / 20)) / 2 for s in steps]
  stairs = Cosine(per_epoch=True)
  np.testing.assert_allclose(rates(steps, stairs, warmup='0 steps'), expected, rtol=1e-5)
  # A warm-up ends inside the second epoch: the peak lasts until the third.
  np.testing.assert_allclose(rates((14, 15, 19), stairs, warmup='15'), [14 / 15, 1, 1], rtol=1e-5)
  np.testing.assert_allclose(rates((20, 29), stairs, warmup='15'), [(1 + np.cos(np.pi * 5 / 185)) / 2] * 2, rtol=1e-5)
  # A milestone inside an epoch waits for the next one.
  late = Multistep(milestones=('25 steps',), per_epoch=True)
  np.testing.assert_allclose(rates((25, 29, 30), late, warmup='0'), [1, 1, 0.1], rtol=1e-5)


@pytest.mark.parametrize(
  'make,kwargs,message',
  [
    (Lars, dict(scaling='linaer'), 'scaling.*Did you mean linear'),
    (Lars, dict(schedule='cosine'), r"config\.optim\.schedule='cosine' is no schedule: write spec\(Cosine\)"),
    (Lars, dict(learning_rate=-1.0), r'learning_rate=-1\.0'),
    (Lars, dict(learning_rate=float('nan')), 'learning_rate=nan'),
    (Lars, dict(weight_decay=-1e-6), 'weight_decay=-1e-06'),
    (Lars, dict(weight_decay=Ramp(0.1, float('inf'))), r'config\.optim\.weight_decay\.end=inf'),
    (Lars, dict(weight_decay=Ramp(-0.1, 0.1)), r'config\.optim\.weight_decay\.start=-0\.1'),
    (Lars, dict(warmup='0', weight_decay=Ramp(0, 1, duration='soon')), r"config\.optim\.weight_decay\.duration='soon' is no"),
    (Lars, dict(clip_norm=-1.0), 'clip_norm'),
    (Lars, dict(clip_each=-1.0), 'clip_each=-1.0'),
    (Lars, dict(warmup_init=-1.0), 'warmup_init=-1.0'),
    (Lars, dict(trust_coefficient=-1.0), 'trust_coefficient=-1.0'),
    (Larc, dict(trust_coefficient=-1.0), 'trust_coefficient=-1.0'),
    (Larc, dict(eps=-1.0), r'eps=-1\.0'),
    (Larc, dict(momentum=-0.1), r'momentum=-0\.1'),
    (Lars, dict(reference_batch=0), 'reference_batch=0'),
    (Lars, dict(layer_decay=0.0), r'layer_decay=0\.0'),
    (Lars, dict(momentum=1.0), r'momentum=1\.0'),
    (Sgd, dict(momentum=1.0), r'momentum=1\.0'),
    (AdamW, dict(b2=1.5), r'b2=1\.5'),
    (Adam, dict(b1=1.0), r'b1=1\.0'),
    (AdamW, dict(eps=-1.0), r'eps=-1\.0'),
    (Lars, dict(warmup='ten epochs'), r"config\.optim\.warmup='ten epochs' is no duration"),
    (Lars, dict(warmup='10 epochs'), r"warmup='10 epochs' is 20 steps and the run 6"),
    (Lars, dict(warmup='100%'), 'is 6 steps and the run 6'),
    (Lars, dict(schedule=Cosine(end_fraction=-1.0)), r'config\.optim\.schedule\.end_fraction=-1\.0'),
    (Lars, dict(schedule=Multistep(factor=-1.0)), r'config\.optim\.schedule\.factor=-1\.0'),
    (Lars, dict(warmup='0', schedule=Multistep(('1 epoch', 'soon'))), r'config\.optim\.schedule\.milestones\[1\]'),
  ],
)
def test_impossible_values(make, kwargs, message):
  with pytest.raises(UserError, match=message):
    build(make(**kwargs), params())


@pytest.mark.parametrize('none', [0, None])
def test_without_epochs(none):
  units = dict(total_steps=100, steps_per_epoch=none)
  build(Lars(warmup='10%'), params(), **units)
  with pytest.raises(UserError, match='warmup.*write it in steps'):
    build(Lars(warmup='10 epochs'), params(), **units)
  for schedule in (Cosine(per_epoch=True), Multistep(per_epoch=True)):
    with pytest.raises(UserError, match=r'config\.optim\.schedule\.per_epoch=True, and this run has no epochs'):
      build(Lars(warmup='0', schedule=schedule), params(), **units)
  with pytest.raises(UserError, match=r'weight_decay\.duration.*write it in steps'):
    build(Sgd(**PLAIN, weight_decay=Ramp(0.0, 1.0, duration='1 epoch')), params(), **units)


def test_a_config_names_every_field():
  groups = (('head', 10.0, 1.0), ('', 1.0, 1.0))
  node = spec.spec(Lars, learning_rate=1, weight_decay=0, groups=groups)
  assert spec.build(node, 'config.optim') == Lars(1.0, weight_decay=0.0, groups=groups)
  assert isinstance(node.learning_rate, float) and isinstance(node.weight_decay, float) and node.trust_coefficient == 0.001
  assert node.schedule.end_fraction == 0.0, 'a schedule by default is a node too: its fields are flags'
  node.schedule.end_fraction = 0.5
  assert spec.build(node, 'config.optim').schedule == Cosine(end_fraction=0.5)
  changed = spec.spec(AdamW, schedule=spec.spec(Multistep), weight_decay=spec.spec(Ramp, start=0.04, end=0.4))
  again = ml_collections.ConfigDict(json.loads(changed.to_json()))
  again.schedule.milestones, again.groups = tuple(again.schedule.milestones), ()
  assert spec.build(again) == spec.build(changed) == AdamW(schedule=Multistep(), weight_decay=Ramp(0.04, 0.4))


def test_an_optimizer_that_there_is_not():
  with pytest.raises(UserError, match=r"config\.optim: 'sslax\.run\.optim:Lasr'.*Did you mean Lar"):
    spec.build({'make': 'sslax.run.optim:Lasr'}, 'config.optim')
  with pytest.raises(UserError, match="no argument 'clip_lr'"):
    spec.spec(Lars, clip_lr=True)
