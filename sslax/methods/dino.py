"""DINO. Caron et al. 2021, https://arxiv.org/abs/2104.14294; official code: facebookresearch/dino, main_dino.py."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.inputs.image import Image
from sslax.losses.distillation import dino, update_center
from sslax.losses.spread import assignment_information
from sslax.method import Batch, Features, Output
from sslax.models import branch, net
from sslax.models.joint_embedding import JointEmbedding
from sslax.models.prototypes import Prototypes
from sslax.models.transformer import steady
from sslax.ops.schedules import Ramp, at
from sslax.ops.sinkhorn import sinkhorn
from sslax.ops.tree import ema, scale_gradient
from sslax.ops.views import MultiCrop

PyTree = Any


@dataclasses.dataclass(frozen=True)
class DINO(JointEmbedding):
  """A student predicts, from every crop, the distribution over prototypes that its own average gives to the other large crops.

  The teacher sees the large crops only, without drop path; it starts as a copy, moves after the optimizer, and is what `features`
  uses. Its logits are centred by a running mean of themselves and sharpened by a low temperature: one alone collapses
  (section 5.3). The official code steps the temperature once an epoch; a Ramp moves every step. It also takes the last layer's
  gradient out of the optimizer at first, where here it is 0: the layer is weight-normalised, so decay alone does not change it.
  """

  encoder: nn.Module  # [N, H, W, 3] -> Features, for crops of every size
  head: nn.Module  # [N, D] -> [N, K], the bottleneck
  prototypes: Prototypes  # weight_norm=True
  augment: MultiCrop
  student_temperature: float = 0.1
  teacher_temperature: float | Ramp = 0.04
  momentum: float | Ramp = Ramp(0.996, 1.0)
  center_momentum: float = 0.9
  targets: str = 'center'  # 'sinkhorn' instead of centre and softmax (table 7, row 4); 'none' collapses
  train_prototypes: Ramp = Ramp(0.0, 1.0, 'step', '1 epochs')  # no gradient into the last layer until then
  image: Image = Image()

  def __post_init__(self) -> None:
    if self.augment.large.count < 2:
      raise ValueError(f'the teacher needs two large crops: augment.large.count is {self.augment.large.count}')
    if self.targets not in ('center', 'sinkhorn', 'none'):
      raise ValueError(f"targets={self.targets!r} is none of 'center', 'sinkhorn', 'none'")

  @property
  def modules(self) -> dict[str, nn.Module]:
    return {'encoder': self.encoder, 'head': self.head, 'prototypes': self.prototypes}

  @property
  def teacher_modules(self) -> dict[str, nn.Module]:
    return {**self.modules, 'encoder': steady(self.encoder)}

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    params, stats = branch.init(self.modules, rng, branch.flatten_views(views[0]))
    copy = lambda tree: jax.tree.map(jnp.copy, tree)
    memory = {'stats': stats, 'target': copy(params), 'target_stats': copy(stats)}
    if self.targets == 'center':
      memory['center'] = jnp.zeros(self.prototypes.count)
    return params, memory

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    options: dict[str, Any] = dict(train=True, rng=rng)
    prototypes = scale_gradient(params['prototypes'], at(self.train_prototypes, step))
    s, stats = branch.apply_crops(self.modules, {**params, 'prototypes': prototypes}, memory['stats'], views, **options)
    t, target_stats = branch.apply_crops(self.teacher_modules, memory['target'], memory['target_stats'], views[:1], **options)
    student, teacher = (jnp.moveaxis(out['prototypes'].scores, 1, 0) for out in (s, t))  # [V, B, K], [G, B, K]
    temperature = at(self.teacher_temperature, step)
    memory = {**memory, 'stats': stats, 'target_stats': target_stats}
    center = memory.get('center', jnp.zeros(teacher.shape[-1]))
    if self.targets == 'sinkhorn':  # as logits whose softmax at this temperature is the assignment
      assigned = jax.vmap(lambda scores: sinkhorn(scores, temperature))(teacher)
      teacher = temperature * jnp.log(jnp.maximum(assigned, 1e-30))
    elif self.targets == 'center':
      memory['center'] = update_center(center, teacher, self.center_momentum)  # ORDER MATTERS: the loss takes the old one
    loss = dino(student, teacher, center, self.student_temperature, temperature)
    targets = jax.nn.softmax((teacher[0] - center[None]) / temperature)
    return loss, Output(memory, {'assignment_information': assignment_information(targets)})

  def after(self, params: PyTree, memory: PyTree, step: jax.Array) -> tuple[PyTree, PyTree]:
    return params, {**memory, 'target': ema(memory['target'], params, at(self.momentum, step))}

  def features(self, params: PyTree, memory: PyTree, batch: Batch) -> Features:
    del params
    stats = memory['target_stats']['encoder']
    return net.apply(steady(self.encoder), memory['target']['encoder'], stats, self.normalized(batch), train=False)[0]
