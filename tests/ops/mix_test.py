import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sslax.ops.mix import mix

B, S, K = 8, 10, 3
SEEDS = 200


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def many(keys, mixup_alpha, cutmix_alpha, switch_prob=0.5, prob=1.0):
  """([n, B, S, S] weights of each row's own image, [n, B] of its own target): images are one-hot in their row number."""
  images = jnp.broadcast_to(jnp.eye(B)[:, None, None], (B, S, S, B))
  x, y = jax.vmap(lambda key: mix(key, images, jnp.eye(B), mixup_alpha, cutmix_alpha, switch_prob, prob))(keys)
  return x, y


def draws(*args):
  x, y = (np.asarray(a) for a in many(jax.random.split(jax.random.key(0), SEEDS), *args))
  own, i = np.arange(B), np.arange(B)
  np.testing.assert_allclose(x.sum(-1), 1, rtol=1e-6)  # nothing but the row itself and ...
  np.testing.assert_allclose(x[:, own, :, :, i] + x[:, own, :, :, i ^ 1], 1, rtol=1e-6)  # ... its partner
  np.testing.assert_allclose(y[:, own, i] + y[:, own, i ^ 1], 1, rtol=1e-6)
  w, target = x[:, own, :, :, i].swapaxes(0, 1), y[:, own, i]
  np.testing.assert_array_equal(w, np.broadcast_to(w[:, :1], w.shape))  # one w a batch
  np.testing.assert_allclose(target, w.mean((2, 3)), rtol=1e-5, atol=1e-6)  # the targets by what is really seen of each image
  return w[:, 0], target[:, 0]


def box_share(w):
  """[n] share of the pixels that are the partner's; asserts that they are a rectangle."""
  inside = w < 0.5
  rows, columns = inside.any(2), inside.any(1)
  np.testing.assert_array_equal(inside, rows[:, :, None] & columns[:, None])
  for line in (*rows, *columns):
    assert np.abs(np.diff(np.r_[0, line, 0])).sum() in (0, 2), 'not one interval'
  return inside.mean((1, 2))


def test_mixup_draws_from_its_beta():
  w, target = draws(0.8, 0.0)
  assert np.ptp(w, axis=(1, 2)).max() < 1e-6  # the same weight everywhere
  # Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1)).
  np.testing.assert_allclose(target.mean(), 0.5, atol=0.06)
  np.testing.assert_allclose(target.var(), 1 / (4 * 2.6), rtol=0.2)


@pytest.mark.slow
def test_cutmix_cuts_one_box_as_timm_does():
  w, target = draws(0.0, 1.0)
  assert set(np.unique(w)) == {0.0, 1.0}
  share = box_share(w)
  np.testing.assert_allclose(target, 1 - share, atol=1e-6)
  # timm's rand_bbox, in numpy, with other random numbers: the same distribution of shares.
  rng, expected = np.random.default_rng(0), []
  for _ in range(20000):
    cut = int(S * np.sqrt(1 - rng.beta(1.0, 1.0)))
    sides = [np.clip(c + cut // 2, 0, S) - np.clip(c - cut // 2, 0, S) for c in rng.integers(0, S, 2)]
    expected.append(sides[0] * sides[1] / S**2)
  np.testing.assert_allclose(share.mean(), np.mean(expected), atol=0.04)
  np.testing.assert_allclose(np.quantile(share, [0.25, 0.5, 0.75]), np.quantile(expected, [0.25, 0.5, 0.75]), atol=0.08)
  corner = w[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(0)
  assert np.ptp(corner) < 0.1 and (w.mean(0).argmin() // S) in range(2, S - 2)  # boxes lie all over, the middle is hit most


@pytest.mark.slow
def test_switch_and_prob():
  w, _ = draws(0.8, 1.0, 0.3)
  cut = np.isin(w, (0.0, 1.0)).all((1, 2))
  np.testing.assert_allclose(cut.mean(), 0.3, atol=0.1)
  w, target = draws(1.0, 0.0, 0.5, 0.25)
  np.testing.assert_allclose((target < 1).mean(), 0.25, atol=0.1)
  assert (w[target == 1] == 1).all()


@pytest.mark.slow
def test_no_image_leaves_its_chip():
  """Eight devices give what one gives, and the compiled program moves nothing between them."""
  rng = np.random.default_rng(0)
  images, targets = rng.standard_normal((16, S, S, 3)).astype(np.float32), np.eye(16, K, dtype=np.float32)
  run = jax.jit(lambda key, x, y: mix(key, x, y, 0.8, 1.0))
  one = run(jax.random.key(1), images, targets)
  rows = NamedSharding(jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,)), P('data'))
  sharded = jax.device_put((images, targets), rows)
  eight = run(jax.random.key(1), *sharded)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(b), a, rtol=1e-6, atol=1e-7), one, eight)
  program = run.lower(jax.random.key(1), *sharded).compile().as_text()
  assert not [word for word in ('all-gather', 'all-to-all', 'collective-permute', 'all-reduce') if word in program]


@pytest.mark.parametrize('rows, alphas, word', [(8, (0.0, 0.0), 'one must be positive'), (7, (1.0, 0.0), 'pairs')])
def test_refusals(rows, alphas, word):
  with pytest.raises(ValueError, match=word):
    mix(jax.random.key(0), jnp.zeros((rows, 4, 4, 3)), jnp.zeros((rows, 2)), *alphas)
