import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods import tiny
from methods.battery import Battery, ShortBattery, first_views, tiny_batch

from sslax.errors import UserError
from sslax.methods.ibot import IBOT
from sslax.models import net
from sslax.models.prototypes import Prototypes
from sslax.models.transformer import steady
from sslax.ops.schedules import Ramp
from sslax.ops.tree import ema
from sslax.ops.views import MultiCrop

NOW = Ramp(0.0, 1.0, 'step', steps=0)
HEAD = tiny.head(norm='none', activation='gelu', kernel_init='trunc_normal_0.02')


def tiny_ibot(**changes):
  fields = dict(
    encoder=tiny.vit(patch=2), head=HEAD, prototypes=Prototypes(12, weight_norm=True, learn_scale=True),
    augment=tiny.CROPS, momentum=Ramp(0.9, 1.0, steps=10), teacher_temperature=Ramp(0.04, 0.07, 'linear', steps=5),
    patch_temperature=Ramp(0.05, 0.07, 'linear', steps=5), train_prototypes=NOW,
  )  # fmt: skip
  return IBOT(**{**fields, **changes})


def tiny_dinov2(**changes):
  own = dict(patch_head=HEAD, patch_prototypes=Prototypes(10, weight_norm=True))
  return tiny_ibot(**{**own, **dict(targets='sinkhorn', koleo_weight=0.1, least_block=2, stratified=True), **changes})


def softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


class TestIBOT(Battery):
  def make(self):
    return tiny_ibot()

  def make_without_batchnorm(self):
    return tiny_ibot()

  @pytest.mark.slow
  def test_first_step_written_out(self, trainer):
    """Two steps; the networks on all patches, the rest in float64: which count, both losses, both centres, the teacher."""
    method, state = trainer.method, trainer.init(trainer.batch)

    @jax.jit
    def networks(params, target, crops, masks):
      """Logits of the student's and the teacher's class tokens [B, V, K] and patches [B G, T, K]."""

      def logits(params, x):
        x, _ = net.apply(method.head, params['head'], {}, x, train=True)
        return net.apply(method.prototypes, params['prototypes'], {}, x.reshape(-1, x.shape[-1]), train=True)[0].scores

      def encode(params, x, masked=None):
        rows = x.reshape(-1, *x.shape[2:])
        look = lambda vit, train: vit.encode(vit.embed(rows, masked, None if masked is None else params['mask_token']), train)
        out, _ = net.apply(method.encoder, params['encoder'], {}, train=False, method=look)
        tokens = out.tokens[:, 1:]
        classes = logits(params, out.pooled).reshape(*x.shape[:2], -1)
        return classes, logits(params, tokens).reshape(*tokens.shape[:2], -1)

      s, s_patch = encode(params, crops[0], masks.reshape(-1, 64))
      t, t_patch = encode(target, crops[0])
      return jnp.concatenate([s, encode(params, crops[1])[0]], 1), s_patch, t, t_patch

    for step in range(2):
      before = jax.tree.map(np.asarray, state)
      views_rng, _ = jax.random.split(jax.random.fold_in(jax.random.key(3), step))
      crops, masks = jax.jit(method.views)(views_rng, tiny_batch())
      out = networks(before.params, before.memory['target'], crops, masks)
      s, s_patch, t, t_patch = (np.float64(x) for x in out)
      state, metrics = trainer.step(state, trainer.batch)

      targets = softmax((t - before.memory['center']) / np.linspace(0.04, 0.07, 6)[step])
      log_p = np.log(softmax(s / 0.1))
      pairs = [-(targets[:, g] * log_p[:, v]).sum(-1).mean() for g in range(2) for v in range(4) if g != v]
      targets = softmax((t_patch - before.memory['patch_center']) / np.linspace(0.05, 0.07, 6)[step])
      each = -(targets * np.log(softmax(s_patch / 0.1))).sum(-1)
      masked = np.asarray(masks).reshape(32, 64)
      crop_means = [each[i][masked[i]].mean() if masked[i].any() else 0.0 for i in range(32)]
      assert 0 < np.count_nonzero(crop_means) < 32
      np.testing.assert_allclose(metrics['class_loss'], np.mean(pairs), rtol=2e-5)
      np.testing.assert_allclose(metrics['patch_loss'], np.mean(crop_means), rtol=2e-5)
      np.testing.assert_allclose(metrics['loss'], np.mean(pairs) + np.mean(crop_means), rtol=2e-5)
      np.testing.assert_allclose(metrics['masked'], masked.mean(), rtol=1e-5)
      for name, mean in (('center', t.mean((0, 1))), ('patch_center', t_patch[masked].mean(0))):
        np.testing.assert_allclose(state.memory[name], 0.9 * before.memory[name] + 0.1 * mean, rtol=1e-4, atol=1e-6)
      m = 1.0 - 0.1 * (1 + np.cos(np.pi * step / 10)) / 2
      online = {name: jax.tree.map(np.asarray, state.params[name]) for name in before.memory['target']}
      expected = ema(before.memory['target'], online, m)
      jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.memory['target'], expected)

  def test_collapse_shows_in_the_metrics(self, trainer, trained):
    batch = tiny_batch()
    _, history = trainer.run(1, batches=[{**batch, 'image': np.full_like(batch['image'], 90)}])
    assert history[0]['assignment_information'] < 1e-3 < trained[2][0]['assignment_information']


