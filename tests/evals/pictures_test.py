"""Pictures: what is drawn, where, in which colours; and inputs that are small, constant, not finite or misnamed."""

import io
import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from sslax.errors import UserError
from sslax.evals import pictures

RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 255, 0)


def plain(colour, height=8, width=8):
  return np.full((height, width, 3), colour, np.uint8)


def box(image, colour):
  """(x0, y0, x1, y1) of the pixels of exactly this colour; x1 and y1 are outside."""
  y, x = np.nonzero((np.asarray(image) == colour).all(-1))
  return (x.min(), y.min(), x.max() + 1, y.max() + 1) if len(x) else None


def opened(data):
  return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))


def points(svg):
  """[n, 2] vertices of the longest path in an SVG: a curve."""
  paths = [p.attrib.get('d', '') for p in ElementTree.fromstring(svg).iter('{http://www.w3.org/2000/svg}path')]
  xy = [np.array(re.findall(r'[ML] (\S+) (\S+)', d), float) for d in paths]
  return max(xy, key=len)


def texts(svg):
  return [''.join(t.itertext()) for t in ElementTree.fromstring(svg).iter('{http://www.w3.org/2000/svg}text')]


# Contact sheets


def test_sheet_places_images():
  image = pictures.sheet([[plain(RED), plain(BLUE)], [plain(GREEN)]])
  assert image.mode == 'RGB' and image.size == (2 * 96 + 6 + 2 * 14, 2 * 96 + 6 + 2 * 14)
  assert box(image, RED) == (14, 14, 110, 110)
  assert box(image, BLUE) == (116, 14, 212, 110)
  assert box(image, GREEN) == (14, 116, 110, 212)


def test_sheet_enlarges_pixels_to_squares():
  small = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
  image = np.asarray(pictures.sheet([[small]]))
  assert (image[14:-14, 14:-14] == small.repeat(12, 0).repeat(12, 1)).all()


def test_sheet_keeps_relative_sizes_in_the_middle_of_cells():
  image = pictures.sheet([[plain(RED, 16, 16), plain(BLUE, 8, 8)], [plain(GREEN, 8, 8), plain(RED, 8, 8)]])
  assert box(image, BLUE) == (14 + 96 + 6, 14 + 24, 14 + 96 + 6 + 48, 14 + 72)
  assert box(image, GREEN) == (14 + 24, 116, 14 + 72, 116 + 48)


def test_sheet_shrinks_large_images_and_obeys_scale():
  assert box(pictures.sheet([[plain(RED, 300, 600)]]), RED) == (14, 14, 14 + 256, 14 + 128)
  assert box(pictures.sheet([[plain(RED, 224, 224)]]), RED) == (14, 14, 238, 238)
  assert box(pictures.sheet([[plain(RED)]], scale=3), RED) == (14, 14, 38, 38)


def test_sheet_writes_labels_beside_images():
  image = np.asarray(pictures.sheet([[plain(RED)], [plain(BLUE)]], ['cat', 'a very long name ' * 5], ['original'], 'A title'))
  x0, y0, x1, y1 = box(image, RED)
  bx0, by0, _, by1 = box(image, BLUE)
  assert x0 == bx0
  dark = (image < 128).all(-1)
  assert dark[y0:y1, :x0].any() and dark[by0:by1, :x0].any()  # row labels
  assert (image[y0 - 22 : y0, x0:x1] < 200).any()  # column label
  assert dark[14:28, 14:100].any()  # title
  assert not dark[:, :14].any()  # nothing runs into the margin
  assert not dark[:, x0 - 6 : x0].any()  # nor into the images


def test_sheet_accepts_grey():
  assert box(pictures.sheet([[np.full((8, 8), 77, np.uint8), np.full((8, 8, 1), 99, np.uint8)]]), (99,) * 3) == (
    116,
    14,
    212,
    110,
  )


