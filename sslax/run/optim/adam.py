"""Adam, with weight decay in the gradient or apart from it."""

import dataclasses

import optax

from sslax.run.optim import decay, ranges
from sslax.run.optim.base import Descent, Terms
from sslax.run.optim.transforms import descend


@dataclasses.dataclass(frozen=True)
class AdamW(Descent):
  """w <- w - lr (adam(g) + wd w) (Loshchilov and Hutter 2019; torch.optim.AdamW).

  Attributes:
    b1, b2, eps: of Adam (Kingma and Ba 2015). The rest: see `Descent`.
  """

  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8

  def check(self, where: str) -> None:
    super().check(where)
    _check(self, where)

  def steps(self, terms: Terms) -> tuple[optax.GradientTransformation, ...]:
    adam = optax.scale_by_adam(self.b1, self.b2, self.eps)
    return adam, decay.add(terms.decay, terms.decay_factor), descend(terms.rates)


@dataclasses.dataclass(frozen=True)
class Adam(Descent):
  """w <- w - lr adam(g + wd w) (torch.optim.Adam).

  Attributes:
    b1, b2, eps: of Adam (Kingma and Ba 2015). The rest: see `Descent`.
  """

  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8

  def check(self, where: str) -> None:
    super().check(where)
    _check(self, where)

  def steps(self, terms: Terms) -> tuple[optax.GradientTransformation, ...]:
    adam = optax.scale_by_adam(self.b1, self.b2, self.eps)
    return decay.add(terms.decay, terms.decay_factor), adam, descend(terms.rates)


def _check(optimizer, where):
  ranges.below_one(optimizer, where, 'b1', 'b2')
  ranges.zero_or_more(optimizer, where, 'eps')
