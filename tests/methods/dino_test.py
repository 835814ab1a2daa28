import jax
import numpy as np
import pytest
from methods import tiny
from methods.battery import Battery, ShortBattery, Trainer, tiny_batch

from sslax.methods.dino import DINO
from sslax.models import branch
from sslax.models.prototypes import Prototypes
from sslax.ops.schedules import Ramp
from sslax.ops.tree import ema
from sslax.ops.views import MultiCrop
from sslax.run.checkpoint import Checkpointer

NOW = Ramp(0.0, 1.0, 'step', steps=0)


def tiny_dino(**changes):
  fields = dict(
    encoder=tiny.vit(drop_path=0.1), head=tiny.head(norm='none', activation='gelu', kernel_init='trunc_normal_0.02'),
    prototypes=Prototypes(12, weight_norm=True, learn_scale=True), augment=tiny.CROPS, momentum=Ramp(0.9, 1.0, steps=10),
    teacher_temperature=Ramp(0.04, 0.07, 'linear', steps=5), train_prototypes=NOW,
  )  # fmt: skip
  return DINO(**{**fields, **changes})


class TestDINO(Battery):
  def make(self):
    return tiny_dino()

  def make_without_batchnorm(self):
    return tiny_dino(encoder=tiny.vit())


@pytest.mark.slow
class TestDINOSinkhornResNet(ShortBattery):
  def make(self):
    return tiny_dino(encoder=tiny.resnet(), targets='sinkhorn')


@pytest.mark.slow
def test_from_eight_devices_to_four_with_the_same_loss(tmp_path):
  """A checkpoint of 8 devices, restored on 4: the next losses are those of 8 devices, to 1e-6."""
  eight, four = Trainer(tiny_dino(), devices=8), Trainer(tiny_dino(), devices=4)
  state, _ = eight.run(2)
  checkpointer = Checkpointer(tmp_path, every_steps=1, keep=1, meta={})
  checkpointer.save(2, state, wait=True)
  abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=four.state), state)
  restored, _ = checkpointer.restore(abstract)
  checkpointer.close()
  _, on_eight = eight.run(2, state)
  _, on_four = four.run(2, restored)
  np.testing.assert_allclose([m['loss'] for m in on_four], [m['loss'] for m in on_eight], rtol=1e-6)


@pytest.mark.slow
def test_teacher_centre_and_temperature_written_out():
  """The first two steps in float64: loss, centre after it, and the teacher's average."""
  trainer = Trainer(tiny_dino(encoder=tiny.vit(), head=tiny.head(norm='none')))
  method, state = trainer.method, trainer.init(trainer.batch)
  for step in range(2):
    before = jax.tree.map(np.asarray, state)
    views = jax.jit(method.views)(jax.random.split(jax.random.fold_in(jax.random.key(3), step))[0], tiny_batch())
    state, metrics = trainer.step(state, trainer.batch)

    def logits(params, groups, stats=before.memory['stats']):
      outs, _ = branch.apply_crops(method.modules, params, stats, groups, train=True, rng=jax.random.key(0))
      return np.moveaxis(np.asarray(outs['prototypes'].scores, np.float64), 1, 0)

    s, t = logits(before.params, views), logits(before.memory['target'], views[:1])
    assert (len(s), len(t)) == (4, 2)
    softmax = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    targets = softmax((t - before.memory['center']) / np.linspace(0.04, 0.07, 6)[step])
    pairs = [-(targets[g] * np.log(softmax(s[v] / 0.1))).sum(-1).mean() for g in range(2) for v in range(4) if g != v]
    np.testing.assert_allclose(float(metrics['loss']), np.mean(pairs), rtol=2e-5)
    np.testing.assert_allclose(state.memory['center'], 0.9 * before.memory['center'] + 0.1 * t.mean((0, 1)), rtol=1e-4, atol=1e-6)
    m = 1.0 - 0.1 * (1 + np.cos(np.pi * step / 10)) / 2
    expected = ema(before.memory['target'], jax.tree.map(np.asarray, state.params), m)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.memory['target'], expected)


@pytest.mark.slow
def test_the_last_layer_stands_still_at_first():
  trainer = Trainer(tiny_dino(train_prototypes=Ramp(0.0, 1.0, 'step', steps=1)))
  kernels = [np.asarray(trainer.init(trainer.batch).params['prototypes']['kernel'])]
  state = None
  for _ in range(2):
    state, _ = trainer.run(1, state)
    kernels.append(np.asarray(state.params['prototypes']['kernel']))
  np.testing.assert_array_equal(kernels[1], kernels[0])
  assert not np.array_equal(kernels[2], kernels[1])


@pytest.mark.slow
def test_features_are_the_teachers_and_see_no_drop_path():
  method = tiny_dino(encoder=tiny.vit(drop_path=0.5))
  state, _ = Trainer(method).run(1)
  image = {'image': tiny_batch()['image']}
  teacher = method.features(state.params, state.memory, image).pooled
  nobody = jax.tree.map(np.zeros_like, state.params)
  np.testing.assert_array_equal(method.features(nobody, state.memory, image).pooled, teacher)
  assert method.teacher_modules['encoder'].drop_path == 0 and method.modules['encoder'].drop_path == 0.5


@pytest.mark.parametrize(
  'changes, word', [({'targets': 'centre'}, 'targets'), ({'augment': MultiCrop(large=tiny.ONE)}, 'two large crops')]
)
def test_impossible_values_are_refused(changes, word):
  with pytest.raises(ValueError, match=word):
    tiny_dino(**changes)
