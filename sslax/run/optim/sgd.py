"""Gradient descent with momentum."""

import dataclasses

import optax

from sslax.run.optim import decay, ranges
from sslax.run.optim.base import Descent, Terms
from sslax.run.optim.transforms import descend, momentum


@dataclasses.dataclass(frozen=True)
class Sgd(Descent):
  """v <- m v + g + wd w, w <- w - lr v (torch.optim.SGD).

  Attributes:
    momentum: m.
    nesterov: w <- w - lr (g + wd w + m v) instead. The rest: see `Descent`.
  """

  momentum: float = 0.9
  nesterov: bool = False

  def check(self, where: str) -> None:
    super().check(where)
    ranges.below_one(self, where, 'momentum')

  def steps(self, terms: Terms) -> tuple[optax.GradientTransformation, ...]:
    return decay.add(terms.decay, terms.decay_factor), momentum(self.momentum, self.nesterov), descend(terms.rates)
