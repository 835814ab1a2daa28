import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslax.ops.patches import grid_of, patchify, reconstruction, sides, unpatchify


def test_order_and_inverse():
  """Entry by entry: patch row, patch column, pixel row, pixel column, channel; height and width differ."""
  B, h, w, p, C = 2, 2, 3, 4, 3
  x = np.arange(B * h * p * w * p * C, dtype=np.float32).reshape(B, h * p, w * p, C)
  patches = np.asarray(patchify(x, p))
  assert patches.shape == (B, h * w, p * p * C)
  expected = [
    x[b, row * p + i, column * p + j, c]
    for b in range(B)
    for row in range(h)
    for column in range(w)
    for i in range(p)
    for j in range(p)
    for c in range(C)
  ]
  np.testing.assert_array_equal(patches.reshape(-1), expected)
  np.testing.assert_array_equal(unpatchify(patches, p, (h * p, w * p)), x)
  with pytest.raises(ValueError, match='8x12 does not divide into patches of 5x5'):
    patchify(x, 5)


@pytest.mark.parametrize('size, patch', [((4, 6, 9), (2, 3, 3)), ((4, 6), 2), ((12,), (3,)), ((2, 2, 4, 4), 2)])
def test_any_number_of_axes(size, patch):
  """Place by place, and back."""
  x = np.random.default_rng(0).standard_normal((2, *size, 2)).astype(np.float32)
  p = sides(patch, len(size))
  patches = np.asarray(patchify(x, patch)).reshape(2, *grid_of(size, patch), *p, 2)
  for place in np.ndindex(*size):
    at = tuple(i // k for i, k in zip(place, p, strict=True)) + tuple(i % k for i, k in zip(place, p, strict=True))
    np.testing.assert_array_equal(patches[(slice(None), *at)], x[(slice(None), *place)])
  np.testing.assert_array_equal(unpatchify(patchify(x, patch), patch, size), x)


def test_a_patch_of_another_rank_is_refused():
  with pytest.raises(ValueError, match=r'patch=\(2, 2\) has 2 sides, and the input 3 axes'):
    grid_of((4, 4, 4), (2, 2))


def test_reconstruction():
  x = np.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype(np.float32)
  masked = np.array([[0, 1, 1, 0], [1, 0, 0, 1]], bool)
  mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
  out = jax.jit(lambda x, y, m: reconstruction(x, y, m, 2, mean, std))(x, jnp.zeros((2, 4, 12)), masked)
  original = np.clip(x * np.array(std) + np.array(mean), 0, 1)
  removed = masked.reshape(2, 2, 2).repeat(2, 1).repeat(2, 2)[..., None]
  np.testing.assert_allclose(out['image'], original, atol=1e-6)
  np.testing.assert_allclose(out['prediction'], np.broadcast_to(np.array(mean), x.shape), atol=1e-6)
  np.testing.assert_allclose(out['masked'], np.where(removed, 0.5, original), atol=1e-6)
  np.testing.assert_allclose(out['reconstruction'], np.where(removed, np.array(mean), original), atol=1e-6)
