"""Schedules against their closed forms, and durations in all their spellings."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sslax.errors import UserError
from sslax.method import Facts, settled
from sslax.ops import schedules
from sslax.ops.schedules import Ramp


def warmup_cosine(step, base, total, warmup, end, init):
  if step < warmup:
    return init + (base - init) * step / warmup
  return end + (base - end) * (1 + math.cos(math.pi * min(1, (step - warmup) / (total - warmup)))) / 2


@pytest.mark.parametrize('end,init,warmup', [(0.0, 0.0, 10), (0.048, 0.3, 10), (0.01, 0.0, 0)])
def test_warmup_cosine_is_the_closed_form(end, init, warmup):
  f = schedules.warmup_cosine(4.8, 110, warmup, end, init)
  for step in (0, 1, 5, 9, 10, 11, 60, 109, 110, 500):
    np.testing.assert_allclose(f(step), warmup_cosine(step, 4.8, 110, warmup, end, init), rtol=1e-5, atol=1e-6)


def test_warmup_cosine_at_its_corners():
  f = schedules.warmup_cosine(4.8, 110, 10)
  assert f(0) == 0 and f(110) == 0
  np.testing.assert_allclose([f(5), f(10), f(60)], [2.4, 4.8, 2.4], rtol=1e-6)


def test_cosine_goes_up_and_down_and_stays():
  up, down = schedules.cosine(0.996, 1.0, 100), schedules.cosine(0.0, 0.4, 100)
  # Grill et al. 2020, section 3.3: 1 - (1 - tau_base) (cos(pi k / K) + 1) / 2
  for k in (0, 25, 50, 100):
    np.testing.assert_allclose(1 - up(k), 0.004 * (math.cos(math.pi * k / 100) + 1) / 2, atol=1e-7)
  assert up(100) == 1 and up(1000) == 1 and down(0) == 0
  np.testing.assert_allclose([down(50), down(100), down(101)], [0.2, 0.4, 0.4], rtol=1e-6)


def test_linear_and_constant():
  f = schedules.linear(1.0, 0.0, 4)
  np.testing.assert_allclose([f(s) for s in range(6)], [1, 0.75, 0.5, 0.25, 0, 0])
  assert schedules.constant(0.3)(7) == 0.3


def test_multistep_is_torchs():
  f = schedules.multistep(0.03, (120, 160), 0.1)
  np.testing.assert_allclose([f(s) for s in (0, 119, 120, 159, 160, 199)], [0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003], rtol=1e-6)
  np.testing.assert_allclose(schedules.multistep(1.0, (5, 5), 0.1)(5), 0.01, rtol=1e-6)
  assert schedules.multistep(1.0, ())(5) == 1


def test_warmup_hands_over_at_its_end_with_the_step_counted_from_zero():
  f = schedules.warmup(lambda step: 100.0 + step, 1.0, 4, 0.5)
  np.testing.assert_allclose([f(s) for s in (0, 2, 3, 4, 9)], [0.5, 0.75, 0.875, 104, 109])


def test_traced_steps_give_what_integers_give():
  for f in (
    schedules.warmup_cosine(4.8, 110, 10, 0.1),
    schedules.cosine(0.04, 0.4, 90),
    schedules.linear(1, 0, 50),
    schedules.multistep(1.0, (20, 60)),
  ):
    steps = (0, 10, 20, 77, 200)
    traced = jax.jit(jax.vmap(f))(jnp.array(steps, jnp.int32))
    np.testing.assert_allclose(traced, [f(s) for s in steps], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('make', [schedules.cosine, schedules.linear])
def test_a_schedule_needs_time(make):
  with pytest.raises(ValueError, match='over 0 steps'):
    make(1.0, 0.0, 0)


def test_a_warmup_as_long_as_the_run_is_refused():
  with pytest.raises(ValueError):
    schedules.warmup_cosine(1.0, 10, 10)


UNITS = dict(steps_per_epoch=195, batch_size=256, total_steps=39000)


@pytest.mark.parametrize(
  'value,steps',
  [
    (0, 0),
    (500, 500),
    (np.int64(7), 7),
    ('500', 500),
    ('500 steps', 500),
    ('1 step', 1),
    ('10 epochs', 1950),
    ('1 epoch', 195),
    ('0.5epochs', 98),
    ('200.0 epochs', 39000),
    ('1e-05 epochs', 1),
    ('1000000 examples', 3906),
    ('1e6 Examples', 3906),
    ('3 examples', 1),
    ('0 epochs', 0),
    ('5%', 1950),
    (' 2.5 % ', 975),
  ],
)
def test_durations(value, steps):
  out = schedules.duration(value, **UNITS)
  assert out == steps and isinstance(out, int)


@pytest.mark.parametrize(
  'value',
  [
    -1,
    '-1 epochs',
    1.5,
    True,
    None,
    '',
    'epochs',
    '10 eppochs',
    '5 s',
    '1,000 steps',
    'nan',
    'inf steps',
    '1e999 steps',
    '5 % epochs',
    (1,),
  ],
)
def test_what_is_no_duration(value):
  with pytest.raises(UserError, match=r'config\.optim\.warmup=.* is no duration'):
    schedules.duration(value, where='config.optim.warmup', **UNITS)


@pytest.mark.parametrize('value', ['5 epochs', '5 examples', '5%'])
def test_a_unit_without_its_length(value):
  with pytest.raises(UserError, match=r'config\.optim\.warmup=.*write it in steps'):
    schedules.duration(value, where='config.optim.warmup')


FACTS = Facts(batch_size=256, total_steps=39000, steps_per_epoch=195, num_records=50000, num_classes=10)


def test_durations_in_a_run():
  assert [schedules.in_steps(value, FACTS) for value in ('10 epochs', '1e6 examples', '5%', 7)] == [1950, 3906, 1950, 7]
  for none in (0, None):
    with pytest.raises(UserError, match=r'config\.x=.*write it in steps'):
      schedules.in_steps('1 epoch', FACTS._replace(steps_per_epoch=none), 'config.x')
    assert schedules.in_steps('5%', FACTS._replace(steps_per_epoch=none)) == 1950


def test_ramps_settle_in_a_run():
  """Wherever a method has one; to the bit what the schedule of that length is."""

  @dataclasses.dataclass(frozen=True)
  class Holder:
    momentum: float | Ramp = Ramp(0.996, 1.0)
    fixed: Ramp = Ramp(0.0, 1.0, 'linear', steps=4)
    several: tuple = (Ramp(0.0, 2.0, 'step', '1 epoch'), 3)

  held = settled(Holder(), FACTS)
  assert held.momentum.steps == 39000 and held.fixed.steps == 4 and held.several[0].steps == 195
  for step in (0, 1, 7, 19500, 38999, 39000, 50000):
    assert held.momentum(step) == schedules.cosine(0.996, 1.0, 39000)(step)
    assert schedules.at(held.momentum, step) == held.momentum(step)
  np.testing.assert_allclose([held.fixed(s) for s in (0, 1, 4, 9)], [0, 0.25, 1, 1])
  assert [held.several[0](s) for s in (0, 194, 195)] == [0, 0, 2] and schedules.at(0.5, 3) == 0.5
  assert Ramp(0.0, 1.0, steps=0)(0) == 1
  with pytest.raises(ValueError, match='settle it first'):
    Ramp(0.0, 1.0)(0)
  with pytest.raises(ValueError, match='shape='):
    Ramp(0.0, 1.0, 'cosin')
  with pytest.raises(UserError, match=r"config\.x='soon' is no duration"):
    Ramp(0.0, 1.0, duration='soon').settle(FACTS, 'config.x')


NUMBERS, WORDS = st.text('0123456789.e+-', max_size=5), st.sampled_from(['', '%', 's', 'steps', 'epoch', 'examples'])


@settings(deadline=None)
@given(st.one_of(st.text(max_size=8), st.tuples(NUMBERS, st.text(' ', max_size=1), WORDS).map(''.join)))
def test_any_text_is_a_duration_or_a_user_error(text):
  try:
    assert schedules.duration(text, **UNITS) >= 0
  except UserError:
    pass


@settings(deadline=None)
@given(st.integers(0, 10**9))
def test_steps_come_back_as_they_are(n):
  assert schedules.duration(n) == schedules.duration(f'{n} steps') == n
