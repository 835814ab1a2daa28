"""Rates for each layer by the norms of its weights and gradients: LARS and LARC."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from sslax.ops import tree
from sslax.run.optim import decay, ranges
from sslax.run.optim.base import Descent, Terms
from sslax.run.optim.transforms import descend, momentum, scheduled


@dataclasses.dataclass(frozen=True)
class Lars(Descent):
  """v <- m v + lr trust (g + wd w), w <- w - v, with trust = trust_coefficient |w| / |g + wd w|, or 1 where either norm is 0.

  SimCLR's lars_optimizer.py, "classic momentum".

  Attributes:
    momentum: m.
    nesterov: w <- w - (m v + lr trust (g + wd w)) instead.
    trust_coefficient: eeta or eta in the official code. The rest: see `Descent`.
  """

  norms: ClassVar[bool] = True

  momentum: float = 0.9
  nesterov: bool = False
  trust_coefficient: float = 0.001

  def check(self, where: str) -> None:
    super().check(where)
    ranges.below_one(self, where, 'momentum')
    ranges.zero_or_more(self, where, 'trust_coefficient')

  def steps(self, terms: Terms) -> tuple[optax.GradientTransformation, ...]:
    trust = optax.masked(optax.scale_by_trust_ratio(trust_coefficient=self.trust_coefficient), terms.adapted)
    # ORDER MATTERS: the trust ratio is that of the decayed gradient, and the rate is inside the momentum.
    add_decay = decay.add(terms.decay, terms.decay_factor)
    return add_decay, trust, descend(terms.rates), momentum(self.momentum, self.nesterov)


@dataclasses.dataclass(frozen=True)
class Larc(Descent):
  """v <- m v + trust (g + wd w), w <- w - lr v, with trust = trust_coefficient |w| / (|g| + wd |w| + eps).

  Where either norm is 0, v <- m v + g (NVIDIA's apex/parallel/LARC.py with clip=False, which SwAV uses, and solo-learn's LARS).

  Attributes:
    momentum: m.
    nesterov: w <- w - lr (trust (g + wd w) + m v) instead.
    trust_coefficient: eeta or eta in the official code.
    eps: see the formula.
    clip_lr: trust <- min(trust / lr, 1), so that lr trust <= lr (apex's clip=True, solo-learn's clip_lr). lr is that of this step
      and of this parameter (`groups`, `constant`), and at lr = 0 trust is 1. The rest: see `Descent`.
  """

  norms: ClassVar[bool] = True

  momentum: float = 0.9
  nesterov: bool = False
  trust_coefficient: float = 0.001
  eps: float = 1e-8
  clip_lr: bool = False

  def check(self, where: str) -> None:
    super().check(where)
    ranges.below_one(self, where, 'momentum')
    ranges.zero_or_more(self, where, 'trust_coefficient', 'eps')

  def steps(self, terms: Terms) -> tuple[optax.GradientTransformation, ...]:
    trust = _larc_trust(terms, self.trust_coefficient, self.eps, self.clip_lr)
    return trust, momentum(self.momentum, self.nesterov), descend(terms.rates)


def _larc_trust(terms, eta, eps, clip):
  """g -> trust (g + wd w); g where |g| or |w| is 0, or where the leaf is not adapted. See `Larc`."""

  def transform(grads, params, step):
    strength = terms.decay(step)

    def adapt(g, w, factor, adapted, rate):
      if not adapted:
        return g
      wd, w_norm, g_norm = strength * factor, tree.l2_norm(w), tree.l2_norm(g)
      trust = eta * w_norm / (g_norm + wd * w_norm + eps)
      if clip:
        trust = jnp.where(trust < rate, trust / rate, 1.0)
      return jnp.where((w_norm > 0) & (g_norm > 0), trust * (g + wd * w), g).astype(g.dtype)

    return jax.tree.map(adapt, grads, params, terms.decay_factor, terms.adapted, terms.rates(step))

  return scheduled(transform)
