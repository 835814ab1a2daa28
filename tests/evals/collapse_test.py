import numpy as np
import pytest

from sslax import errors
from sslax.evals import collapse


def gaussian(n=2000, d=16, seed=0):
  return np.float32(np.random.default_rng(seed).normal(size=(n, d)))


def test_isotropic_features_are_healthy():
  m = collapse.metrics(gaussian())
  assert m['feature_std'] == pytest.approx(1, abs=0.01)
  assert m['rankme'] == pytest.approx(16, rel=0.01) and m['rank_fraction'] == pytest.approx(1, rel=0.01)
  # Uniform on the sphere: log E exp(-2 (2 - 2 c)), c the cosine of two independent directions.
  u = gaussian(200_000, 16, 1)
  c = u[:, 0] / np.linalg.norm(u, axis=1)
  assert m['uniformity'] == pytest.approx(np.log(np.mean(np.exp(-4 + 4 * np.float64(c)))), abs=0.01)


@pytest.mark.parametrize('x', [np.ones((50, 8)), np.zeros((50, 8)), np.full((50, 8), 1e-20), np.full((3, 700), -7.0)])
def test_constant_features_are_finite_and_flagged(x):
  m = collapse.metrics(x, views=np.stack([x, x], 1))
  assert np.isfinite(list(m.values())).all()
  assert m['feature_std'] < 1e-3 and m['rankme'] == pytest.approx(1, abs=0.01)
  assert m['uniformity'] == pytest.approx(0, abs=1e-6) and m['alignment'] == 0


def test_rank():
  one = np.outer(np.arange(1, 301), np.linspace(1, 2, 64))
  assert collapse.metrics(one)['rankme'] == pytest.approx(1, abs=0.005)
  x = gaussian(500, 32)
  x[:, 8:] = 0
  assert collapse.metrics(x)['rankme'] == pytest.approx(8, rel=0.02)
  assert collapse.metrics(x)['rank_fraction'] == pytest.approx(8 / 32, rel=0.02)


@pytest.mark.parametrize('shape', [(100, 20), (20, 100)])
def test_rankme_is_the_entropy_of_singular_values(shape):
  x = gaussian(*shape) * np.logspace(0, -3, shape[1]) + 1
  s = np.linalg.svd(x, compute_uv=False)
  p = s / s.sum() + 1e-7
  assert collapse.metrics(x)['rankme'] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-4)


def test_uniformity_and_alignment_are_the_papers():
  x = gaussian(700, 5) + 0.5  # more than one block
  u = x / np.linalg.norm(x, axis=1, keepdims=True)
  pairs = [np.exp(-2 * np.square(u[i + 1 :] - u[i]).sum(1)) for i in range(len(u))]
  m = collapse.metrics(x, views=np.stack([x, np.roll(x, 1, 0)], 1))
  assert m['uniformity'] == pytest.approx(np.log(np.concatenate(pairs).mean()), abs=1e-5)
  assert m['alignment'] == pytest.approx(np.square(u - np.roll(u, 1, 0)).sum(1).mean(), rel=1e-5)
  assert 'alignment' not in collapse.metrics(x)


def test_subsample_is_seeded_and_spread_over_the_rows():
  x = np.concatenate([gaussian(100), np.ones((100, 16))])
  m = collapse.metrics(x, sample=50)
  assert m == collapse.metrics(x, sample=50)
  assert m['uniformity'] == pytest.approx(collapse.metrics(x)['uniformity'], abs=0.4)
  assert collapse.metrics(x, sample=50, seed=1)['uniformity'] != m['uniformity']


def test_refuses():
  with pytest.raises(errors.UserError, match='at least 2'):
    collapse.metrics(np.ones((1, 4)))
  with pytest.raises(errors.UserError, match='NaN or Inf in 1 of 4 rows'):
    collapse.metrics(np.where(np.eye(4) * np.arange(4)[:, None] == 3, np.nan, 1))
  with pytest.raises(errors.UserError, match='views'):
    collapse.metrics(np.ones((4, 4)), views=np.ones((4, 3, 4)))
