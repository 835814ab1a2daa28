import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from sslax import errors
from sslax.evals import knn


def slow_knn(train_x, train_y, x, k, temperature, num_classes):
  """The votes [M, C] of the definition, one query and one neighbour at a time."""
  votes = np.zeros((len(x), num_classes))
  for i, q in enumerate(np.float64(x)):
    s = [q @ g / (np.linalg.norm(q) * np.linalg.norm(g)) for g in np.float64(train_x)]
    for j in sorted(range(len(s)), key=lambda j: (-s[j], j))[:k]:
      votes[i, train_y[j]] += np.exp(s[j] / temperature)
  return votes


def random_task(seed, n=50, m=20, d=6, c=4):
  rng = np.random.default_rng(seed)
  return np.float32(rng.normal(size=(n, d))), rng.integers(0, c, n), np.float32(rng.normal(size=(m, d)))


@hypothesis.settings(max_examples=12, deadline=None)
@hypothesis.given(
  seed=st.integers(0, 999),
  n=st.integers(1, 300),
  m=st.integers(1, 20),
  k=st.sampled_from([1, 5, 20]),
  t=st.sampled_from([0.02, 0.07, 1.0]),
)
def test_equals_brute_force(seed, n, m, k, t):
  train_x, train_y, x = random_task(seed, n, m)
  votes = slow_knn(train_x, train_y, x, k, t, 4)
  got = knn.predict(train_x, train_y, x, k=k, temperature=t, num_classes=4, batch=16)
  assert got.shape == (m,)
  np.testing.assert_allclose(votes[np.arange(m), got], votes.max(1), rtol=1e-4)  # the class itself, but for float32 ties


def test_many_blocks_equal_one(monkeypatch):
  train_x, train_y, x = random_task(0, 1000, 33)
  ask = lambda: knn.predict(train_x, train_y, x, k=20, num_classes=4, batch=8)
  one = ask()
  monkeypatch.setattr(knn, '_ROWS', 128)
  np.testing.assert_array_equal(ask(), one)
  votes = slow_knn(train_x, train_y, x, 20, 0.07, 4)
  np.testing.assert_array_equal(one, np.argsort(-votes, 1, kind='stable')[:, 0])


def test_ties_go_to_the_first_record_and_the_lowest_class(monkeypatch):
  monkeypatch.setattr(knn, '_ROWS', 128)
  x = np.ones((300, 4), np.float32)  # all similarities equal, over three blocks
  y = np.full(300, 2)
  y[:3] = [3, 1, 3]
  assert knn.predict(x, y, x[:1], k=3, num_classes=4)[0] == 3
  assert knn.predict(x, y, x[:1], k=2, num_classes=4)[0] == 1  # one vote each for 3 and 1


def test_scale_of_features_and_small_temperature():
  train_x, train_y, x = random_task(1)
  plain = knn.predict(train_x, train_y, x, num_classes=4)
  np.testing.assert_array_equal(knn.predict(train_x * 100, train_y, x / 50, num_classes=4), plain)
  nearest = knn.predict(train_x, train_y, x, num_classes=4, k=1)
  np.testing.assert_array_equal(knn.predict(train_x, train_y, x, num_classes=4, k=20, temperature=1e-3), nearest)  # exp(1000)


def test_renaming_classes_renames_predictions():
  train_x, train_y, x = random_task(2)
  new = np.array([2, 0, 3, 1])
  np.testing.assert_array_equal(
    knn.predict(train_x, new[train_y], x, num_classes=4), new[knn.predict(train_x, train_y, x, num_classes=4)]
  )


def test_accuracy_of_clusters():
  rng = np.random.default_rng(0)
  y = rng.integers(0, 4, 400)
  x = np.float32(10 * np.eye(6)[y] + rng.normal(size=(400, 6)))
  assert knn.accuracy(x[:300], y[:300], x[300:], y[300:], num_classes=4) == 1
  assert knn.accuracy(x[:300], y[:300], x[300:], (y[300:] + 1) % 4, num_classes=4) == 0


def test_k_beyond_the_gallery_is_all_of_it():
  train_x, train_y, x = random_task(3, n=7)
  votes = slow_knn(train_x, train_y, x, 7, 1.0, 4)
  got = knn.predict(train_x, train_y, x, k=200, temperature=1.0, num_classes=4)
  np.testing.assert_array_equal(got, np.argsort(-votes, 1, kind='stable')[:, 0])


def test_compiles_once():
  train_x, train_y, x = random_task(4, n=200, m=50)
  knn._classify.clear_cache()
  for size in (50, 17, 16):
    knn.predict(train_x, train_y, x[:size], num_classes=4, batch=16, temperature=size / 10)
  assert knn._classify._cache_size() == 1


@pytest.mark.parametrize('change', [{'k': 0}, {'temperature': 0}, {'num_classes': 2}])
def test_refuses(change):
  train_x, train_y, x = random_task(5)
  with pytest.raises(errors.UserError):
    knn.predict(train_x, train_y, x, **{'num_classes': 4, **change})
  with pytest.raises(errors.UserError, match='6 features and the queries 5'):
    knn.predict(train_x, train_y, x[:, :5], num_classes=4)
