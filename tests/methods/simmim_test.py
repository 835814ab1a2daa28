import dataclasses

import jax
import numpy as np
import pytest
from methods import tiny
from methods.battery import SEED, ShortBattery, first_views, tiny_batch

from sslax.methods.simmim import SimMIM
from sslax.ops.views import RandomViews


def tiny_simmim(**changes):
  fields = dict(encoder=tiny.vit(patch=4), augment=tiny.ONE, mask_unit=8)
  return SimMIM(**{**fields, **changes})


class TestSimMIM(ShortBattery):
  def make(self):
    return tiny_simmim()  # the mask token is closed over

  def make_without_batchnorm(self):
    return tiny_simmim()

  def test_the_first_loss_written_out(self, trainer, trained):
    """Equation 1 in float64, pixel by pixel, with 8-pixel units of which 3 of 4 are removed."""
    (first, _, history), method = trained, trainer.method
    _, loss_rng = jax.random.split(jax.random.fold_in(jax.random.key(SEED), 0))
    mask_rng = jax.random.split(loss_rng)[0]
    x = first_views(method)[:, 0]
    masked = np.asarray(jax.jit(method.draw)(mask_rng, x))
    assert masked.sum(1).tolist() == [12] * 16  # 0.6 of 4 units, rounded up, of 4 patches each
    prediction = np.asarray(jax.jit(lambda p, x, m: method.predict(p, x, m, train=True))(first.params, x, masked), np.float64)
    x, total, baseline, pixels = np.asarray(x, np.float64), 0.0, 0.0, 0
    for b, t in zip(*np.nonzero(masked), strict=True):
      row, column = 4 * (t // 4), 4 * (t % 4)
      patch = x[b, row : row + 4, column : column + 4]
      total += np.abs(patch - prediction[b, t].reshape(4, 4, 3)).sum()
      baseline += np.abs(patch - patch.mean()).sum()
      pixels += 16
    np.testing.assert_allclose(history[0]['loss'], total / (pixels + 1e-5) / 3, rtol=1e-5)
    np.testing.assert_allclose(history[0]['baseline_loss'], baseline / (pixels + 1e-5) / 3, rtol=1e-5)

  def test_removed_pixels_are_not_seen(self, trainer, trained):
    (_, last, _), method = trained, trainer.method
    x = np.float32(tiny_batch()['image'] / 255)
    masked = jax.jit(method.draw)(jax.random.key(2), x)
    predict = jax.jit(lambda x: method.predict(last.params, x, masked, train=False))
    pixels = np.repeat(np.repeat(np.asarray(masked).reshape(16, 4, 4), 4, 1), 4, 2)[..., None]
    np.testing.assert_allclose(predict(np.where(pixels, 1 - x, x)), predict(x), atol=1e-5)
    assert np.abs(np.asarray(predict(np.where(pixels, x, 1 - x))) - np.asarray(predict(x))).max() > 1e-3

  def test_pictures(self, trainer, trained):
    method = dataclasses.replace(trainer.method, augment=dataclasses.replace(tiny.ONE, mean=(0.5,) * 3, std=(0.2,) * 3))
    out = jax.jit(method.pictures)(trained[1].params, {}, {'image': tiny_batch()['image']}, jax.random.key(0))
    grey = np.all(np.asarray(out['masked']) == 0.5, axis=-1)
    assert grey.sum() == 16 * 192 and len(out) == 4
    np.testing.assert_array_equal(out['reconstruction'], np.where(grey[..., None], out['prediction'], out['image']))


def test_everything_may_be_removed():
  assert np.all(jax.jit(tiny_simmim(mask_ratio=1.0).draw)(jax.random.key(0), np.zeros((2, 16, 16, 3))))


@pytest.mark.parametrize(
  'changes, word',
  [
    ({'mask_ratio': 0.0}, 'mask_ratio'),
    ({'mask_unit': 6}, 'mask_unit=6'),
    ({'mask_unit': 0}, 'mask_unit=0'),
    ({'augment': tiny.PAIR}, 'augment.count'),
    ({'augment': RandomViews(count=1, size=20)}, 'augment.size=20'),
  ],
)
def test_impossible_values_are_refused(changes, word):
  with pytest.raises(ValueError, match=word):
    tiny_simmim(**changes)
