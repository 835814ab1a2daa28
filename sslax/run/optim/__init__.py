"""Optimizers with the conventions of the papers: learning rates that scale with the batch, and rules by parameter path."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sslax.errors import UserError, suggest
from sslax.ops import schedules, tree
from sslax.ops.fsdp import SCANNED

PyTree = Any

NAMES = ('adam', 'adamw', 'larc', 'lars', 'sgd')
SCALINGS = ('linear', 'none', 'sqrt')
SCHEDULES = ('constant', 'cosine', 'multistep')
EXCLUDE = r'(bias|scale\d*)$'  # biases, scales of BatchNorm and LayerNorm (and the logits'), LayerScale

# Paths that layer decay counts, named by sslax/models/vit.py. Anything else, in the encoder or not, is after the last block.
EMBEDDING = re.compile(r'^encoder/(.*/)?(patches/|cls$|cls_position$)')
BLOCK = re.compile(r'^encoder/(.*/)?blocks_(?P<index>\d+)/')


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """An optimizer as a config writes it; `build` makes the optax transformation.

  * lars: v <- m v + lr trust (g + wd w), w <- w - v, with trust = trust_coefficient |w| / |g + wd w|, or 1 where either norm is 0
    (SimCLR's lars_optimizer.py, "classic momentum").
  * larc: v <- m v + trust (g + wd w), w <- w - lr v, with trust = trust_coefficient |w| / (|g| + wd |w| + eps); where either norm
    is 0, v <- m v + g (NVIDIA's apex/parallel/LARC.py with clip=False, which SwAV uses, and solo-learn's LARS).
  * sgd: v <- m v + g + wd w, w <- w - lr v (torch.optim.SGD).
  * adamw: w <- w - lr (adam(g) + wd w) (Loshchilov and Hutter 2019; torch.optim.AdamW).
  * adam: w <- w - lr adam(g + wd w) (torch.optim.Adam).

  LARS keeps the learning rate inside the momentum, SGD and LARC outside. They agree while the rate is constant. When it changes,
  sgd's new rate acts on the whole velocity at once, lars's only on gradients to come: it coasts for some 1 / (1 - m) steps.

  Durations are written as 500 (steps), '500 steps', '10 epochs', '1000000 examples' or '5%' of the run. Rules are regexes that
  `re.search` looks for in parameter paths such as 'encoder/blocks_0/fc1/kernel'.

  Attributes:
    name: lars, larc, sgd, adamw or adam.
    learning_rate: base rate, before `scaling`.
    scaling: 'linear' is learning_rate * batch / reference_batch, 'sqrt' is learning_rate * sqrt(batch), 'none' is learning_rate.
    reference_batch: 256 in the papers; some libraries (lightly's examples) scale by 128.
    schedule: 'cosine', 'constant' or 'multistep', after the warm-up.
    warmup: duration of the linear rise from `warmup_init`; the step after it has the peak rate. (SwAV, DINO and solo-learn draw
      it with both ends inside, so that they are at the peak one step earlier.)
    warmup_init: rate at step 0 of the warm-up, absolute: not scaled with the batch; without effect where there is none.
    end_fraction: cosine's last rate / peak rate.
    milestones: durations at which multistep multiplies the rate by `milestone_factor`.
    milestone_factor: see there.
    per_epoch: the rate after the warm-up changes between epochs only (MoCo's and lightly's scripts).
    constant: parameters whose rate stays at the peak after the warm-up (SimSiam's --fix-pred-lr); '' for none.
    momentum: of lars, larc and sgd.
    nesterov: of lars, larc and sgd.
    b1: of adam and adamw.
    b2: of adam and adamw.
    eps: of adam, adamw and larc.
    trust_coefficient: of lars and larc; eeta or eta in the official code.
    clip_lr: of larc: trust <- min(trust / lr, 1), so that lr trust <= lr (apex's clip=True, solo-learn's clip_lr). lr is that of
      this step and of this parameter (`groups`, `constant`), and at lr = 0 trust is 1.
    weight_decay: strength; all optimizers decay with the strength at this step, adamw also times the rate.
    weight_decay_end: >= 0: a cosine from weight_decay to this over the run (DINO: 0.04 to 0.4); negative: constant.
    exclude: parameters without weight decay and without the adaptation of LARS and LARC; '' for none (SwAV).
    groups: (regex, rate multiplier, weight decay multiplier); the first match wins and every parameter needs one; () is 1 for all
    layer_decay: rate multiplier d^(depth + 1 - layer) for the encoder's layers, MAE's lr_decay.py; 1 is off.
    clip_norm: gradients above this global norm are scaled down to it; 0 is off.
    clip_each: after it, each parameter's gradient is multiplied by min(1, clip_each / (its norm + 1e-6)) (DINO's clip_gradients;
      each layer of scanned blocks is a parameter); 0 is off.
    freeze: parameters that do not move and have no optimizer state; '' for none.
  """

  name: str = 'lars'
  learning_rate: float = 0.3
  scaling: str = 'linear'
  reference_batch: int = 256
  schedule: str = 'cosine'
  warmup: str = '10 epochs'
  warmup_init: float = 0.0
  end_fraction: float = 0.0
  milestones: tuple = ('60%', '80%')
  milestone_factor: float = 0.1
  per_epoch: bool = False
  constant: str = ''
  momentum: float = 0.9
  nesterov: bool = False
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  trust_coefficient: float = 0.001
  clip_lr: bool = False
  weight_decay: float = 1e-6
  weight_decay_end: float = -1.0
  exclude: str = EXCLUDE
  groups: tuple = ()
  layer_decay: float = 1.0
  clip_norm: float = 0.0
  clip_each: float = 0.0
  freeze: str = ''

  def build(self, facts, params_shape, groups=None, where='config.optim'):  # TEMPORARY
    return self._build(
      batch_size=facts.batch_size,
      total_steps=facts.total_steps,
      steps_per_epoch=facts.steps_per_epoch,
      params_shape=params_shape,
      where=where,
    )

  def _build(
    self, *, batch_size: int, total_steps: int, steps_per_epoch: float | None, params_shape: PyTree, where: str = 'config.optim'
  ) -> tuple[optax.GradientTransformation, Callable]:
    """(the transformation, the learning rate as a function of the step).

    Args:
      batch_size: global.
      total_steps: of the run.
      steps_per_epoch: None where there are no epochs.
      params_shape: the parameters, or `jax.eval_shape` of them.
      where: the key of this node, for messages.

    Raises:
      UserError: a value is impossible, or a rule does not fit the parameters.
    """
    self._validate(where)
    rate, held_rate = self._rates(batch_size, total_steps, steps_per_epoch, where)
    decay = schedules.constant(self.weight_decay)
    if self.weight_decay_end >= 0:
      decay = schedules.cosine(self.weight_decay, self.weight_decay_end, total_steps)

    included = _matches_not(self.exclude, params_shape, f'{where}.exclude', may_be_absent=self.exclude == EXCLUDE)
    rate_factor, decay_factor = self._factors(params_shape, where)
    decay_factor = jax.tree.map(lambda factor, include: factor if include else 0.0, decay_factor, included)
    moving = _matches_not(self.constant, params_shape, f'{where}.constant')
    if self.freeze:  # the transformation below sees a tree without the frozen leaves, so what it closes over must lack them too
      trained = _matches_not(self.freeze, params_shape, f'{where}.freeze')
      included, rate_factor, decay_factor, moving = (
        jax.tree.map(lambda train, leaf: leaf if train else optax.MaskedNode(), trained, t)
        for t in (included, rate_factor, decay_factor, moving)
      )

    def rates(step):
      """The tree of learning rates."""
      now, held = rate(step), held_rate(step)
      return jax.tree.map(lambda factor, moves: factor * (now if moves else held), rate_factor, moving)

    clip = optax.clip_by_global_norm(self.clip_norm) if self.clip_norm else optax.identity()
    clip_each = _clip_each(self.clip_each) if self.clip_each else optax.identity()
    add_decay, descend = _add_decay(decay, decay_factor), _descend(rates)
    momentum = optax.trace(self.momentum, self.nesterov) if self.momentum else optax.identity()
    scanned = any(SCANNED.search(path) for path in tree.paths(rate_factor))  # frozen parameters are not in there
    if self.name in ('lars', 'larc') and scanned:
      raise UserError(
        f'{where}.name={self.name} needs a norm for each layer, and scanned blocks are one array: build the encoder without scan'
      )
    # ORDER MATTERS: the trust ratio of lars is that of the decayed gradient, and its rate is inside the momentum.
    if self.name == 'lars':
      trust = optax.masked(optax.scale_by_trust_ratio(trust_coefficient=self.trust_coefficient), included)
      steps = (add_decay, trust, descend, momentum)
    elif self.name == 'larc':
      trust = _larc_trust(decay, decay_factor, included, rates, self.trust_coefficient, self.eps, self.clip_lr)
      steps = (trust, momentum, descend)
    elif self.name == 'sgd':
      steps = (add_decay, momentum, descend)
    else:
      adam = optax.scale_by_adam(self.b1, self.b2, self.eps)
      steps = (adam, add_decay, descend) if self.name == 'adamw' else (add_decay, adam, descend)
    tx = optax.chain(clip, clip_each, *steps)
    if self.freeze:
      tx = optax.selective_transform(tx, freeze_mask=jax.tree.map(lambda train: not train, trained))
    return tx, rate

  def _validate(self, where):
    for key, known in (('name', NAMES), ('scaling', SCALINGS), ('schedule', SCHEDULES)):
      if getattr(self, key) not in known:
        raise UserError(f'{where}.{key}={getattr(self, key)!r} is not known.{suggest(getattr(self, key), known)}')
    if self.clip_lr and self.name != 'larc':
      raise UserError(f'{where}.clip_lr=True is of name=larc, which the LARS of solo-learn is, not of name={self.name}')
    zero_or_more = ('learning_rate', 'warmup_init', 'end_fraction', 'milestone_factor', 'trust_coefficient', 'weight_decay')
    for key in (*zero_or_more, 'clip_norm', 'clip_each', 'eps'):
      if not (0 <= getattr(self, key) < math.inf):
        raise UserError(f'{where}.{key}={getattr(self, key)} must be zero or more')
    for key in ('reference_batch', 'layer_decay'):
      if not (0 < getattr(self, key) < math.inf):
        raise UserError(f'{where}.{key}={getattr(self, key)} must be more than zero')
    for key in ('momentum', 'b1', 'b2'):
      if not (0 <= getattr(self, key) < 1):
        raise UserError(f'{where}.{key}={getattr(self, key)} must be in [0, 1)')
    if not math.isfinite(self.weight_decay_end):
      raise UserError(f'{where}.weight_decay_end={self.weight_decay_end} must be finite; negative is constant')

  def _rates(self, batch_size, total_steps, steps_per_epoch, where):
    """The learning rate as a function of the step, and that of the parameters in `constant`."""
    peak = self.learning_rate * {'linear': batch_size / self.reference_batch, 'sqrt': batch_size**0.5, 'none': 1.0}[self.scaling]
    units = {'steps_per_epoch': steps_per_epoch, 'batch_size': batch_size, 'total_steps': total_steps}
    warmup = schedules.duration(self.warmup, **units, where=f'{where}.warmup')
    if warmup >= total_steps:
      raise UserError(
        f'{where}.warmup={self.warmup!r} is {warmup} steps and the run {total_steps}: warm up less (0 is none) or train longer'
      )
    if self.schedule == 'cosine':
      half = schedules.cosine(peak, peak * self.end_fraction, total_steps - warmup)
      after = lambda step: half(step - warmup)
    elif self.schedule == 'multistep':
      boundaries = [schedules.duration(m, **units, where=f'{where}.milestones[{i}]') for i, m in enumerate(self.milestones)]
      after = schedules.multistep(peak, tuple(boundaries), self.milestone_factor)
    else:
      after = schedules.constant(peak)
    if self.per_epoch:
      if not steps_per_epoch:
        raise UserError(f'{where}.per_epoch=True, and this run has no epochs')
      epoch, every_step = max(1, round(steps_per_epoch)), after
      after = lambda step: every_step(step // epoch * epoch)
    return tuple(schedules.warmup(f, peak, warmup, self.warmup_init) for f in (after, schedules.constant(peak)))

  def _factors(self, params_shape, where):
    """(rate, weight decay) multipliers of each parameter."""
    for i, group in enumerate(self.groups):
      if len(group) != 3 or not isinstance(group[0], str) or not all(isinstance(x, (int, float)) and x >= 0 for x in group[1:]):
        raise UserError(
          f'{where}.groups[{i}]={group!r} is not (regex, rate multiplier, weight decay multiplier), both zero or more'
        )
    groups = self.groups or (('', 1.0, 1.0),)
    rate = tree.assign(params_shape, tuple((g[0], g[1]) for g in groups), f'{where}.groups')
    decay = tree.assign(params_shape, tuple((g[0], g[2]) for g in groups), f'{where}.groups')
    if self.layer_decay != 1:
      rate = jax.tree.map(lambda a, b: a * b, rate, layer_factors(params_shape, self.layer_decay, f'{where}.layer_decay'))
    return rate, decay


def layer_factors(params_shape: PyTree, layer_decay: float, where: str = 'layer_decay') -> PyTree:
  """d^(depth + 1 - layer) for each parameter: d^(depth + 1) for the embeddings, d for the last block, 1 for what follows it.

  MAE's util/lr_decay.py (after BEiT). Embeddings are layer 0, block i is layer i + 1, the rest is layer depth + 1.

  Args:
    params_shape: {'encoder': ..., ...} with blocks at 'blocks_<i>' or stacked [depth, ...] under 'blocks'.
    layer_decay: d, in (0, 1] as a rule.
    where: for messages.

  Returns:
    A tree of floats; of [depth, 1, ...] float32 arrays where blocks are stacked.

  Raises:
    UserError: the encoder has no blocks.
  """
  leaves = dict(zip(tree.paths(params_shape), jax.tree.leaves(params_shape), strict=True))
  indices = [int(m['index']) for m in map(BLOCK.search, leaves) if m]
  stacked = [leaf.shape[0] for path, leaf in leaves.items() if path.startswith('encoder/') and SCANNED.search(path)]
  if not indices and not stacked:
    raise UserError(
      f"{where}: layer decay is for encoders with blocks, and no path here is like 'encoder/blocks_0/...' or 'encoder/blocks/...'"
    )
  depth = max([i + 1 for i in indices] + stacked)

  def factor(path, leaf):
    if path.startswith('encoder/') and SCANNED.search(path):
      return (layer_decay ** np.arange(depth, 0, -1)).astype(np.float32).reshape(-1, *[1] * (len(leaf.shape) - 1))
    block = BLOCK.search(path)
    layer = int(block['index']) + 1 if block else 0 if EMBEDDING.search(path) else depth + 1
    return layer_decay ** (depth + 1 - layer)

  return tree.map_with_path(factor, params_shape)


class CountState(NamedTuple):
  """State of a transformation with schedules."""

  count: jax.Array  # [] int32: updates done


def _scheduled(transform):
  """transform(updates, params, step) -> updates, with the step counted."""

  def init(params):
    del params
    return CountState(jnp.zeros((), jnp.int32))

  def update(updates, state, params):
    return transform(updates, params, state.count), CountState(optax.safe_increment(state.count))

  return optax.GradientTransformation(init, update)


def _add_decay(decay, factor):
  """g -> g + decay(step) factor w. optax's takes a mask where we need a number for each leaf."""

  def transform(grads, params, step):
    strength = decay(step)
    return jax.tree.map(lambda g, w, f: g + strength * f * w if f else g, grads, params, factor)

  return _scheduled(transform)


def _descend(rates):
  """u -> -rate(step) u, with a rate for each leaf."""
  return _scheduled(lambda updates, _, step: jax.tree.map(lambda u, r: (-r * u).astype(u.dtype), updates, rates(step)))


def _larc_trust(decay, decay_factor, included, rates, eta, eps, clip):
  """g -> trust (g + wd w); g where |g| or |w| is 0, or where the leaf is not included. See `Optimizer`."""

  def transform(grads, params, step):
    strength = decay(step)

    def adapt(g, w, factor, include, rate):
      if not include:
        return g
      wd, w_norm, g_norm = strength * factor, tree.l2_norm(w), tree.l2_norm(g)
      trust = eta * w_norm / (g_norm + wd * w_norm + eps)
      if clip:
        trust = jnp.where(trust < rate, trust / rate, 1.0)
      return jnp.where((w_norm > 0) & (g_norm > 0), trust * (g + wd * w), g).astype(g.dtype)

    return jax.tree.map(adapt, grads, params, decay_factor, included, rates(step))

  return _scheduled(transform)


def _clip_each(limit):
  """g -> g min(1, limit / (|g| + 1e-6)), leaf by leaf, and layer by layer where blocks are scanned."""

  def clip(path, g):
    axes = tuple(range(int(bool(SCANNED.search(path))), g.ndim))
    norm = jnp.sqrt(jnp.sum(jnp.square(g.astype(jnp.float32)), axes, keepdims=True))
    return (g * jnp.minimum(1.0, limit / (norm + 1e-6))).astype(g.dtype)

  return optax.stateless(lambda grads, _: tree.map_with_path(clip, grads))


def _matches_not(regex, params_shape, where, may_be_absent=False):
  """The tree of booleans: False where `regex` ('' for none) finds something in the path."""
  if not regex or may_be_absent and not any(re.search(regex, path) for path in tree.paths(params_shape)):
    return jax.tree.map(lambda _: True, params_shape)
  return tree.assign(params_shape, ((regex, False), ('', True)), where)
