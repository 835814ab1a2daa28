"""The learning rate after the warm-up: nodes of a config."""

import abc
import dataclasses

from sslax.errors import UserError
from sslax.method import Facts
from sslax.ops import schedules
from sslax.run.optim import ranges


class Schedule(abc.ABC):
  """A frozen dataclass; steps are counted from the start of the run."""

  @abc.abstractmethod
  def after(self, peak: float, warmup: int, facts: Facts, where: str) -> schedules.Schedule:
    """The rate from the end of the warm-up on.

    Args:
      peak: rate at the end of the warm-up.
      warmup: its steps.
      facts: of the run.
      where: the key of this node, for messages.

    Raises:
      UserError: a duration is none, or means nothing in this run.
    """

  def check(self, where: str) -> None:  # noqa: B027 (most have nothing to check)
    """Raises UserError where a field is out of its range; default: there is none."""


@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
  """Half a cosine from the peak to peak * end_fraction at the end of the run.

  Attributes:
    end_fraction: last rate / peak rate.
    per_epoch: the rate changes between epochs only (MoCo's and lightly's scripts).
  """

  end_fraction: float = 0.0
  per_epoch: bool = False

  def check(self, where: str) -> None:
    ranges.zero_or_more(self, where, 'end_fraction')

  def after(self, peak: float, warmup: int, facts: Facts, where: str) -> schedules.Schedule:
    half = schedules.cosine(peak, peak * self.end_fraction, facts.total_steps - warmup)
    return _between_epochs(self.per_epoch, lambda step: half(step - warmup), facts, where)


@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
  """The peak."""

  def after(self, peak: float, warmup: int, facts: Facts, where: str) -> schedules.Schedule:
    return schedules.constant(peak)


@dataclasses.dataclass(frozen=True)
class Multistep(Schedule):
  """The peak, multiplied at each of the milestones.

  Attributes:
    milestones: durations from the start of the run at which the rate is multiplied by `factor`.
    factor: see there.
    per_epoch: see `Cosine`.
  """

  milestones: tuple = ('60%', '80%')
  factor: float = 0.1
  per_epoch: bool = False

  def check(self, where: str) -> None:
    ranges.zero_or_more(self, where, 'factor')

  def after(self, peak: float, warmup: int, facts: Facts, where: str) -> schedules.Schedule:
    steps = [schedules.in_steps(m, facts, f'{where}.milestones[{i}]') for i, m in enumerate(self.milestones)]
    return _between_epochs(self.per_epoch, schedules.multistep(peak, tuple(steps), self.factor), facts, where)


def _between_epochs(per_epoch, rate, facts, where):
  """`rate`, or where asked that of the first step of each epoch."""
  if not per_epoch:
    return rate
  if not facts.steps_per_epoch:
    raise UserError(f'{where}.per_epoch=True, and this run has no epochs')
  epoch = max(1, round(facts.steps_per_epoch))
  return lambda step: rate(step // epoch * epoch)
