"""Distillation of a classifier into a student on unlabelled images.

The third step of SimCLR v2. Chen et al. 2020, https://arxiv.org/abs/2006.10029, section 2.3.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.errors import UserError
from sslax.losses.distillation import distill
from sslax.method import Crop, Method, Output
from sslax.models import branch
from sslax.models.mlp import MLP, Identity
from sslax.ops.views import RandomViews


@dataclasses.dataclass(frozen=True)
class Distill(Method):
  """The student's softmax follows that of a frozen teacher on the same view: a crop and a flip (eq. 2).

  The teacher is a `Supervised` run that is grafted into the memory and stays as it is, in evaluation mode:

    config.graft = ('memory/teacher=runs/teacher:params', 'memory/teacher_stats=runs/teacher:memory/stats')

  `alpha` < 1 adds (1 - alpha) cross-entropy with the labels (eq. 3), the mean over rows that have one (label >= 0).
  """

  encoder: nn.Module  # of the student: [N, H, W, 3] -> {'pooled': [N, D]}
  classifier: MLP  # -> [N, C] logits
  teacher_encoder: nn.Module
  teacher_classifier: MLP
  augment: RandomViews  # one view of each image; the teacher sees it too
  neck: nn.Module = Identity()  # of the student, between encoder and classifier
  teacher_neck: nn.Module = Identity()
  temperature: float = 1.0  # 0.1 where the student is as large as the teacher (self-distillation)
  alpha: float = 1.0
  microbatches: int = 1  # of the encoders; see net.apply

  def __post_init__(self):
    if self.augment.count != 1:
      raise ValueError(f'student and teacher see one view of each image: augment.count must be 1, not {self.augment.count}')
    if self.temperature <= 0:
      raise ValueError(f'temperature must be positive, not {self.temperature}')
    if not 0 < self.alpha <= 1:
      raise ValueError(f'alpha must be in (0, 1], not {self.alpha}')
    if self.classifier.num_features != self.teacher_classifier.num_features:
      raise ValueError(
        f'the student has {self.classifier.num_features} classes and the teacher {self.teacher_classifier.num_features}'
      )

  @property
  def uses_labels(self):
    return self.alpha < 1

  @property
  def num_classes(self) -> int:
    return self.classifier.num_features

  @property
  def modules(self):
    return _modules(self.encoder, self.neck, self.classifier)

  @property
  def teacher_modules(self):
    return _modules(self.teacher_encoder, self.teacher_neck, self.teacher_classifier)

  def grafts(self) -> tuple[str, ...]:
    """A teacher at random initialisation teaches nothing."""
    return ('memory/teacher', 'memory/teacher_stats')

  def crops(self) -> tuple[Crop, ...]:
    return self.augment.crops()

  def views(self, rng, batch):
    """{'image': [B, 1, S, S, 3]}, and 'label': [B] where labels are used."""
    views = {'image': self.augment(rng, batch)}
    if self.uses_labels and 'label' not in batch:
      raise UserError(f'config.method.alpha={self.alpha} < 1 needs labels, and config.data.train has none')
    return {**views, 'label': batch['label']} if self.uses_labels else views

  def init(self, rng, views):
    student_rng, teacher_rng = jax.random.split(rng)
    x = branch.rows(views['image'])
    params, stats = branch.init(self.modules, student_rng, x)
    teacher, teacher_stats = branch.init(self.teacher_modules, teacher_rng, x)
    return params, {'stats': stats, 'teacher': teacher, 'teacher_stats': teacher_stats}

  def loss(self, params, memory, views, rng, step):
    del step
    x, n = branch.rows(views['image']), self.microbatches
    out, stats = branch.apply(self.modules, params, memory['stats'], x, train=True, rng=rng, microbatches=n)
    target, _ = branch.apply(self.teacher_modules, memory['teacher'], memory['teacher_stats'], x, train=False, microbatches=n)
    s, t = out['classifier'], target['classifier']
    loss = self.alpha * distill(s, t, self.temperature)
    if self.uses_labels:
      y = jax.nn.one_hot(views['label'], self.num_classes)  # 0 for rows without a label
      loss -= (1 - self.alpha) * jnp.sum(y * jax.nn.log_softmax(s)) / jnp.maximum(y.sum(), 1.0)
    metrics = {'agreement': jnp.mean(s.argmax(1) == t.argmax(1))}
    return loss, Output({**memory, 'stats': stats}, metrics)

  def features(self, params, memory, batch):
    out, _ = branch.apply(self.modules, params, memory['stats'], self.augment.normalize(batch['image']), train=False)
    return {**out['encoder'], 'logits': out['classifier']}


def _modules(encoder, neck, classifier):
  return {'encoder': encoder, **({} if isinstance(neck, Identity) else {'neck': neck}), 'classifier': classifier}
