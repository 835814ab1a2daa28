import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods.battery import SEED, Battery, Trainer, tiny_batch

from sslax.errors import UserError
from sslax.methods.distill import Distill
from sslax.models import branch
from sslax.models.mlp import MLP
from sslax.models.resnet import ResNet
from sslax.models.vit import ViT
from sslax.ops.views import RandomViews


def tiny(**changes):
  fields = dict(
    encoder=ResNet(depth=18, stem='cifar', stages=(1, 1), base=4, zero_init_residual=False),
    neck=MLP(features=(8,), final_activation=True),
    classifier=MLP(features=(4,)),
    teacher_encoder=ResNet(depth=18, stem='cifar', stages=(1, 1), base=8, zero_init_residual=False),
    teacher_neck=MLP(features=(12,), final_bias=False, final_norm='bn', final_activation=True),
    teacher_classifier=MLP(features=(4,), kernel_init='normal_1'),  # logits that differ
    augment=RandomViews(count=1, size=16, area=(0.7, 1.0), jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0),
  )
  return Distill(**{**fields, **changes})


def softmax(x):
  e = np.exp(x - x.max(1, keepdims=True))
  return e / e.sum(1, keepdims=True)


class TestDistill(Battery):
  frozen = ('teacher', 'teacher_stats')

  def make(self):
    return tiny()

  def make_without_batchnorm(self):
    vit = ViT(width=16, depth=1, heads=2, patch=8)
    fields = dict(teacher_neck=MLP(features=(12,), final_activation=True))
    return tiny(encoder=vit, teacher_encoder=vit, **fields)

  @pytest.mark.slow
  def test_student_learns_what_the_teacher_says(self):
    trainer = Trainer(tiny())
    state, history = trainer.run(60)
    assert np.mean([m['agreement'] for m in history[-5:]]) > 0.9 and history[-1]['loss'] < history[0]['loss']

  @pytest.mark.slow
  def test_unlike_the_student_the_teacher_is_in_evaluation_mode(self):
    """The loss is eq. 2 with the logits of the teacher's running statistics and those of the student's batch, in float64."""
    method = tiny(temperature=0.5)
    trainer = Trainer(method)
    state = trainer.init(trainer.batch)
    memory = dict(state.memory, teacher_stats=jax.tree.map(lambda s: s * 1.5 + 0.1, state.memory['teacher_stats']))
    views = jax.jit(method.views)(jax.random.key(SEED), trainer.batch)
    x = branch.flatten_views(views['image'])
    s = branch.apply(method.modules, state.params, memory['stats'], x, train=True)[0]['classifier']
    t = branch.apply(method.teacher_modules, memory['teacher'], memory['teacher_stats'], x, train=False)[0]['classifier']
    s, t = np.asarray(s, np.float64) / 0.5, np.asarray(t, np.float64) / 0.5
    expected = -np.mean(np.sum(softmax(t) * np.log(softmax(s)), 1))
    loss, out = jax.jit(method.loss)(state.params, memory, views, jax.random.key(0), jnp.int32(0))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(out.metrics['agreement'], np.mean(s.argmax(1) == t.argmax(1)), rtol=1e-6)


@pytest.mark.slow
def test_labels_have_their_share():
  """alpha distillation + (1 - alpha) cross-entropy, the latter over the rows that have a label."""
  half = tiny(alpha=0.25)
  batch = tiny_batch()
  batch['label'][:4] = -1
  trainer = Trainer(half, batch=batch)
  state = trainer.init(trainer.batch)
  views = jax.jit(half.views)(jax.random.key(SEED), trainer.batch)
  of = lambda method: float(jax.jit(method.loss)(state.params, state.memory, views, jax.random.key(0), jnp.int32(0))[0])
  s = branch.apply(half.modules, state.params, state.memory['stats'], branch.flatten_views(views['image']), train=True)[0][
    'classifier'
  ]
  log_p = np.log(softmax(np.asarray(s, np.float64)))
  cross_entropy = -np.mean([log_p[i, batch['label'][i]] for i in range(4, 16)])
  whole = of(dataclasses.replace(half, alpha=1.0))
  np.testing.assert_allclose(of(half), 0.25 * whole + 0.75 * cross_entropy, rtol=1e-5)


def test_a_random_teacher_is_refused():
  assert tiny().grafts() == ('memory/teacher', 'memory/teacher_stats')
  assert (tiny().uses_labels, tiny(alpha=0.5).uses_labels) == (False, True)


@pytest.mark.parametrize(
  'changes, word',
  [
    ({'augment': RandomViews(count=2, size=16)}, 'count'),
    ({'temperature': 0.0}, 'temperature'),
    ({'alpha': 0.0}, 'alpha'),
    ({'classifier': MLP(features=(5,))}, '5 classes and the teacher 4'),
  ],
)
def test_impossible_values_are_refused(changes, word):
  with pytest.raises(ValueError, match=word):
    tiny(**changes)


@pytest.mark.slow
def test_labels_that_are_not_there():
  image = {'image': tiny_batch()['image']}
  assert set(jax.eval_shape(tiny().views, jax.random.key(0), image)) == {'image'}
  with pytest.raises(UserError, match='alpha'):
    tiny(alpha=0.5).views(jax.random.key(0), image)
