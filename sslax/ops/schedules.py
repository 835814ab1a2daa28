"""Schedules: functions of the step (an int, or traced) for learning rates, weight decay and EMA momentum; and durations."""

import dataclasses
import math
import numbers
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from sslax.errors import UserError
from sslax.method import Facts, Setting

Step = int | jax.Array  # [], traced or not
Schedule = Callable[[Step], float | jax.Array]  # step -> [] float32


def constant(value: float) -> Schedule:
  """`value` at every step."""
  return optax.constant_schedule(value)


def linear(start: float, end: float, total: int) -> Schedule:
  """From `start` at step 0 to `end` at step `total` in equal steps, then `end`.

  Raises:
    ValueError: `total` is not positive (optax would stay at `start` for ever).
  """
  _check_positive(total)
  return optax.linear_schedule(start, end, total)


def cosine(start: float, end: float, total: int) -> Schedule:
  """end + (start - end) (1 + cos(pi t / total)) / 2, then `end`; up as well as down, from 0 as well as to 0.

  EMA momentum of BYOL (Grill et al. 2020, section 3.3) and weight decay of DINO (Caron et al. 2021, section 3.2). optax takes the
  end as a fraction of the start, which then cannot be 0.

  Raises:
    ValueError: `total` is not positive.
  """
  _check_positive(total)
  return lambda step: end + (start - end) * (1 + jnp.cos(jnp.pi * jnp.clip(step, 0, total) / total)) / 2


def warmup_cosine(base: float, total_steps: int, warmup_steps: int, end: float = 0.0, init: float = 0.0) -> Schedule:
  """Linear from `init` to `base` over the warm-up, then half a cosine to `end` at `total_steps`, then `end`.

  As SimCLR's official code: step 0 has `init` exactly, step `warmup_steps` has `base`, and the cosine spans the remaining steps.

  Raises:
    ValueError: the warm-up does not end before `total_steps`.
  """
  after = cosine(base, end, total_steps - warmup_steps)
  return warmup(lambda step: after(step - warmup_steps), base, warmup_steps, init)


def warmup(after: Schedule, base: float, warmup_steps: int, init: float = 0.0) -> Schedule:
  """Linear from `init` at step 0 towards `base` at `warmup_steps`; from there on `after(step)`, step counted from 0."""
  if warmup_steps == 0:
    return after
  before = linear(init, base, warmup_steps)
  return lambda step: jnp.where(step < warmup_steps, before(step), after(step))


def multistep(base: float, boundaries: tuple[int, ...], factor: float = 0.1) -> Schedule:
  """base * factor^(number of boundaries <= step), as torch's MultiStepLR."""
  # optax's keeps boundaries as keys of a dict, so that two at the same step would count once.
  return lambda step: base * jnp.power(factor, jnp.sum(step >= jnp.array(boundaries)))


SHAPES = ('cosine', 'linear', 'step')


@dataclasses.dataclass(frozen=True)
class Ramp(Setting):
  """A hyper-parameter that changes over the run, as a config writes it: momentum=spec(Ramp, start=0.996, end=1.0).

  Attributes:
    start: value at step 0.
    end: value from the end of `duration` on.
    shape: 'cosine', 'linear', or 'step': `start` until then.
    duration: see `duration`: '100%' of the run, '30 epochs', '313 steps'.
    steps: what `duration` is in steps. `settle` sets it; without a run, give it instead of `duration`.
  """

  start: float
  end: float
  shape: str = 'cosine'
  duration: str = '100%'
  steps: int = -1

  def __post_init__(self) -> None:
    if self.shape not in SHAPES:
      raise ValueError(f'shape={self.shape!r} is none of {", ".join(SHAPES)}')

  def settle(self, facts: Facts, where: str = 'duration') -> 'Ramp':
    """With `steps` set; `where` as in `duration`."""
    return dataclasses.replace(self, steps=in_steps(self.duration, facts, where)) if self.steps < 0 else self

  def __call__(self, step: Step) -> float | jax.Array:
    if self.steps < 0:
      raise ValueError(f'{self} has no length in steps yet: settle it first')
    if self.steps == 0:
      return jnp.float32(self.end)
    if self.shape == 'step':
      return jnp.where(step < self.steps, self.start, self.end)
    return (cosine if self.shape == 'cosine' else linear)(self.start, self.end, self.steps)(step)


def at(value: float | Ramp, step: Step) -> float | jax.Array:
  """The value of a hyper-parameter, a number or a `Ramp`, at `step`."""
  return value(step) if isinstance(value, Ramp) else value


def duration(
  value: int | str,
  *,
  steps_per_epoch: float | None = None,
  batch_size: int | None = None,
  total_steps: int | None = None,
  where: str = 'duration',
) -> int:
  """A number of steps from 500, '500', '500 steps', '10 epochs', '1000000 examples' or '5%'.

  Rounded to the nearest step; what is more than nothing lasts at least one step.

  Args:
    value: what the user wrote.
    steps_per_epoch: for epochs.
    batch_size: global, for examples.
    total_steps: for '%'.
    where: the key that it was written under, for messages.

  Raises:
    UserError: not one of these forms, negative, or a unit that means nothing here.
  """
  match = re.fullmatch(r'\s*((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(%|steps?|epochs?|examples?)?\s*', str(value).lower())
  known = isinstance(value, (numbers.Integral, str))  # 'True' matches nothing
  if not match or not known or not math.isfinite(float(match[1])):  # '1e999' is a number to the pattern
    raise UserError(
      f"{where}={value!r} is no duration: write 500 (steps), '500 steps', '10 epochs', '1000000 examples' or '5%' of the run"
    )
  units: dict[str, float | None] = {
    'step': 1,
    'epoch': steps_per_epoch,
    'example': batch_size and 1 / batch_size,
    '%': total_steps and total_steps / 100,
  }
  per_unit = units[(match[2] or 'steps').removesuffix('s')]
  if per_unit is None:
    raise UserError(f'{where}={value!r}: how many steps that is cannot be known here; write it in steps')
  steps = float(match[1]) * per_unit
  return max(1, round(steps)) if steps > 0 else 0


def in_steps(value: int | str, facts: Facts, where: str = 'duration') -> int:
  """`duration` in a run; one without epochs has steps_per_epoch = 0."""
  epoch = facts.steps_per_epoch or None
  return duration(value, steps_per_epoch=epoch, batch_size=facts.batch_size, total_steps=facts.total_steps, where=where)


def _check_positive(total):
  if total <= 0:
    raise ValueError(f'a schedule over {total} steps')
