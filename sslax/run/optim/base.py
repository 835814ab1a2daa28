"""What the optimizers have in common: the fields that a config writes, and the chain that they become."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import optax

from sslax.errors import UserError, suggest
from sslax.method import Facts
from sslax.ops import schedules
from sslax.ops.schedules import Ramp
from sslax.run.optim import clipping, decay, ranges, rules
from sslax.run.optim.schedule import Cosine, Schedule

PyTree = Any

SCALINGS = ('linear', 'none', 'sqrt')


class Optimizer(abc.ABC):
  """What config.optim makes: a frozen dataclass."""

  @abc.abstractmethod
  def build(
    self, facts: Facts, params_shape: PyTree, groups: PyTree, where: str = 'config.optim'
  ) -> tuple[optax.GradientTransformation, schedules.Schedule]:
    """(the transformation, the learning rate as a function of the step).

    Args:
      facts: of the run.
      params_shape: the parameters, or `jax.eval_shape` of them.
      groups: what the networks say of them, see `models.net.groups`; may be of more parameters than these.
      where: the key of this node, for messages.

    Raises:
      UserError: a value is impossible, or a rule does not fit the parameters.
    """


class Terms(NamedTuple):
  """What the formulas are written in; trees have `optax.MaskedNode` for parameters that are frozen."""

  adapted: PyTree  # bool: weight decay, and the adaptation of LARS and LARC
  decay: schedules.Schedule  # step -> strength of the weight decay
  decay_factor: PyTree  # float: multiplies it; 0 where not `adapted`
  rates: Callable[[Any], PyTree]  # step -> the learning rate of each parameter


@dataclasses.dataclass(frozen=True)
class Descent(Optimizer):
  """Descent along the gradient: a subclass says how, in `steps`, and has fields of its own.

  Attributes:
    learning_rate: base rate, before `scaling`.
    scaling: 'linear' is learning_rate * batch / reference_batch, 'sqrt' is learning_rate * sqrt(batch), 'none' is learning_rate.
    reference_batch: 256 in the papers; some libraries (lightly's examples) scale by 128.
    warmup: duration of the linear rise from `warmup_init`; the step after it has the peak rate. (SwAV, DINO and solo-learn draw
      it with both ends inside, so that they are at the peak one step earlier.)
    warmup_init: rate at step 0 of the warm-up, absolute: not scaled with the batch; without effect where there is none.
    schedule: of the rate after the warm-up: `Cosine`, `Constant` or `Multistep`.
    weight_decay: strength, or a `Ramp` (DINO: 0.04 to 0.4); all optimizers decay with the strength at this step, AdamW also times
      the rate.
    exclude: parameters without weight decay and without the adaptation of LARS and LARC: 'auto' is what the networks say (biases,
      scales of norms), '' none (SwAV), otherwise a regex; EXCLUDE is one for biases and scales, to add to.
    layer_decay: rate multiplier d^(depth + 1 - layer) for the encoder's layers, MAE's lr_decay.py; 1 is off.
    groups: (regex, rate multiplier, weight decay multiplier); the first match wins and every parameter needs one; () is 1 for all
    constant: parameters whose rate stays at the peak after the warm-up (SimSiam's --fix-pred-lr); '' for none.
    clip_norm: gradients above this global norm are scaled down to it; 0 is off.
    clip_each: after it, each parameter's gradient is multiplied by min(1, clip_each / (its norm + 1e-6)) (DINO's clip_gradients;
      each layer of scanned blocks is a parameter); 0 is off.
    freeze: parameters that do not move and have no optimizer state; '' for none.
  """

  norms: ClassVar[bool] = False  # the formula has a norm for each layer, which stacked ones do not offer

  learning_rate: float = 0.3
  scaling: str = 'linear'
  reference_batch: int = 256
  warmup: str = '10 epochs'
  warmup_init: float = 0.0
  schedule: Schedule = Cosine()
  weight_decay: float | Ramp = 1e-6
  exclude: str = 'auto'
  layer_decay: float = 1.0
  groups: tuple = ()
  constant: str = ''
  clip_norm: float = 0.0
  clip_each: float = 0.0
  freeze: str = ''

  @abc.abstractmethod
  def steps(self, terms: Terms) -> tuple[optax.GradientTransformation, ...]:
    """From the clipped gradient to the update."""

  def check(self, where: str) -> None:
    """Raises UserError where a field is out of its range."""
    if self.scaling not in SCALINGS:
      raise UserError(f'{where}.scaling={self.scaling!r} is not known.{suggest(self.scaling, SCALINGS)}')
    if not isinstance(self.schedule, Schedule):
      raise UserError(f'{where}.schedule={self.schedule!r} is no schedule: write spec(Cosine), spec(Constant) or spec(Multistep)')
    self.schedule.check(f'{where}.schedule')
    ranges.zero_or_more(self, where, 'learning_rate', 'warmup_init', 'clip_norm', 'clip_each')
    ranges.positive(self, where, 'reference_batch', 'layer_decay')
    if isinstance(self.weight_decay, Ramp):
      ranges.zero_or_more(self.weight_decay, f'{where}.weight_decay', 'start', 'end')
    else:
      ranges.zero_or_more(self, where, 'weight_decay')

  def build(
    self, facts: Facts, params_shape: PyTree, groups: PyTree, where: str = 'config.optim'
  ) -> tuple[optax.GradientTransformation, schedules.Schedule]:
    self.check(where)
    rate, held_rate = self._rates(facts, where)
    strength = decay.strength(self.weight_decay, facts, f'{where}.weight_decay')
    trained = rules.matches_not(self.freeze, params_shape, f'{where}.freeze')
    leaves = rules.leaves(
      params_shape,
      groups,
      exclude=self.exclude,
      multipliers=self.groups,
      layer_decay=self.layer_decay,
      constant=self.constant,
      where=where,
    )
    if self.freeze:  # the transformation below sees a tree without the frozen leaves, so what it closes over must lack them too
      leaves = rules.Leaves(*(rules.only(trained, t) for t in leaves))
    if self.norms and any(jax.tree.leaves(leaves.stacked)):
      raise UserError(
        f'{where}: {type(self).__name__} needs a norm for each layer, and scanned blocks are one array: build the network '
        'without scan'
      )

    def rates(step):
      """The tree of learning rates."""
      now, held = rate(step), held_rate(step)
      return jax.tree.map(lambda factor, moves: factor * (now if moves else held), leaves.rate, leaves.moving)

    tx = optax.chain(
      clipping.clip_norm(self.clip_norm),
      clipping.clip_each(self.clip_each, leaves.stacked),
      *self.steps(Terms(leaves.adapted, strength, leaves.decay, rates)),
    )
    if self.freeze:
      tx = optax.selective_transform(tx, freeze_mask=jax.tree.map(lambda train: not train, trained))
    return tx, rate

  def _rates(self, facts, where):
    """The learning rate as a function of the step, and that of the parameters in `constant`."""
    batch, total = facts.batch_size, facts.total_steps
    peak = self.learning_rate * {'linear': batch / self.reference_batch, 'sqrt': batch**0.5, 'none': 1.0}[self.scaling]
    warmup = schedules.in_steps(self.warmup, facts, f'{where}.warmup')
    if warmup >= total:
      raise UserError(
        f'{where}.warmup={self.warmup!r} is {warmup} steps and the run {total}: warm up less (0 is none) or train longer'
      )
    after = self.schedule.after(peak, warmup, facts, f'{where}.schedule')
    return tuple(schedules.warmup(f, peak, warmup, self.warmup_init) for f in (after, schedules.constant(peak)))