@pytest.mark.parametrize(
  ('rows', 'keywords', 'message'),
  [
    ([], {}, 'no images'),
    ([[]], {}, 'no images'),
    ([[plain(RED).astype(np.float32)]], {}, 'row 0, column 0 is float32'),
    ([[plain(RED), np.zeros((8, 8, 4), np.uint8)]], {}, 'row 0, column 1'),
    ([[plain(RED)]], {'row_labels': ['a', 'b']}, '2 row labels for 1 rows'),
    ([[plain(RED)]], {'column_labels': []}, '0 column labels for 1 columns'),
  ],
)
def test_sheet_refuses(rows, keywords, message):
  with pytest.raises(UserError, match=message):
    pictures.sheet(rows, **keywords)


def test_views_sheet_undoes_the_normalisation():
  mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
  original = plain((10, 200, 30), 16, 16)[None]
  normalised = (np.float32([7, 120, 250]) / 255 - mean) / std
  large = np.tile(normalised, (1, 2, 16, 16, 1))
  large[0, 1] = (-100, 100, 0.0)
  small = np.full((1, 1, 8, 8, 3), np.nan)
  image = pictures.views_sheet(original, [large, small], mean, std, ['cat'])
  x = box(image, (10, 200, 30))[0]
  y = 14 + 22  # below the column labels
  assert box(image, (10, 200, 30)) == (x, y, x + 96, y + 96)
  assert box(image, (7, 120, 250)) == (x + 102, y, x + 198, y + 96)
  assert box(image, (0, 255, round(0.406 * 255))) == (x + 204, y, x + 300, y + 96)  # clipped
  assert box(image, (255, 0, 255))[3] - box(image, (255, 0, 255))[1] == 48  # NaN is magenta


def test_views_sheet_refuses_other_shapes():
  with pytest.raises(UserError, match=r'\[N, V, S, S, 3\]'):
    pictures.views_sheet(plain(RED)[None], [np.zeros((2, 1, 8, 8, 3))], (0, 0, 0), (1, 1, 1))


def neighbours(index=((0, 1),), similarity=((0.9, 0.5),)):
  gallery = np.stack([plain(BLUE), plain((0, 255, 255))])
  return pictures.neighbours_sheet(
    plain(RED)[None], [3], gallery, [3, 4], np.array(index), np.array(similarity), ('a', 'b', 'c', 'd', 'e')
  )


def test_neighbours_sheet_frames_by_class():
  image = neighbours()
  same, other = box(image, pictures.SAME), box(image, pictures.OTHER)
  x0, y0, x1, y1 = box(image, BLUE)
  assert same == (x0 - 4, y0 - 4, x1 + 4, y1 + 20)  # the frame, and the bar with the similarity
  x0, y0, x1, y1 = box(image, (0, 255, 255))
  assert other == (x0 - 4, y0 - 4, x1 + 4, y1 + 20)
  assert box(image, RED)[1] == y0  # the query stands level with its neighbours


def test_neighbours_sheet_marks_without_colour():
  bars = []
  for box_ in (box(neighbours(), pictures.SAME), box(neighbours(similarity=((0.9, 0.9),)), pictures.OTHER)):
    image = neighbours(similarity=((0.9, 0.9),)).convert('L')
    bars.append(np.asarray(image)[box_[3] - 18 : box_[3] - 2, box_[0] : box_[2]] > 200)  # the white text
  assert bars[0].sum() > 50 and (bars[0] != bars[1]).sum() > 10  # a tick is no cross
  low = np.asarray(neighbours(similarity=((0.1, 0.9),)))
  assert (low != np.asarray(neighbours(similarity=((0.9, 0.9),)))).any()  # the similarity is printed


def test_neighbours_sheet_refuses():
  with pytest.raises(UserError, match=r'\[Q, k\]'):
    neighbours(similarity=((0.9,),))
  with pytest.raises(UserError, match=r'\[0, 2\)'):
    neighbours(index=((0, 2),))


# Feature maps


def colours(image):
  return {tuple(c) for c in np.asarray(image).reshape(-1, 3)}


