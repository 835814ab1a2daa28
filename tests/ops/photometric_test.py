import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslax.ops import photometric

ATOL = 2e-6  # float32 rounding of values in [0, 1]; the README of the reference values allows 1e-5 (blur: 2 / 255)
FULL = (0.8, 0.8, 0.8, 0.2)


@pytest.fixture(scope='module')
def reference(golden):
  with np.load(golden / 'image_ops.npz') as file:
    return dict(file)


@pytest.mark.parametrize(
  ('name', 'op'),
  [
    ('brightness_0.6', lambda x: photometric.brightness(x, 0.6)),
    ('brightness_1.4', lambda x: photometric.brightness(x, 1.4)),
    ('contrast_0.6', lambda x: photometric.contrast(x, 0.6)),
    ('contrast_1.4', lambda x: photometric.contrast(x, 1.4)),
    ('saturation_0.6', lambda x: photometric.saturation(x, 0.6)),
    ('saturation_1.4', lambda x: photometric.saturation(x, 1.4)),
    ('hue_-0.1', lambda x: photometric.hue(x, -0.1)),
    ('hue_0.07', lambda x: photometric.hue(x, 0.07)),
    ('grayscale', photometric.grayscale),
    ('solarize_0.5', lambda x: photometric.solarize(x, 0.5)),
    ('blur_k5_s0.7', lambda x: photometric.gaussian_blur(x, 0.7, 5)),
    ('blur_k9_s1.6', lambda x: photometric.gaussian_blur(x, 1.6, 9)),
  ],
)
def test_equals_torchvision(reference, name, op):
  np.testing.assert_allclose(jax.jit(op)(reference['image']), reference[name], rtol=0, atol=ATOL)


@pytest.mark.parametrize('delta', [-0.5, -0.31, 0.0, 0.25, 0.5])
def test_hue_equals_colorsys(delta):
  """Also on the ties between channels, where the sector of the hue changes."""
  grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 5)] * 3, indexing='ij'), -1).reshape(25, 5, 3)
  np.testing.assert_allclose(jax.jit(photometric.hue)(jnp.float32(grid), delta), _hue(grid, delta), rtol=0, atol=ATOL)


def test_blur_of_each_example_has_its_own_sigma_and_reflects():
  x = np.random.default_rng(0).random((3, 12, 9, 3), np.float32)
  sigma = np.array([0.1, 0.9, 2.0])
  got = jax.jit(jax.vmap(lambda x, s: photometric.gaussian_blur(x, s, 7)))(x, jnp.float32(sigma))
  for image, s, blurred in zip(x, sigma, got, strict=True):
    taps = np.exp(-0.5 * (np.arange(-3, 4) / s) ** 2)
    taps /= taps.sum()
    padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode='reflect')
    want = sum(taps[i] * taps[j] * padded[i : i + 12, j : j + 9] for i in range(7) for j in range(7))
    np.testing.assert_allclose(blurred, want, rtol=0, atol=ATOL)


@pytest.mark.parametrize('size', [0, 4, 17])
def test_blur_refuses_kernels_that_cannot_reflect(size):
  with pytest.raises(ValueError, match='kernel_size'):
    photometric.gaussian_blur(jnp.zeros((8, 20, 3)), 1.0, size)


def test_to_float_and_normalize():
  u = np.array([[[0, 51, 255]]], np.uint8)
  x = photometric.to_float(jnp.array(u))
  assert x.dtype == jnp.float32
  np.testing.assert_allclose(x, u / 255, rtol=1e-6)
  np.testing.assert_array_equal(photometric.to_float(x), x)  # floats are in [0, 1] already
  np.testing.assert_allclose(photometric.normalize(x, (0.0, 0.1, 0.5), (1.0, 0.5, 0.25)), [[[0, 0.2, 2]]], atol=1e-6)


@pytest.mark.parametrize(('strengths', 'impl'), [(FULL, 'v2'), (FULL, 'v1'), ((1.5, 0.4, 0.7, 0.0), 'v2')])
@pytest.mark.slow
def test_color_jitter_equals_a_slow_loop_over_the_drawn_order(strengths, impl):
  """In every order; clipped after each operation, which the strengths make happen."""
  rngs = jax.random.split(jax.random.key(1), 200)
  x = np.random.default_rng(0).random((4, 5, 3), np.float32)
  jitter = jax.jit(jax.vmap(lambda rng: photometric.color_jitter(rng, x, *strengths, impl)))
  order, factors, delta = map(np.asarray, jax.vmap(lambda rng: photometric.jitter_parameters(rng, *strengths, impl))(rngs))
  assert set(order) == set(range(24))
  for got, o, f, d in zip(jitter(rngs), order, factors, delta, strict=True):
    want = np.float64(x)
    for op in photometric.ORDERS[o]:
      grey = want @ np.array([0.2989, 0.587, 0.114])
      if op == photometric.BRIGHTNESS:
        want = want + f[0] if impl == 'v1' else f[0] * want
      elif op == photometric.CONTRAST:
        want = f[1] * want + (1 - f[1]) * grey.mean()
      elif op == photometric.SATURATION:
        want = f[2] * want + (1 - f[2]) * grey[..., None]
      else:
        want = _hue(want, d)
      want = np.clip(want, 0, 1)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_color_jitter_draws_uniformly():
  rngs = jax.random.split(jax.random.key(2), 12_000)
  for impl, addend in (('v2', 0), ('v1', 1)):
    order, factors, delta = jax.jit(
      jax.vmap(lambda rng, impl=impl: photometric.jitter_parameters(rng, 0.8, 1.2, 0.4, 0.1, impl))
    )(rngs)
    counts = np.bincount(order, minlength=24)
    assert np.sum((counts - 500) ** 2 / 500) < 55  # chi-square, 23 degrees of freedom: p = 0.0002
    drawn = np.concatenate([factors, delta[:, None]], 1)
    low, high = np.array([0.2 - addend, 0, 0.6, -0.1]), np.array([1.8 - addend, 2.2, 1.4, 0.1])
    low[0], high[0] = (-0.8, 0.8) if addend else (0.2, 1.8)
    levels = (np.sort(drawn, 0) - low) / (high - low)  # uniform on [0, 1] if the bounds are right
    assert np.abs(levels - np.linspace(0, 1, len(levels))[:, None]).max() < 0.02  # Kolmogorov-Smirnov: p = 0.0001
    assert np.abs(np.corrcoef(np.c_[drawn, order], rowvar=False) - np.eye(5)).max() < 0.05


def test_color_jitter_refuses_an_unknown_impl():
  with pytest.raises(ValueError, match='impl'):
    photometric.color_jitter(jax.random.key(0), jnp.zeros((2, 2, 3)), *FULL, 'v3')


def _hue(x, delta):
  """By the standard library, pixel by pixel."""
  flat = [colorsys.rgb_to_hsv(*pixel) for pixel in np.float64(x).reshape(-1, 3)]
  return np.array([colorsys.hsv_to_rgb((h + delta) % 1, s, v) for h, s, v in flat]).reshape(x.shape)
