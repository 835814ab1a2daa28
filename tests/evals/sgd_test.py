"""The SGD probe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from sslax import errors
from sslax.evals import sgd


@pytest.fixture(scope='module')
def digits():
  x, y = load_digits(return_X_y=True)
  p = np.random.default_rng(0).permutation(len(x))
  return np.float32(x[p][:1300]), y[p][:1300], np.float32(x[p][1300:]), y[p][1300:]


def digit_batches(x, y, size):
  rng = np.random.default_rng(0)
  while True:
    rows = rng.integers(0, len(x), size)
    yield {'arrays': np.uint8(x[rows] * 15).reshape(-1, 8, 8, 1), 'label': y[rows]}


@pytest.mark.slow
def test_sgd_probe_learns_with_its_schedule(digits):
  x, y, test_x, test_y = digits
  features_fn = jax.jit(lambda image: jnp.float32(image).reshape(len(image), -1) / 255 * 4)
  shapes = []

  def augment(rng, image):
    shapes.append((image.shape, image.dtype))
    return image + jax.random.randint(rng, image.shape, 0, 8).astype(jnp.uint8)

  run = lambda **changes: sgd.sgd_probe(
    features_fn,
    digit_batches(x, y, 64),
    np.float32(np.uint8(test_x * 15)) / 255 * 4,
    test_y,
    **{'num_classes': 10, 'steps': 200, 'batch_size': 64, 'augment': augment, **changes},
  )
  result = run()
  assert result['accuracy'] > 0.9 and result['top5'] > 0.99 and result['loss'] < 0.5
  assert shapes == [((64, 8, 8, 1), jnp.uint8)]  # traced once
  assert run() == result and run(seed=1) != result
  with pytest.raises(errors.UserError, match='batch_size=32'):
    run(batch_size=32)
  with pytest.raises(errors.UserError, match='lower learning_rate'):
    run(learning_rate=1e39)


def test_sgd_probe_is_nesterov_with_cosine_decay():
  """Three steps by hand: the last loss has seen two rates."""
  x, y = np.float32([[1, 0], [0, 1]]), np.array([0, 1])
  steps, size, rate = 3, 2, 25.6  # rate * 2 / 256 = 0.2
  w, v = np.zeros((2, 2)), np.zeros((2, 2))
  b, vb = np.zeros(2), np.zeros(2)
  losses = []
  for step in range(steps):
    p = np.exp(x @ w + b) / np.exp(x @ w + b).sum(1, keepdims=True)
    losses.append(-np.log(p[np.arange(2), y]).mean())
    g, gb = x.T @ (p - np.eye(2)[y]) / 2, (p - np.eye(2)[y]).mean(0)
    v, vb = 0.9 * v + g, 0.9 * vb + gb
    lr = 0.2 * (1 + np.cos(np.pi * step / steps)) / 2
    w, b = w - lr * (g + 0.9 * v), b - lr * (gb + 0.9 * vb)
  got = sgd.sgd_probe(
    lambda z: z, [{'arrays': x, 'label': y}] * 3, x, y, num_classes=2, steps=steps, batch_size=size, learning_rate=rate
  )
  assert got['loss'] == pytest.approx(losses[-1], rel=1e-5)
  with pytest.raises(errors.UserError, match='ended after 1 of 2'):
    sgd.sgd_probe(lambda z: z, [{'arrays': x, 'label': y}], x, y, num_classes=2, steps=2, batch_size=2)