def test_pca_equals_svd():
  for shape in ((40, 7), (7, 40), (2, 5), (1, 3)):
    x = np.float32(np.random.default_rng(0).normal(2.0, 3.0, shape))
    z, share = pictures._pca(x, 10)
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
    z, share = pictures._pca(x, 2)
    assert not z.any() and not share.any()
  assert np.ptp(1 + rounding) > 0
  tiny = np.float32(1000 + 0.01 * np.random.default_rng(0).normal(size=(20, 5)))  # small differences are differences
  assert pictures._pca(tiny, 2)[0].any()
  assert np.isfinite(pictures._pca(np.float32([[3e38, 0], [-3e38, 1], [0, 2]]), 2)[0]).all()


def test_tsne_separates_the_digits():
  digits = load_digits()
  x, y = digits.data[:300], digits.target[:300]
  z = pictures._tsne(pictures._pca(np.float32(x), 50)[0], 0)
  near = np.argsort(((z[:, None] - z) ** 2).sum(-1), 1)[:, 1]
  assert z.shape == (300, 2) and (y[near] == y).mean() > 0.9  # 1-NN on the pixels of these 300 has .95
  maps = [pictures.feature_map(x[:50], y[:50], method='tsne', seed=seed) for seed in (0, 0)]
  assert maps[0] == maps[1]


