import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods.battery import SEED, Battery, ShortBattery, Trainer, still, tiny_batch

from sslax.errors import UserError
from sslax.methods.supervised import Supervised
from sslax.models import branch
from sslax.models.mlp import MLP
from sslax.models.resnet import ResNet
from sslax.models.vit import ViT
from sslax.ops.mix import mix
from sslax.ops.views import RandomViews

AUGMENT = RandomViews(count=1, size=16, area=(0.7, 1.0), jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0)


def tiny(**changes):
  fields = dict(
    encoder=ResNet(depth=18, stem='cifar', stages=(1, 1), base=8, zero_init_residual=False),
    neck=MLP(features=(12,), final_bias=False, final_norm='bn', final_activation=True),
    classifier=MLP(features=(4,)),
    augment=AUGMENT,
  )
  return Supervised(**{**fields, **changes})


@functools.partial(jax.jit, static_argnums=0)
def loss_of(method, params, memory, views, rng):
  loss, out = method.loss(params, memory, views, rng, jnp.int32(0))
  return loss, out.metrics


def state_and_views(method, batch=None):
  """(params, memory, views) at the start."""
  trainer = Trainer(method, batch=batch)
  state = trainer.init(trainer.batch)
  return state.params, state.memory, jax.jit(method.views)(jax.random.key(SEED), trainer.batch)


class TestSupervised(Battery):
  def make(self):
    return tiny()

  def make_without_batchnorm(self):
    encoder = ViT(width=16, depth=1, heads=2, patch=8)
    return tiny(encoder=encoder, neck=MLP(features=(12,), final_activation=True))

  @pytest.mark.slow
  def test_learns(self):
    method = tiny()
    trainer = Trainer(method)
    state, history = trainer.run(60)
    assert abs(history[0]['loss'] - np.log(4)) < 0.7
    assert np.mean([m['accuracy'] for m in history[-5:]]) > 0.9
    logits = jax.jit(method.features)(state.params, state.memory, {'image': trainer.batch['image']}).logits
    assert np.mean(np.asarray(logits).argmax(1) == trainer.batch['label']) > 0.8  # and evaluation mode agrees


@pytest.mark.slow
class TestMixed(ShortBattery):
  def make(self):
    return tiny(label_smoothing=0.1, mixup=0.8, cutmix=1.0)


def test_targets():
  y = tiny(label_smoothing=0.2).targets(jnp.array([1, -1, 3]))
  np.testing.assert_allclose(y, [[0.05, 0.85, 0.05, 0.05], [0] * 4, [0.05, 0.05, 0.05, 0.85]], rtol=1e-6)


@pytest.mark.slow
def test_loss_is_the_mean_over_labelled_rows():
  """Smoothed cross-entropy written out, with two rows that have no label."""
  batch = tiny_batch()
  batch['label'][[2, 5]] = -1
  # Without batch statistics, evaluation mode says the logits of the loss: whole images, no crop.
  whole = RandomViews(
    count=1, size=16, area=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0
  )
  fields = dict(encoder=ViT(width=16, depth=1, heads=2, patch=8), neck=MLP(features=(12,), final_activation=True))
  method = tiny(**fields, augment=whole, label_smoothing=0.2)
  params, memory, views = state_and_views(method, batch)
  loss, metrics = loss_of(method, params, memory, views, jax.random.key(0))
  logits = np.asarray(jax.jit(method.features)(params, memory, {'image': views['image'][:, 0]}).logits, np.float64)
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  known = batch['label'] >= 0
  rows = [-(0.8 * log_p[i, label] + 0.2 * log_p[i].mean()) for i, label in enumerate(batch['label']) if label >= 0]
  assert len(rows) == 14
  np.testing.assert_allclose(loss, np.mean(rows), rtol=1e-5)
  np.testing.assert_allclose(metrics['accuracy'], np.mean(logits.argmax(1)[known] == batch['label'][known]), rtol=1e-6)
  loss, _ = loss_of(method, params, memory, {**views, 'label': np.full(16, -1)}, jax.random.key(0))
  assert float(loss) == 0.0  # nothing to learn from, and no NaN


@pytest.mark.slow
def test_mixing_changes_images_and_targets():
  plain, mixed = tiny(), tiny(mixup=1.0)
  params, memory, views = state_and_views(plain)
  rngs = [jax.random.key(i) for i in range(3)]
  assert len({float(loss_of(plain, params, memory, views, rng)[0]) for rng in rngs}) == 1
  assert len({float(loss_of(mixed, params, memory, views, rng)[0]) for rng in rngs}) == 3
  x, y = mix(jax.random.split(rngs[0])[0], branch.flatten_views(views['image']), mixed.targets(views['label']), 1.0, 0.0)
  logits = branch.apply(mixed.modules, params, memory['stats'], x, train=True)[0]['classifier']
  expected = -jnp.mean(jnp.sum(y * jax.nn.log_softmax(logits), 1))
  np.testing.assert_allclose(loss_of(mixed, params, memory, views, rngs[0])[0], expected, rtol=1e-5)


@pytest.mark.slow
def test_a_frozen_encoder_does_not_move():
  trainer = Trainer(tiny(freeze_encoder=True))
  first = jax.tree.map(np.asarray, trainer.init(trainer.batch))
  last, _ = trainer.run(2)
  count = lambda tree: len(jax.tree.leaves(tree))
  assert len(still(first.params['encoder'], last.params['encoder'])) == count(first.params['encoder'])
  assert len(still(first.memory['stats']['encoder'], last.memory['stats']['encoder'])) == count(first.memory['stats']['encoder'])
  for name in ('neck', 'classifier'):
    assert still(first.params[name], last.params[name]) == []


def test_without_a_neck_there_are_no_parameters_of_one():
  fields = dict(encoder=tiny().encoder, classifier=MLP(features=(4,)), augment=AUGMENT)
  method = Supervised(**fields)
  batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in tiny_batch().items()}
  params, memory = jax.eval_shape(lambda b: method.init(jax.random.key(0), method.views(jax.random.key(0), b)), batch)
  assert set(params) == set(memory['stats']) == {'encoder', 'classifier'}
  assert method.label_classes == 4


def test_the_neck_has_the_names_of_the_first_head_layer():
  """So that `params/neck=RUN:params/head` grafts it."""
  shapes = lambda mlp: jax.eval_shape(lambda: mlp.init(jax.random.key(0), jnp.zeros((2, 6)), train=False))
  head = MLP(features=(12, 12, 8), bias=False, final_bias=False, final_norm='bn_no_bias')
  neck = MLP(features=(12,), final_bias=False, final_norm='bn', final_activation=True)
  for kind in ('params', 'batch_stats'):
    whole, part = shapes(head)[kind], shapes(neck)[kind]
    assert part == {name: whole[name] for name in part}
  assert set(shapes(neck)['params']) == {'dense0', 'norm0'}


@pytest.mark.parametrize(
  'changes, word',
  [
    ({'augment': RandomViews(count=2, size=16)}, 'count'),
    ({'label_smoothing': 1.0}, 'label_smoothing'),
    ({'mixup': -0.1}, 'mixup'),
    ({'cutmix': -1.0}, 'cutmix'),
  ],
)
def test_impossible_values_are_refused(changes, word):
  with pytest.raises(ValueError, match=word):
    tiny(**changes)


def test_unlabelled_data_is_refused():
  with pytest.raises(UserError, match='labels'):
    tiny().views(jax.random.key(0), {'image': tiny_batch()['image']})
