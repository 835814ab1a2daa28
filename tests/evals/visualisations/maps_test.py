"""Maps of features: where points land, what the title says; few, equal, not finite and misnamed ones."""

import numpy as np
import pytest
from evals.visualisations.looking import opened
from sklearn.datasets import load_digits

from sslax.errors import UserError
from sslax.evals import visualisations
from sslax.evals.visualisations import maps


def colours(image):
  return {tuple(c) for c in np.asarray(image).reshape(-1, 3)}


def test_pca_equals_svd():
  for shape in ((40, 7), (7, 40), (2, 5), (1, 3)):
    x = np.float32(np.random.default_rng(0).normal(2.0, 3.0, shape))
    z, share = maps._pca(x, 10)
    centred = np.float64(x) - np.float64(x).mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    n = min(10, len(s))
    assert z.shape == (len(x), 10) and share.shape == (10,)
    np.testing.assert_allclose(np.abs(z[:, :n]), np.abs(u * s)[:, :n], atol=1e-6)
    np.testing.assert_allclose(share[:n] * (s**2).sum(), s[:n] ** 2, rtol=1e-6, atol=1e-9)
    assert not z[:, n:].any()


def test_pca_of_equal_points_is_zero():
  rounding = np.float32(1e-7 * np.random.default_rng(0).integers(-1, 2, (20, 5)))
  for x in (np.full((20, 5), 0.1, np.float32), 1 + rounding):
    z, share = maps._pca(x, 2)
    assert not z.any() and not share.any()
  assert np.ptp(1 + rounding) > 0
  tiny = np.float32(1000 + 0.01 * np.random.default_rng(0).normal(size=(20, 5)))  # small differences are differences
  assert maps._pca(tiny, 2)[0].any()
  assert np.isfinite(maps._pca(np.float32([[3e38, 0], [-3e38, 1], [0, 2]]), 2)[0]).all()


@pytest.mark.slow
def test_tsne_separates_the_digits():
  digits = load_digits()
  x, y = digits.data[:300], digits.target[:300]
  z = maps._tsne(maps._pca(np.float32(x), 50)[0], 0)
  near = np.argsort(((z[:, None] - z) ** 2).sum(-1), 1)[:, 1]
  assert z.shape == (300, 2) and (y[near] == y).mean() > 0.9  # 1-NN on the pixels of these 300 has .95
  drawn_twice = [visualisations.feature_map(x[:50], y[:50], method='tsne', seed=seed) for seed in (0, 0)]
  assert drawn_twice[0] == drawn_twice[1]


def drawn(monkeypatch, *arguments, **keywords):
  """(image, texts) of a feature map."""
  seen = []
  save = maps.save

  def spy(figure, kind):
    data = save(figure, kind)
    seen.extend(t.get_text() for t in figure.findobj(lambda a: hasattr(a, 'get_text')))
    return data

  monkeypatch.setattr(maps, 'save', spy)
  return opened(visualisations.feature_map(*arguments, **keywords)), [t for t in seen if t]


def test_feature_map_names_classes_and_method(monkeypatch):
  digits = load_digits()
  names = ['zero', '_one', '$two^$', 'three', '<script>', *'56789']
  image, words = drawn(monkeypatch, digits.data, digits.target, names)
  assert image.shape[0] > 500 and image.shape[1] > 900
  assert {'PCA of 1,797 points in 64 dimensions', 'zero', '_one', '$two^$', '<script>', '9'} <= set(words)
  assert any('15%' in w for w in words)
  image, words = drawn(monkeypatch, digits.data, digits.target, names, max_points=9)
  assert 'PCA of 9 points in 64 dimensions' in words
  assert [w for w in dict.fromkeys(words) if w in names] == names  # colours and legend do not depend on the subset
  words = drawn(monkeypatch, digits.data[:40], digits.target[:40], method='tsne')[1]
  assert 't-SNE of 40 points in 64 dimensions' in words
  words = drawn(monkeypatch, digits.data[:4], digits.target[:4], method='tsne')[1]
  assert 'PCA of 4 points in 64 dimensions' in words  # too few for t-SNE, and the title says so


def test_feature_map_of_many_classes_has_a_scale(monkeypatch):
  x = np.random.default_rng(0).normal(size=(100, 4))
  assert 'class number' not in drawn(monkeypatch, x, np.arange(100) % 20)[1]
  image, words = drawn(monkeypatch, x, np.arange(100) % 21)
  assert 'class number' in words
  twenty = {(visualisations.PALETTE[i % 7], visualisations.MARKERS[i // 7]) for i in range(20)}
  assert len(twenty) == 20


def test_feature_map_says_what_it_left_out(monkeypatch):
  x = np.random.default_rng(0).normal(size=(30, 4))
  x[3, 1], x[4, 0] = np.nan, np.inf
  words = drawn(monkeypatch, x, np.array([-1] * 10 + [0] * 20), ['cat'])[1]
  assert 'PCA of 28 points in 4 dimensions, 2 not finite left out' in words
  assert 'unlabelled' in words and 'cat' in words


@pytest.mark.parametrize('method', ['pca', 'tsne'])
@pytest.mark.parametrize(
  'x',
  [
    np.ones((20, 5)),
    np.zeros((1, 3)),
    np.eye(2),
    np.eye(3),
    np.arange(12.0)[:, None],
    np.repeat(np.eye(6), 3, 0),
    np.full((9, 4), 0.1),
  ],
  ids=['constant', 'one', 'two', 'three', 'one-dimension', 'copies', 'rounding'],
)
@pytest.mark.filterwarnings('error')
def test_feature_map_survives(x, method):
  image = opened(visualisations.feature_map(np.float32(x), np.zeros(len(x), int), ['only'], method))
  blue = np.abs(image.astype(int) - (0, 0x72, 0xB2)).sum(-1) < 120
  assert blue.sum() > 20  # its points are there


def test_feature_map_refuses():
  with pytest.raises(UserError, match="'pca' or 'tsne'"):
    visualisations.feature_map(np.eye(3), np.zeros(3), method='umap')
  with pytest.raises(UserError, match='finite'):
    visualisations.feature_map(np.full((3, 2), np.nan), np.zeros(3))
  with pytest.raises(UserError, match=r'\[N, D\]'):
    visualisations.feature_map(np.eye(3), np.zeros(2))


def test_feature_map_draws_names_that_are_no_text(monkeypatch):
  digits = load_digits()
  names = ('caf\udce9', 'a\x00b', 'two\nlines', '\ufffe', *'456789')  # os.fsdecode(b'caf\xe9'): the name of a folder
  image, words = drawn(monkeypatch, digits.data[:200], digits.target[:200], names)
  assert {'caf\ufffd', 'a\ufffdb', 'two lines', '\ufffd', '9'} <= set(words)
  assert image.shape[0] > 500