def drawn(monkeypatch, *arguments, **keywords):
  """(image, texts) of a feature map."""
  seen = []
  save = pictures._save

  def spy(figure, kind):
    data = save(figure, kind)
    seen.extend(t.get_text() for t in figure.findobj(lambda a: hasattr(a, 'get_text')))
    return data

  monkeypatch.setattr(pictures, '_save', spy)
  return opened(pictures.feature_map(*arguments, **keywords)), [t for t in seen if t]


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
  twenty = {(pictures.PALETTE[i % 7], pictures.MARKERS[i // 7]) for i in range(20)}
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
  image = opened(pictures.feature_map(np.float32(x), np.zeros(len(x), int), ['only'], method))
  blue = np.abs(image.astype(int) - (0, 0x72, 0xB2)).sum(-1) < 120
  assert blue.sum() > 20  # its points are there


def test_feature_map_refuses():
  with pytest.raises(UserError, match="'pca' or 'tsne'"):
    pictures.feature_map(np.eye(3), np.zeros(3), method='umap')
  with pytest.raises(UserError, match='finite'):
    pictures.feature_map(np.full((3, 2), np.nan), np.zeros(3))
  with pytest.raises(UserError, match=r'\[N, D\]'):
    pictures.feature_map(np.eye(3), np.zeros(2))


# Curves and bars


def test_thin_keeps_extremes_and_ends():
  rng = np.random.default_rng(0)
  x, y = np.arange(100_003.0), rng.normal(size=100_003)
  y[[7, 5000, 77_777]] = (50, -60, 70)
  a, b = pictures._thin(x, y)
  assert len(a) <= 2000 and len(a) > 1500
  assert {0, 7, 5000, 77_777, 100_002} <= set(a) and (np.diff(a) > 0).all()
  assert (b == y[a.astype(int)]).all()
  assert (pictures._thin(x[:2000], y[:2000])[0] == x[:2000]).all()


def test_running_mean_is_centred():
  y = np.random.default_rng(0).normal(size=50)
  want = [y[max(0, i - 3) : i + 4].mean() for i in range(50)]
  np.testing.assert_allclose(pictures._running_mean(y, 7), want, atol=1e-12)


def test_curves_skip_what_is_not_finite():
  y = np.arange(20.0)
  y[4:7] = (np.nan, np.inf, -np.inf)
  svg = pictures.curves({'loss': (range(20), y)}, ylabel='y')
  assert len(points(svg)) == 17 and 'nan' not in svg.lower() and 'inf' not in svg.lower()
  assert 'loss (3 of 20 points cannot be drawn)' in texts(svg)
  log = pictures.curves({'loss': (range(20), np.arange(20.0) - 2)}, ylabel='y', log_y=True)
  assert len(points(log)) == 17  # 3 are not positive
  assert (
    pictures.curves({'a': ([], []), 'b': ([0, 1], [np.nan] * 2)}) and pictures.curves({}) and pictures.curves({'a': ([1], [2])})
  )


def test_curves_are_straight_where_logs_are():
  svg = pictures.curves({'loss': (range(20), np.exp(-np.arange(20.0)))}, log_y=True)
  assert np.abs(np.diff(points(svg)[:, 1], 2)).max() < 1e-3
  linear = pictures.curves({'loss': (range(20), np.exp(-np.arange(20.0)))})
  assert np.abs(np.diff(points(linear)[:, 1], 2)).max() > 1


def test_curves_sort_smooth_and_thin():
  x = np.random.default_rng(0).permutation(10_000)
  svg = pictures.curves({'loss': (x, np.cos(x))})
  xy = points(svg)
  assert (np.diff(xy[:, 0]) >= 0).all() and len(xy) <= 2000
  assert 'bold: running mean of 201 points' in texts(svg)
  raw = pictures.curves({'loss': (x, np.cos(x))}, smooth=0)
  assert not any('mean' in t for t in texts(raw)) and svg.count('<path') > raw.count('<path')


def test_curves_show_names_as_they_are():
  svg = pictures.curves({'_a$x^$': ([0, 1], [0, 1]), '<b>&': ([0, 1], [1, 0])}, xlabel='$x', ylabel='a_b$', title='<script>')
  assert {'_a$x^$', '<b>&', '$x', 'a_b$', '<script>'} <= set(texts(svg)) and '<script>' not in svg


def test_plots_are_the_same_bytes_each_time():
  draw = lambda: pictures.curves({'a': ([0, 1], [0, 1])}) + pictures.bars(['x'], {'a': [1]})
  assert draw() == draw()


def test_bars_heights_errors_and_gaps():
  svg = pictures.bars(['1', '10'], {'a': [0.2, 0.4], 'b': [np.nan, 0.8]}, {'a': [0.1, 0.0]}, ylabel='accuracy')
  assert {'0.200', '0.400', '0.800', 'a', 'b', '1', '10', 'accuracy'} <= set(texts(svg))
  assert not any('nan' in t for t in texts(svg)) and '0.00' not in texts(svg)  # missing is not 0
  heights, errors = [], []
  for path in ElementTree.fromstring(svg).iter('{http://www.w3.org/2000/svg}path'):
    height = np.ptp(np.array(re.findall(r'[ML] (\S+) (\S+)', path.attrib.get('d', '')), float)[:, 1])
    style = path.attrib.get('style', '')
    if 'clip-path' in path.attrib and f'fill: {pictures.PALETTE[0].lower()}' in style:
      heights.append(height)
    if 'clip-path' in path.attrib and 'stroke: #1f2328' in style:
      errors.append(height)
  assert heights[1:] == [pytest.approx(2 * heights[0], rel=1e-4)]
  assert errors == [pytest.approx(heights[0], rel=1e-4)]  # 0.2 high: 0.1 up and 0.1 down


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: pictures.curves({'loss': ([1, 2], [1])}), "'loss' has 2 x and 1 y"),
    (lambda: pictures.curves({'loss': ([1], [1])}, kind='pdf'), "'svg' or 'png'"),
    (lambda: pictures.bars(['1'], {'a': [1, 2]}), "'a' has 2 values for 1 groups"),
    (lambda: pictures.bars(['1'], {'a': [1]}, {'b': [1]}), "'b' has 1 values"),
  ],
)
def test_plots_refuse(call, message):
  with pytest.raises(UserError, match=message):
    call()


def test_png_kind_and_no_global_state():
  assert opened(pictures.curves({'a': ([0, 1], [0, 1])}, kind='png')).shape[2] == 3
  assert opened(pictures.bars(['1'], {'a': [1]}, kind='png')).shape[2] == 3
  assert (opened(pictures.png(pictures.sheet([[plain(RED)]]))) == np.asarray(pictures.sheet([[plain(RED)]]))).all()
  assert 'matplotlib.pyplot' not in sys.modules
