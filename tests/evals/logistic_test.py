import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from sslax import errors
from sslax.evals import logistic


@pytest.fixture(scope='module')
def digits():
  x, y = load_digits(return_X_y=True)
  p = np.random.default_rng(0).permutation(len(x))
  return np.float32(x[p][:1300]), y[p][:1300], np.float32(x[p][1300:]), y[p][1300:]


@pytest.mark.parametrize('l2', [0.1, 10.0])
@pytest.mark.slow
def test_fit_equals_scikit_learn(digits, l2):
  x, y, test_x, test_y = digits
  ours = logistic.fit(x, y, 10, l2=l2, tolerance=1e-6)
  z, test_z = (x - ours.mean) / ours.std, (test_x - ours.mean) / ours.std
  with threadpool_limits(1):  # thousands of tiny products: on a busy machine its threads wait for each other
    theirs = LogisticRegression(C=1 / l2, tol=1e-6, max_iter=2000).fit(z, y)
  log_p = theirs.predict_log_proba(z)[np.arange(len(y)), y]
  loss = -log_p.mean() + l2 / 2 / len(y) * np.square(theirs.coef_).sum()
  assert ours.converged
  np.testing.assert_allclose(ours.loss, loss, rtol=1e-4)
  assert abs((ours.rank(test_x)[:, 0] == test_y).mean() - theirs.score(test_z, test_y)) <= 0.005


@pytest.mark.slow
def test_padding_and_blocks_change_nothing(digits, monkeypatch):
  x, y, test_x, _ = digits
  one = logistic.fit(x, y, 10, l2=10.0, tolerance=1e-6)
  monkeypatch.setattr(logistic, '_ROWS', 512)  # three blocks, the last with padding
  many = logistic.fit(x, y, 10, l2=10.0, tolerance=1e-6)
  np.testing.assert_allclose(many.loss, one.loss, rtol=1e-5)
  np.testing.assert_allclose(many.w, one.w, atol=1e-3)
  np.testing.assert_array_equal(many.rank(test_x, 3)[:, 0], many.rank(test_x)[:, 0])


def test_scale_shift_and_constant_channels_do_not_matter(digits):
  x, y, test_x, _ = digits
  assert np.ptp(x[:, 0]) == 0
  plain, moved = logistic.fit(x, y, 10, l2=1.0, tolerance=1e-6), logistic.fit(x * 1e3 + 5e3, y, 10, l2=1.0, tolerance=1e-6)
  assert plain.converged and moved.converged
  np.testing.assert_allclose(moved.loss, plain.loss, rtol=1e-4)
  assert (moved.rank(test_x * 1e3 + 5e3) == plain.rank(test_x)).mean() > 0.995


def test_probe_chooses_on_held_out_data_and_refits(digits):
  x, y, test_x, test_y = digits
  result = logistic.probe(x, y, test_x, test_y, 10)
  theirs = LogisticRegression(C=1 / result['l2'], max_iter=1000).fit((x - x.mean(0)) / (x.std(0) + 1e-9), y)
  score = theirs.score((test_x - x.mean(0)) / (x.std(0) + 1e-9), test_y)
  assert abs(result['accuracy'] - score) <= 0.005 and result['accuracy'] > 0.95
  grid = result['grid']
  assert grid['l2'] == sorted(logistic.L2) and len(grid['val_accuracy']) == 12
  chosen = grid['val_accuracy'][grid['l2'].index(result['l2'])]
  assert chosen == max(grid['val_accuracy']) and grid['val_accuracy'][-1] < 0.5  # l2 = 1e5 leaves no weights
  assert result['l2'] == max(l for l, a in zip(grid['l2'], grid['val_accuracy'], strict=True) if a == chosen)
  refit = logistic.fit(x, y, 10, l2=result['l2'])  # on all of train
  assert result['iterations'] == refit.iterations
  assert result['accuracy'] == pytest.approx((refit.rank(test_x)[:, 0] == test_y).mean(), abs=1e-6)
  assert result['top5'] >= result['accuracy']


def test_probe_with_a_validation_set_listens_to_it(digits):
  """Validation labels that deny the training labels: the best is the strength that forgets most."""
  x, y, test_x, test_y = digits
  result = logistic.probe(x[:803], y[:803], test_x, test_y, 10, val=(test_x, (test_y + 1) % 10), l2=(1.0, 1e9))
  assert result['l2'] == 1e9


def test_held_out_is_stratified_and_seeded():
  y = np.repeat([0, 1, 2, 3], [100, 10, 2, 1])
  held = logistic._held_out(y, 0.1, 0)
  assert [held[y == c].sum() for c in range(4)] == [10, 1, 1, 0]
  np.testing.assert_array_equal(held, logistic._held_out(y, 0.1, 0))
  assert (held != logistic._held_out(y, 0.1, 1)).any()


def test_compiles_once_for_search_and_refit(digits):
  x, y, test_x, test_y = digits
  logistic._minimise.clear_cache()
  logistic.probe(x, y, test_x, test_y, 10, l2=(1.0, 10.0), max_iter=5)
  assert logistic._minimise._cache_size() == 1


def test_refuses(digits):
  x, y, test_x, test_y = digits
  with pytest.raises(errors.UserError, match='held out'):
    logistic.probe(x, y, test_x, test_y, 10, val_fraction=0.0)
  with pytest.raises(errors.UserError, match='0 to 8'):
    logistic.fit(x, y, 9, l2=1.0)
  with pytest.raises(errors.UserError, match='64 features and test 63'):
    logistic.probe(x, y, test_x[:, 1:], test_y, 10)
