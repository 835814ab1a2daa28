import jax
import numpy as np

from sslax.losses.reconstruction import masked_l1, masked_mse, normalize_patches


def example(B=3, T=5, pixels=4):
  rng = np.random.default_rng(0)
  masked = np.zeros((B, T), bool)
  masked[0, :2] = masked[1, 4] = True  # rows may lose different numbers: the mean is over the batch's patches
  return rng.standard_normal((B, T, 3 * pixels)), rng.standard_normal((B, T, 3 * pixels)), masked


def test_mse_is_the_mean_over_removed_patches_of_the_batch():
  y, x, masked = example()
  total = count = 0
  for b in range(3):
    for t in range(5):
      if masked[b, t]:
        total += sum((y[b, t, i] - x[b, t, i]) ** 2 for i in range(12)) / 12
        count += 1
  loss, grad = jax.jit(jax.value_and_grad(masked_mse))(np.float32(y), np.float32(x), masked)
  np.testing.assert_allclose(loss, total / count, rtol=1e-6)
  np.testing.assert_allclose(grad, 2 * (y - x) * masked[..., None] / 12 / count, rtol=1e-5, atol=1e-7)
  assert jax.jit(masked_mse)(np.float32(y), np.float32(x), masked & False) == 0


def test_l1_is_the_mean_over_removed_pixels():
  y, x, masked = example()
  total = sum(np.abs(y[b, t] - x[b, t]).sum() for b, t in zip(*np.nonzero(masked), strict=True))
  loss = jax.jit(masked_l1)
  np.testing.assert_allclose(loss(np.float32(y), np.float32(x), masked), total / (3 * 4 + 1e-5) / 3, rtol=1e-6)
  assert loss(np.float32(y), np.float32(x), masked & False) == 0


def test_normalize_patches():
  _, x, _ = example()
  normed, mean, std = jax.jit(normalize_patches)(np.float32(x))
  np.testing.assert_allclose(mean[..., 0], x.mean(-1), atol=1e-6)
  np.testing.assert_allclose(std[..., 0], np.sqrt(((x - x.mean(-1, keepdims=True)) ** 2).sum(-1) / 11 + 1e-6), rtol=1e-6)
  np.testing.assert_allclose(normed * std + mean, x, atol=1e-5)
  flat, _, std = jax.jit(normalize_patches)(np.ones((1, 1, 12), np.float32))  # one colour: no division by 0
  assert np.all(flat == 0) and np.allclose(std, 1e-3)