@pytest.mark.slow
class TestDINOv2(ShortBattery):
  def make(self):
    return tiny_dinov2(encoder=tiny.vit(patch=2, drop_path=0.1))

  @pytest.mark.slow
  def test_the_parts_add_up_and_half_of_the_crops_are_masked(self, trainer, trained):
    first, _, history = trained
    for m in history:
      np.testing.assert_allclose(m['loss'], m['class_loss'] + m['patch_loss'] + 0.1 * m['koleo'], rtol=1e-5)
    assert set(first.params) == {'encoder', 'head', 'prototypes', 'patch_head', 'patch_prototypes', 'mask_token'}
    assert set(first.memory) == {'target'} and set(first.memory['target']) == set(first.params) - {'mask_token'}
    _, masks = first_views(trainer.method)
    assert (masks.any((2, 3))).sum() == 16, 'of 32'
    assert steady(trainer.method.encoder).drop_path == 0


@pytest.mark.slow
def test_student_does_not_see_masked_patches_and_the_teacher_does():
  """Gradients with respect to the pixels: of the student's part (a teacher that says nothing) and of the targets."""
  method = tiny_ibot(koleo_weight=1.0)
  crops, masks = views = first_views(method)
  params, memory = jax.jit(method.init)(jax.random.key(0), views)

  @jax.jit
  def gradient(encoder, large):
    def loss(large):
      state = {**memory, 'target': {**memory['target'], 'encoder': encoder}}
      return method.loss(params, state, ((large, crops[1]), masks), jax.random.key(1), 0)[0]

    return jnp.abs(jax.grad(loss)(large)).reshape(16, 2, 8, 2, 8, 2, 3).max((3, 5, 6)) > 0

  of_student = gradient(jax.tree.map(jnp.zeros_like, memory['target']['encoder']), crops[0])
  np.testing.assert_array_equal(of_student, ~np.asarray(masks))
  assert gradient(memory['target']['encoder'], crops[0]).all()


@pytest.mark.slow
def test_pictures():
  out = jax.jit(lambda batch: tiny_ibot().pictures(None, None, batch, jax.random.key(0)))(tiny_batch())
  assert set(out) == {'crop', 'masked'} and all(x.shape == (16, 16, 16, 3) for x in out.values())
  same = np.asarray(out['crop'] == out['masked']).all(-1)
  assert same.all((1, 2)).any() and not same.all() and (np.asarray(out['masked'])[~same] == 0.5).all()


def test_batchnorm_is_refused():
  method = tiny_ibot(head=tiny.head())
  with pytest.raises(UserError, match='norm'):
    jax.eval_shape(method.init, jax.random.key(0), jax.eval_shape(method.views, jax.random.key(0), tiny_batch()))


@pytest.mark.parametrize(
  'changes, word',
  [
    ({'targets': 'centre'}, 'targets'), ({'augment': MultiCrop(large=tiny.ONE)}, 'two large crops'),
    ({'mask_ratio': (0.5, 0.1)}, 'mask_ratio'), ({'mask_prob': 0.0}, 'mask_prob'), ({'encoder': tiny.vit(pool='mean')}, 'pool'),
  ],
)  # fmt: skip
def test_impossible_values_are_refused(changes, word):
  with pytest.raises(ValueError, match=word):
    tiny_ibot(**changes)
