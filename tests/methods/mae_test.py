import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods import tiny
from methods.battery import Battery, ShortBattery, tiny_batch

from sslax.losses.reconstruction import normalize_patches
from sslax.methods.mae import MAE
from sslax.models import import_torch, net
from sslax.models.decoder import Decoder
from sslax.models.vit import ViT
from sslax.ops.masks import from_noise
from sslax.ops.patches import patchify
from sslax.ops.views import RandomViews


def tiny_mae(**changes):
  fields = dict(
    encoder=tiny.vit(patch=4, positions='sincos_mae', weight_init='mae'),
    decoder=Decoder(width=8, depth=1, heads=2, patch=4),
    augment=tiny.ONE,
  )
  return MAE(**{**fields, **changes})


class TestMAE(Battery):
  def make(self):
    return tiny_mae()

  def make_without_batchnorm(self):
    return tiny_mae()

  @pytest.mark.slow
  def test_pictures(self, trainer, trained):
    """What is pasted is the image where patches are visible, and the prediction with the patch's mean and variance elsewhere."""
    _, last, _ = trained
    augment = dataclasses.replace(trainer.method.augment, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    method, image = dataclasses.replace(trainer.method, augment=augment), tiny_batch()['image']
    out = jax.tree.map(np.asarray, jax.jit(method.pictures)(last.params, {}, {'image': image}, jax.random.key(0)))
    assert list(out) == ['image', 'masked', 'prediction', 'reconstruction']
    assert all(x.shape == image.shape and x.min() >= 0 and x.max() <= 1 for x in out.values())
    np.testing.assert_allclose(out['image'], image / 255, atol=1e-5)
    grey = np.all(out['masked'] == 0.5, axis=-1)
    assert grey.sum() == 16 * 12 * 16  # 12 of 16 patches of 16 pixels
    np.testing.assert_array_equal(out['reconstruction'], np.where(grey[..., None], out['prediction'], out['image']))
    np.testing.assert_array_equal(out['masked'][~grey], out['image'][~grey])
    _, mean, std = normalize_patches(patchify(method.augment.normalize(image), 4))
    removed = jax.jit(method.draw)(jax.random.key(0), image)
    np.testing.assert_array_equal(removed.masked, grey[:, ::4, ::4].reshape(16, 16))
    predict = jax.jit(lambda params, x: method.predict(params, x, removed, train=False))
    predicted = np.asarray(predict(last.params, method.augment.normalize(image)) * std + mean)
    first = np.clip(predicted[0, 0].reshape(4, 4, 3) * np.array(augment.std) + np.array(augment.mean), 0, 1)
    np.testing.assert_allclose(out['prediction'][0, :4, :4], first, atol=1e-5)


@pytest.mark.slow
class TestBlocks(ShortBattery):
  def make(self):
    return tiny_mae(masking='block', mask_ratio=0.5, norm_pix=False)


@pytest.mark.slow
class TestGrid(ShortBattery):
  def make(self):
    encoder = tiny.vit(patch=4, class_token=False, pool='mean')
    return tiny_mae(masking='grid', encoder=encoder, decoder=Decoder(width=8, depth=1, heads=2, patch=4, class_token=False))


def golden_mae(**changes):
  """The sizes of the reference values; transformers' layer norms have eps 1e-12."""
  sizes = dict(heads=4, depth=2, mlp_ratio=2.0, patch=8, eps=1e-12)
  return MAE(
    encoder=ViT(width=48, positions='sincos_mae', weight_init='mae', **sizes, **changes),
    decoder=Decoder(width=32, **sizes, **changes),
    augment=RandomViews(count=1, size=32),
  )


@pytest.mark.slow
def test_it_is_transformers(golden):
  """Loss, prediction and masks of ViTMAEForPreTraining with the same weights and noise, through the importer."""
  from models.import_torch_test import mae_state, near, official_mae_names

  reference = np.load(golden / 'model_mae_hf.npz')
  x = reference['image'].transpose(0, 2, 3, 1)
  method, scanned = golden_mae(), golden_mae(scan=True)
  shapes = [jax.eval_shape(lambda key, m=m: m.init(key, x[:, None])[0], jax.random.key(0)) for m in (method, scanned)]
  state = mae_state(reference)
  assert sorted(state) == sorted(reference['names'])
  params = import_torch.mae_transformers(state, shapes[0])
  stacked = import_torch.mae(official_mae_names(state), shapes[1])
  for part in ('encoder', 'decoder'):
    jax.tree.map(
      np.testing.assert_array_equal,
      stacked[part]['blocks'],
      jax.tree.map(lambda *leaves: np.stack(leaves), params[part]['blocks_0'], params[part]['blocks_1']),
    )
    rest = {k: v for k, v in stacked[part].items() if k != 'blocks'}
    jax.tree.map(np.testing.assert_array_equal, rest, {k: v for k, v in params[part].items() if not k.startswith('blocks_')})

  @jax.jit
  def run(params, x, noise):
    removed = from_noise(noise, method.keep(16))
    prediction = method.predict(params, x, removed, train=False)
    return removed, prediction, *method.compare(prediction, x, removed.masked)

  removed, prediction, loss, metrics = run(params, x, reference['noise'])
  np.testing.assert_array_equal(removed.restore, reference['ids_restore'])
  np.testing.assert_array_equal(removed.masked, reference['mask'])
  near(prediction, reference['prediction'], 1e-5)
  near(loss, reference['loss'], 1e-5)
  np.testing.assert_allclose(metrics['baseline_loss'], 191 / 192, rtol=1e-3)  # the biased variance of a standardised patch


@pytest.mark.slow
def test_a_quarter_of_the_patches_costs_a_quarter():
  """FLOPs of the compiled encoder, forward, at mask ratio 0.75 and (all but) 0, against the formula."""
  D, depth, patch, T = 48, 2, 4, 64

  def flops(ratio):
    method = tiny_mae(
      encoder=tiny.vit(width=D, depth=depth, heads=4, patch=patch, positions='sincos_mae'),
      augment=RandomViews(count=1, size=32),
      mask_ratio=ratio,
    )
    x = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(lambda key: net.init(method.encoder, key, jnp.zeros(x.shape))[0], jax.random.key(0))
    kept = jax.ShapeDtypeStruct((8, method.keep(T)), jnp.int32)
    encode = jax.jit(lambda params, x, kept: method.encode(params, x, kept, train=True))
    return encode.lower(params, x, kept).compile().cost_analysis()['flops'] / 8

  def formula(K):
    tokens = K + 1
    return 2 * T * patch**2 * 3 * D + depth * (24 * tokens * D**2 + 4 * tokens**2 * D)

  few, all_of_them = flops(0.75), flops(1e-9)
  expected = formula(16) / formula(64)
  print(f'FLOPs {few:.3g} / {all_of_them:.3g} = {few / all_of_them:.3f}, formula {expected:.3f}')
  assert 0.2 < expected < 0.3
  np.testing.assert_allclose(few / all_of_them, expected, rtol=0.05)
  assert 1 < few / formula(16) < 1.3 and 1 < all_of_them / formula(64) < 1.3  # softmax, GELU and norms are extra


@pytest.mark.slow
def test_the_loss_knows_nothing_of_visible_patches_but_through_the_encoder():
  """Only removed patches count, and their pixels do not reach the prediction."""
  method = tiny_mae(norm_pix=False)
  x = np.random.default_rng(0).random((4, 16, 16, 3)).astype(np.float32)
  params, _ = jax.jit(lambda key: method.init(key, x[:, None]))(jax.random.key(0))
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda p: np.asarray(p) + 0.1 * rng.standard_normal(p.shape, np.float32), params)
  removed = jax.jit(method.draw)(jax.random.key(2), x)
  predict = jax.jit(lambda x: method.predict(params, x, removed, train=False))
  prediction = np.asarray(predict(x))
  pixels = np.repeat(np.repeat(np.asarray(removed.masked).reshape(4, 4, 4), 4, 1), 4, 2)[..., None]
  np.testing.assert_allclose(predict(np.where(pixels, 1 - x, x)), prediction, atol=1e-5)
  assert np.abs(np.asarray(predict(np.where(pixels, x, 1 - x))) - prediction).max() > 1e-2
  loss, metrics = jax.jit(method.compare)(prediction, x, removed.masked)
  rows, target = np.nonzero(removed.masked), np.asarray(patchify(x, 4), np.float64)
  np.testing.assert_allclose(loss, ((prediction - target)[rows] ** 2).mean(), rtol=1e-5)
  np.testing.assert_allclose(metrics['baseline_loss'], target.var(-1)[rows].mean(), rtol=1e-5)


@pytest.mark.parametrize(
  'changes, word',
  [
    ({'mask_ratio': 1.0}, 'mask_ratio'),
    ({'mask_ratio': 0.99}, 'leaves no patch'),
    ({'masking': 'blocks'}, "masking='blocks'"),
    ({'augment': tiny.PAIR}, 'augment.count'),
    ({'augment': RandomViews(count=1, size=18)}, 'augment.size=18'),
    ({'decoder': Decoder(width=8, depth=1, heads=2, patch=8)}, 'decoder.patch=8'),
    ({'decoder': Decoder(width=8, depth=1, heads=2, patch=4, class_token=False)}, 'decoder.class_token'),
  ],
)
def test_impossible_values_are_refused(changes, word):
  with pytest.raises(ValueError, match=word):
    tiny_mae(**changes)


def test_keep_is_rounded_as_the_recipe_says():
  assert [tiny_mae(mask_ratio=r).keep(n) for r, n in ((0.75, 196), (0.75, 16), (0.9, 100), (0.6, 144))] == [49, 4, 10, 57]
