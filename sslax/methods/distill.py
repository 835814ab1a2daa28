"""Distillation of a classifier into a student on unlabelled images.

The third step of SimCLR v2. Chen et al. 2020, https://arxiv.org/abs/2006.10029, section 2.3.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.errors import UserError
from sslax.inputs.image import Image
from sslax.losses.distillation import distill
from sslax.method import Batch, Features, Output
from sslax.models import branch
from sslax.models.joint_embedding import JointEmbedding
from sslax.models.mlp import MLP, Identity
from sslax.ops.views import RandomViews

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Distill(JointEmbedding):
  """The student's softmax follows that of a frozen teacher on the same view: a crop and a flip (eq. 2).

  The teacher is a `Supervised` run that is grafted into the memory and stays as it is, in evaluation mode:

    config.graft = ('memory/teacher=runs/teacher:params', 'memory/teacher_stats=runs/teacher:memory/stats')

  `alpha` < 1 adds (1 - alpha) cross-entropy with the labels (eq. 3), the mean over rows that have one (label >= 0).
  """

  num_views: ClassVar[int] = 1

  encoder: nn.Module  # of the student: [N, H, W, 3] -> Features
  classifier: MLP  # -> [N, C] logits
  teacher_encoder: nn.Module
  teacher_classifier: MLP
  augment: RandomViews  # one view of each image; the teacher sees it too
  neck: nn.Module = Identity()  # of the student, between encoder and classifier
  teacher_neck: nn.Module = Identity()
  temperature: float = 1.0  # 0.1 where the student is as large as the teacher (self-distillation)
  alpha: float = 1.0
  image: Image = Image()

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.temperature <= 0:
      raise ValueError(f'temperature must be positive, not {self.temperature}')
    if not 0 < self.alpha <= 1:
      raise ValueError(f'alpha must be in (0, 1], not {self.alpha}')
    if self.classifier.num_features != self.teacher_classifier.num_features:
      raise ValueError(
        f'the student has {self.classifier.num_features} classes and the teacher {self.teacher_classifier.num_features}'
      )

  @property
  def uses_labels(self) -> bool:
    return self.alpha < 1

  @property
  def modules(self) -> dict[str, nn.Module]:
    return _modules(self.encoder, self.neck, self.classifier)

  @property
  def teacher_modules(self) -> dict[str, nn.Module]:
    return _modules(self.teacher_encoder, self.teacher_neck, self.teacher_classifier)

  def grafts(self) -> tuple[str, ...]:
    """A teacher at random initialisation teaches nothing."""
    return ('memory/teacher', 'memory/teacher_stats')

  def views(self, rng: jax.Array, batch: Batch) -> PyTree:
    """{'image': [B, 1, S, S, 3]}, and 'label': [B] where labels are used."""
    views = {'image': self.augment(rng, batch)}
    if self.uses_labels and 'label' not in batch:
      raise UserError(f'config.method.alpha={self.alpha} < 1 needs labels, and config.data.train has none')
    return {**views, 'label': batch['label']} if self.uses_labels else views

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    student_rng, teacher_rng = jax.random.split(rng)
    x = branch.flatten_views(views['image'])
    params, stats = branch.init(self.modules, student_rng, x)
    teacher, teacher_stats = branch.init(self.teacher_modules, teacher_rng, x)
    return params, {'stats': stats, 'teacher': teacher, 'teacher_stats': teacher_stats}

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    del step
    x = branch.flatten_views(views['image'])
    out, stats = branch.apply(self.modules, params, memory['stats'], x, train=True, rng=rng)
    target, _ = branch.apply(self.teacher_modules, memory['teacher'], memory['teacher_stats'], x, train=False)
    s, t = out['classifier'], target['classifier']
    loss = self.alpha * distill(s, t, self.temperature)
    if self.uses_labels:
      y = jax.nn.one_hot(views['label'], self.classifier.num_features)  # 0 for rows without a label
      loss -= (1 - self.alpha) * jnp.sum(y * jax.nn.log_softmax(s)) / jnp.maximum(y.sum(), 1.0)
    metrics = {'agreement': jnp.mean(s.argmax(1) == t.argmax(1))}
    return loss, Output({**memory, 'stats': stats}, metrics)

  def features(self, params: PyTree, memory: PyTree, batch: Batch) -> Features:
    out, _ = branch.apply(self.modules, params, memory['stats'], self.normalized(batch), train=False)
    return dataclasses.replace(out['encoder'], logits=out['classifier'])


def _modules(encoder, neck, classifier):
  return {'encoder': encoder, **({} if isinstance(neck, Identity) else {'neck': neck}), 'classifier': classifier}
