"""Image-text losses against open_clip, the papers' formulas in float64, closed forms, and themselves on eight devices."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses import corners

from sslax.losses import image_text

in_blocks = jax.jit(jax.value_and_grad(image_text.siglip, (0, 1, 2, 3)), static_argnums=4)


def clip(image, text):
  return image_text.clip(image, text, 14.3)


def siglip(image, text):
  return image_text.siglip(image, text, 14.3, -10.0)


def slow_clip(image, text, scale=14.3):
  logits = scale * image @ text.T
  return -(np.diag(corners.log_softmax(logits)).mean() + np.diag(corners.log_softmax(logits.T)).mean()) / 2


def slow_siglip(image, text, scale=14.3, bias=-10.0):
  total = 0.0
  for i, x in enumerate(image):
    for j, y in enumerate(text):
      total += np.logaddexp(0, (1 if i != j else -1) * (scale * x @ y + bias))
  return total / len(image)


def unit_pairs(b=8):
  return [np.float32(corners.unit(z)) for z in corners.pairs(b)]


def test_clip_is_open_clips(golden):
  ref = np.load(golden / 'loss_clip.npz')
  loss, grads = jax.jit(jax.value_and_grad(image_text.clip, (0, 1, 2)))(ref['image'], ref['text'], ref['scale'])
  np.testing.assert_allclose(loss, ref['loss'], rtol=1e-5)
  for ours, name in zip(grads, ('image', 'text', 'scale'), strict=True):
    corners.golden_gradient(ours, ref[f'grad_{name}'])


@pytest.mark.parametrize('block', [0, 1, 5, 12])
def test_siglip_is_open_clips(golden, block):
  ref = np.load(golden / 'loss_siglip.npz')
  loss, grads = in_blocks(ref['image'], ref['text'], ref['scale'], ref['bias'], block)
  np.testing.assert_allclose(loss, ref['loss'], rtol=1e-5)
  for ours, name in zip(grads, ('image', 'text', 'scale', 'bias'), strict=True):
    corners.golden_gradient(ours, ref[f'grad_{name}'])


@pytest.mark.parametrize('loss, slow', [(clip, slow_clip), (siglip, slow_siglip)])
def test_the_formula_in_float64(loss, slow):
  corners.compare(loss, slow, *unit_pairs())


@pytest.mark.parametrize('case', [case for case in corners.CASES if case != 'large'])  # rows are unit by contract
@pytest.mark.parametrize('loss', [clip, siglip])
def test_finite_at_the_edges(loss, case):
  corners.finite(loss, *corners.awkward(case))


@pytest.mark.parametrize('loss', [clip, siglip, lambda x, y: image_text.siglip(x, y, 14.3, -10.0, 8)])
def test_eight_devices_are_one(loss):
  corners.eight_equal_one(loss, *unit_pairs(16))


@pytest.mark.slow
def test_closed_forms():
  equal, apart = jnp.ones((6, 4)) / 2, jnp.eye(4)
  np.testing.assert_allclose(clip(equal, equal), np.log(6), rtol=1e-6)
  np.testing.assert_allclose(clip(apart, apart), np.log(1 + 3 * np.exp(-14.3)), atol=1e-6)
  # The paper's start, scale 10 and bias -10: a pair has logit 0, another -10.
  start = image_text.siglip(apart, apart, 10.0, -10.0)
  np.testing.assert_allclose(start, np.log(2) + 3 * np.log1p(np.exp(-10)), rtol=1e-6)


def test_blocks_hold_no_square():
  """With block=16 no array of B x B = 256 x 256 numbers, whatever its shape, is anywhere in the compiled gradient."""
  grad = jax.grad(lambda x, y, block: image_text.siglip(x, y, 10.0, -10.0, block), (0, 1))
  shape = jax.ShapeDtypeStruct((256, 8), np.float32)
  texts = [jax.jit(grad, static_argnums=2).lower(shape, shape, block).compile().as_text() for block in (0, 16)]
  sizes = [[math.prod(map(int, shape.split(','))) for shape in re.findall(r'f32\[([\d,]+)\]', text)] for text in texts]
  assert max(sizes[0]) == 256 * 256 and max(sizes[1]) <= 256 * 16
  with pytest.raises(ValueError, match='not -3'):
    image_text.siglip(*unit_pairs(), 10.0, -10.0, -3)


def test_matching_accuracy():
  image = jnp.eye(4)
  text = image[jnp.array([0, 1, 3, 2])]
  assert {k: float(v) for k, v in image_text.matching_accuracy(image, text).items()} == {
    'image_to_text': 0.5,
    'text_to_image': 0.5,
  }
  one_sided = image_text.matching_accuracy(image, image.at[1].set(jnp.array([1.0, 0.9, 0, 0])))
  assert {k: float(v) for k, v in one_sided.items()} == {'image_to_text': 1.0, 'text_to_image': 0.75}
  equal = jnp.ones((4, 2))
  assert all(float(v) == 0.25 for v in image_text.matching_accuracy(equal, equal).values())
