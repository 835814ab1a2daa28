import jax
import numpy as np
import pytest
from methods import tiny
from methods.battery import Battery, first_views, tiny_batch

from sslax.methods.ijepa import IJEPA
from sslax.models import net
from sslax.models.predictor import Predictor
from sslax.ops.schedules import Ramp
from sslax.ops.tree import ema


def tiny_ijepa(**changes):
  fields = dict(
    encoder=tiny.vit(patch=2, class_token=False, pool='mean', positions='sincos_mae', weight_init='mae'),
    predictor=Predictor(width=64, depth=1, heads=2), augment=tiny.ONE, momentum=Ramp(0.5, 1.0, 'linear', steps=10),
  )  # fmt: skip
  return IJEPA(**{**fields, **changes})


class TestIJEPA(Battery):
  def make(self):
    return tiny_ijepa()

  def make_without_batchnorm(self):
    return tiny_ijepa()

  @pytest.mark.slow
  def test_first_step_written_out(self, trainer, trained):
    """The networks as they are, the rest in float64: LayerNorm, which patches are predicted, smooth L1, the target's average."""
    method, (first, _, history) = trainer.method, trained
    images, blocks = jax.tree.map(np.asarray, first_views(method))
    context_ids, valid, target_ids, target_valid = blocks

    @jax.jit
    def networks(params, target):
      tokens = net.apply(method.encoder, target, {}, images[:, 0], train=False, method='encode_images')[0].tokens
      encode = lambda vit, train: vit.encode(vit.embed(images[:, 0])[np.arange(16)[:, None], context_ids], train, valid).tokens
      context = net.apply(method.encoder, params['encoder'], {}, train=True, method=encode)[0]
      seen = np.concatenate([valid, target_valid[:, 0]], 1)
      predict = lambda m: net.apply(
        method.predictor, params['predictor'], {}, context, context_ids, target_ids[:, m], seen, (8, 8), train=True
      )[0]
      return tokens, [predict(m) for m in range(4)]

    tokens, predictions = jax.tree.map(np.float64, networks(first.params, first.memory['target']))
    tokens = (tokens - tokens.mean(-1, keepdims=True)) / np.sqrt(tokens.var(-1, keepdims=True) + 1e-5)
    values = []
    for i in range(16):
      for m in range(4):
        for j in np.flatnonzero(target_valid[i, m]):
          d = np.abs(predictions[m][i, j] - tokens[i, target_ids[i, m, j]])
          values.append(np.where(d < 1, d**2 / 2, d - 0.5).mean())
    np.testing.assert_allclose(history[0]['loss'], np.mean(values), rtol=1e-5)
    np.testing.assert_allclose(history[0]['embedding_std'], tokens.std(0).mean(), rtol=1e-3)
    np.testing.assert_allclose(history[0]['context_patches'], valid.sum() / 16)
    assert valid.shape[1] == 32, 'half of the 64 patches'

  def test_target_follows(self, trainer):
    start = trainer.init(trainer.batch)
    state, before = start, jax.tree.map(np.asarray, start)
    for step in range(2):
      state, _ = trainer.step(state, trainer.batch)
      expected = ema(before.memory['target'], jax.tree.map(np.asarray, state.params['encoder']), 0.5 + 0.05 * step)
      jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), state.memory['target'], expected)
      before = jax.tree.map(np.asarray, state)

  def test_collapse_shows_in_the_metrics(self, trainer, trained):
    batch = tiny_batch()
    _, (same,) = trainer.run(1, batches=[{**batch, 'image': np.full_like(batch['image'], 90)}])
    assert same['embedding_std'] < 1e-3 and trained[2][0]['embedding_std'] > 0.1

  def test_features_are_the_targets(self, trainer, trained):
    _, last, _ = trained
    image = {'image': tiny_batch()['image']}
    nobody = jax.tree.map(np.zeros_like, last.params)
    features = jax.jit(trainer.method.features)
    out = features(last.params, last.memory, image)
    np.testing.assert_array_equal(features(nobody, last.memory, image).pooled, out.pooled)
    np.testing.assert_allclose(out.pooled, out.tokens.mean((1, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_context_encoder_sees_the_context_only():
  """With a target that says nothing, the loss depends on the pixels of the context and on no others."""
  method = tiny_ijepa()
  images, blocks = views = first_views(method)
  params, memory = jax.jit(method.init)(jax.random.key(0), views)
  memory = jax.tree.map(np.zeros_like, memory)
  loss = lambda images: method.loss(params, memory, (images, blocks), jax.random.key(1), 0)[0]
  moved = np.abs(jax.jit(jax.grad(loss))(images)).reshape(16, 8, 2, 8, 2, 3).max((2, 4, 5)).reshape(16, 64) > 0
  context = np.zeros((16, 64), bool)
  for i in range(16):
    context[i, blocks.context[i][blocks.context_valid[i]]] = True
  np.testing.assert_array_equal(moved, context)


@pytest.mark.slow
def test_compute_is_saved():
  """FLOPs of the loss at several capacities of the context, as XLA counts them."""

  def flops(**changes):
    method = tiny_ijepa(encoder=tiny.vit(patch=2, depth=4, class_token=False, pool='mean', positions='sincos_mae'), **changes)
    rng = jax.random.key(0)
    views = jax.eval_shape(method.views, rng, tiny_batch())
    params, memory = jax.eval_shape(method.init, rng, views)
    return jax.jit(method.loss).lower(params, memory, views, rng, 0).cost_analysis()['flops']

  assert flops(context_most=0.25) < 0.75 * flops(context_most=1.0)


@pytest.mark.slow
def test_pictures():
  out = jax.jit(lambda batch: tiny_ijepa().pictures(None, None, batch, jax.random.key(0)))(tiny_batch())
  assert set(out) == {'view', 'context', 'targets'} and all(x.shape == (16, 16, 16, 3) for x in out.values())
  hidden = [np.asarray((x == 0.5).all(-1)) for x in (out['context'], out['targets'])]
  assert (hidden[0] | hidden[1]).all() and not (hidden[0] & hidden[1]).all(), 'a patch in both'


@pytest.mark.parametrize(
  'changes, word',
  [
    ({'augment': tiny.PAIR}, 'count'), ({'encoder': tiny.vit()}, 'class token'), ({'distance': 'l1'}, 'smooth_l1'),
    ({'target_area': (0.2, 0.4)}, 'target_area'), ({'context_most': 0.0}, 'context_most'),
    ({'encoder': tiny.vit(patch=2, class_token=False, pool='mean')}, 'positions'),
  ],
)  # fmt: skip
def test_impossible_values_are_refused(changes, word):
  with pytest.raises(ValueError, match=word):
    tiny_ijepa(**changes)
