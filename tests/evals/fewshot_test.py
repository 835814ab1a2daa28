import numpy as np
import pytest

from sslax import errors
from sslax.evals import fewshot, logistic


def task(noise=1.0, n=300, d=8, c=4, seed=0):
  rng = np.random.default_rng(seed)
  y = rng.integers(0, c, n)
  return np.float32(2 * np.eye(d)[y] + noise * rng.normal(size=(n, d))), y


@pytest.fixture(scope='module')
def data():
  x, y = task()
  return x[:200], y[:200], x[200:], y[200:]


# With one label a class, standardising four examples blows up the channels of noise: only centroids are right.
@pytest.mark.parametrize(('classifier', 'shots'), [('centroid', (1, 3)), ('ridge', (8, 12)), ('logistic', (4,))])
@pytest.mark.slow
def test_separated_clusters_are_classified(classifier, shots):
  x, y = task(noise=0.05)
  result = fewshot.low_shot(x[:200], y[:200], x[200:], y[200:], num_classes=4, shots=shots, draws=2, classifier=classifier)
  assert all(r['mean'] == 1 for r in result.values())


@pytest.mark.parametrize('classifier', ['centroid', 'ridge'])
def test_more_shots_are_better_and_runs_repeat(data, classifier):
  run = lambda **k: fewshot.low_shot(*data, num_classes=4, classifier=classifier, **k)
  result = run()
  assert result == run() and result != run(seed=1)
  assert result[1]['mean'] + 0.05 < result[10]['mean']
  for r in result.values():
    assert len(set(r['values'])) > 1 and len(r['values']) == 10
    assert r['mean'] == pytest.approx(np.mean(r['values']))
    assert r['stderr'] == pytest.approx(np.std(r['values'], ddof=1) / 10**0.5) == pytest.approx(r['std'] / 10**0.5)


def test_draws_are_nested_balanced_and_blind_to_features(data, monkeypatch):
  x, y, test_x, test_y = data
  seen = []
  spy = lambda cx, cy, tx, c: seen.append((cx[:, 0].astype(int), cy)) or np.zeros(len(tx), int)
  monkeypatch.setitem(fewshot._CLASSIFIERS, 'centroid', spy)
  for seed in (0, 1):  # features are the row's number and noise
    rows = np.float32(np.column_stack([np.arange(200), np.random.default_rng(seed).normal(size=200)]))
    fewshot.low_shot(rows, y, rows[:5], y[:5], num_classes=4, shots=(2, 5), draws=3)
  assert len(seen) == 12
  for a, b in zip(seen[:6], seen[6:], strict=True):
    np.testing.assert_array_equal(a[0], b[0])
  for small, large in zip(seen[0:6:2], seen[1:6:2], strict=True):
    assert set(small[0]) < set(large[0]) and len(set(large[0])) == 20
    np.testing.assert_array_equal(large[1], y[large[0]])
    assert np.bincount(small[1]).tolist() == [2] * 4
  assert len({tuple(s[0]) for s in seen[:6:2]}) == 3  # three draws differ


def test_index_makes_the_order_of_records_irrelevant(data):
  x, y, test_x, test_y = data
  order = np.random.default_rng(3).permutation(len(x))
  run = lambda rows, index: fewshot.low_shot(x[rows], y[rows], test_x, test_y, num_classes=4, index=index)
  straight = run(np.arange(len(x)), np.arange(len(x)))
  assert run(order, order) == straight and run(order, None) != straight


def test_centroid_is_cosine_of_unit_means():
  x, y = np.float32([[1, 0], [100, 100], [0, 1], [0, 5]]), np.array([0, 0, 1, 1])
  # Unit means: class 0 at 22.5 degrees, class 1 at 90; the border is 56.25 (raw means would put it at 67.4).
  angle = np.radians([55, 58])
  got = fewshot._centroid(x, y, np.float32(np.column_stack([np.cos(angle), np.sin(angle)])), 2)
  assert got.tolist() == [0, 1]


@pytest.mark.parametrize('n', [6, 40])  # fewer and more examples than channels: two ways to the same solution
def test_ridge_is_the_eigh_solution_of_big_vision(n):
  rng = np.random.default_rng(n)
  x, y, test_x = rng.normal(size=(n, 12)) * 30 + 5, np.arange(n) % 3, rng.normal(size=(500, 12)) * 30 + 5
  mean, std = x.mean(0), x.std(0) + 1e-5
  z, test_z = (np.pad((v - mean) / std, ((0, 0), (0, 1)), constant_values=100.0) for v in (x, test_x))
  eigs, q = np.linalg.eigh(z.T @ z)
  w = (q / (eigs + 2.0**10)) @ q.T @ z.T @ (2 * np.eye(3)[y] - 1)
  np.testing.assert_array_equal(fewshot._ridge(x, y, test_x, 3), (test_z @ w).argmax(1))


def test_logistic_is_linear_fit(data):
  x, y, test_x, _ = data
  np.testing.assert_array_equal(
    fewshot._logistic(x[:16], y[:16], test_x, 4), logistic.fit(x[:16], y[:16], 4, l2=1.0).rank(test_x)[:, 0]
  )


def test_refuses(data):
  with pytest.raises(errors.UserError, match='class . has'):
    fewshot.low_shot(*data, num_classes=4, shots=(150,))
  with pytest.raises(errors.UserError, match='Did you mean centroid'):
    fewshot.low_shot(*data, num_classes=4, classifier='centriod')
  with pytest.raises(errors.UserError, match='2 draws'):
    fewshot.low_shot(*data, num_classes=4, draws=1)
