"""Curves and bars: heights, gaps, spikes; names that mean something to XML, TeX or matplotlib."""

import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from evals.visualisations.looking import RED, opened, plain

from sslax.errors import UserError
from sslax.evals import visualisations


def points(svg):
  """[n, 2] vertices of the longest path in an SVG: a curve."""
  paths = [p.attrib.get('d', '') for p in ElementTree.fromstring(svg).iter('{http://www.w3.org/2000/svg}path')]
  xy = [np.array(re.findall(r'[ML] (\S+) (\S+)', d), float) for d in paths]
  return max(xy, key=len)


def texts(svg):
  return [''.join(t.itertext()) for t in ElementTree.fromstring(svg).iter('{http://www.w3.org/2000/svg}text')]


def test_thin_keeps_extremes_and_ends():
  rng = np.random.default_rng(0)
  x, y = np.arange(100_003.0), rng.normal(size=100_003)
  y[[7, 5000, 77_777]] = (50, -60, 70)
  a, b = visualisations.thin(x, y)
  assert len(a) <= 2000 and len(a) > 1500
  assert {0, 7, 5000, 77_777, 100_002} <= set(a) and (np.diff(a) > 0).all()
  assert (b == y[a.astype(int)]).all()
  assert (visualisations.thin(x[:2000], y[:2000])[0] == x[:2000]).all()


def test_running_mean_is_centred():
  y = np.random.default_rng(0).normal(size=50)
  want = [y[max(0, i - 3) : i + 4].mean() for i in range(50)]
  np.testing.assert_allclose(visualisations.running_mean(y, 7), want, atol=1e-12)


def test_curves_skip_what_is_not_finite():
  y = np.arange(20.0)
  y[4:7] = (np.nan, np.inf, -np.inf)
  svg = visualisations.curves({'loss': (range(20), y)}, ylabel='y')
  assert len(points(svg)) == 17 and 'nan' not in svg.lower() and 'inf' not in svg.lower()
  assert 'loss (3 of 20 points cannot be drawn)' in texts(svg)
  log = visualisations.curves({'loss': (range(20), np.arange(20.0) - 2)}, ylabel='y', log_y=True)
  assert len(points(log)) == 17  # 3 are not positive
  assert (
    visualisations.curves({'a': ([], []), 'b': ([0, 1], [np.nan] * 2)})
    and visualisations.curves({})
    and visualisations.curves({'a': ([1], [2])})
  )


def test_curves_are_straight_where_logs_are():
  svg = visualisations.curves({'loss': (range(20), np.exp(-np.arange(20.0)))}, log_y=True)
  assert np.abs(np.diff(points(svg)[:, 1], 2)).max() < 1e-3
  linear = visualisations.curves({'loss': (range(20), np.exp(-np.arange(20.0)))})
  assert np.abs(np.diff(points(linear)[:, 1], 2)).max() > 1


def test_curves_sort_smooth_and_thin():
  x = np.random.default_rng(0).permutation(10_000)
  svg = visualisations.curves({'loss': (x, np.cos(x))})
  xy = points(svg)
  assert (np.diff(xy[:, 0]) >= 0).all() and len(xy) <= 2000
  assert 'bold: running mean of 201 points' in texts(svg)
  raw = visualisations.curves({'loss': (x, np.cos(x))}, smooth=0)
  assert not any('mean' in t for t in texts(raw)) and svg.count('<path') > raw.count('<path')


def test_curves_show_names_as_they_are():
  svg = visualisations.curves(
    {'_a$x^$': ([0, 1], [0, 1]), '<b>&': ([0, 1], [1, 0])}, xlabel='$x', ylabel='a_b$', title='<script>'
  )
  assert {'_a$x^$', '<b>&', '$x', 'a_b$', '<script>'} <= set(texts(svg)) and '<script>' not in svg


def test_plots_are_the_same_bytes_each_time():
  draw = lambda: visualisations.curves({'a': ([0, 1], [0, 1])}) + visualisations.bars(['x'], {'a': [1]})
  assert draw() == draw()


def test_bars_heights_errors_and_gaps():
  svg = visualisations.bars(['1', '10'], {'a': [0.2, 0.4], 'b': [np.nan, 0.8]}, {'a': [0.1, 0.0]}, ylabel='accuracy')
  assert {'0.200', '0.400', '0.800', 'a', 'b', '1', '10', 'accuracy'} <= set(texts(svg))
  assert not any('nan' in t for t in texts(svg)) and '0.00' not in texts(svg)  # missing is not 0
  heights, errors = [], []
  for path in ElementTree.fromstring(svg).iter('{http://www.w3.org/2000/svg}path'):
    height = np.ptp(np.array(re.findall(r'[ML] (\S+) (\S+)', path.attrib.get('d', '')), float)[:, 1])
    style = path.attrib.get('style', '')
    if 'clip-path' in path.attrib and f'fill: {visualisations.PALETTE[0].lower()}' in style:
      heights.append(height)
    if 'clip-path' in path.attrib and 'stroke: #1f2328' in style:
      errors.append(height)
  assert heights[1:] == [pytest.approx(2 * heights[0], rel=1e-4)]
  assert errors == [pytest.approx(heights[0], rel=1e-4)]  # 0.2 high: 0.1 up and 0.1 down


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: visualisations.curves({'loss': ([1, 2], [1])}), "'loss' has 2 x and 1 y"),
    (lambda: visualisations.curves({'loss': ([1], [1])}, kind='pdf'), "'svg' or 'png'"),
    (lambda: visualisations.bars(['1'], {'a': [1, 2]}), "'a' has 2 values for 1 groups"),
    (lambda: visualisations.bars(['1'], {'a': [1]}, {'b': [1]}), "'b' has 1 values"),
  ],
)
def test_plots_refuse(call, message):
  with pytest.raises(UserError, match=message):
    call()


def test_png_kind_and_no_global_state():
  assert opened(visualisations.curves({'a': ([0, 1], [0, 1])}, kind='png')).shape[2] == 3
  assert opened(visualisations.bars(['1'], {'a': [1]}, kind='png')).shape[2] == 3
  assert (
    opened(visualisations.png(visualisations.sheet([[plain(RED)]]))) == np.asarray(visualisations.sheet([[plain(RED)]]))
  ).all()
  assert 'matplotlib.pyplot' not in sys.modules


@pytest.mark.parametrize('kind', ['svg', 'png'])
def test_charts_draw_words_that_are_no_text(kind):
  bad = 'caf\udce9\x00\x1b'
  curve = visualisations.curves({bad: ([0, 1], [0, 1])}, bad, f'y{bad}', f't{bad}', kind=kind)
  chart = visualisations.bars([f'g{bad}'], {bad: [1]}, xlabel=bad, ylabel=f'y{bad}', title=f't{bad}', kind=kind)
  if kind == 'png':
    assert opened(curve).size and opened(chart).size
    return
  want = 'caf' + 3 * '\ufffd'
  assert {want, f'y{want}', f't{want}'} <= set(texts(curve)) and {want, f'y{want}', f't{want}', f'g{want}'} <= set(texts(chart))


def test_annotate_and_legend_take_any_text():
  with visualisations.figure(3, 2) as (figure, axes):
    axes.plot([0, 1], [0, 1], label='-')
    visualisations.annotate(axes, title='$t\udce9', xlabel='_x\udce9', ylabel='$y$')
    visualisations.legend(figure, axes, ['_\udce9$'], loc='outside lower left')
    svg = visualisations.save(figure, 'svg')
  assert {'$t\ufffd', '_x\ufffd', '$y$', '_\ufffd$'} <= set(texts(svg))
