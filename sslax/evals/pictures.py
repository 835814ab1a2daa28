"""Pictures to look at: contact sheets, feature maps, curves, bars. Nothing is shown or written: results are PIL images, PNG bytes
or SVG text. Matplotlib costs a second, so it is imported where it draws, and never through pyplot's global state.
"""

import contextlib
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.linalg
from PIL import Image, ImageDraw, ImageFont

from sslax.errors import UserError

PALETTE = (
  '#0072B2',
  '#D55E00',
  '#009E73',
  '#CC79A7',
  '#E69F00',
  '#56B4E9',
  '#5C5C5C',
)  # Okabe and Ito 2008, no yellow: unseen on white
MARKERS = ('o', '^', 's')  # 7 colours x 3 marks: up to 21 classes that nobody has to tell apart by a shade
DASHES = ('-', '--', ':', '-.')
PAPER, INK, FAINT = (255, 255, 255), (31, 35, 40), (101, 109, 118)
SAME, OTHER = (26, 127, 55), (207, 34, 46)  # white text on either has a contrast above 5:1

_SIDE = 96  # px: small images are enlarged to about this
_MOST = 256  # px: large images are shrunk to this
_GAP, _MARGIN = 6, 14  # px

_STYLE = {
  'font.family': ['DejaVu Sans'],
  'font.size': 10,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.edgecolor': '#8c959f',
  'axes.labelcolor': '#1f2328',
  'axes.titlesize': 11,
  'axes.titleweight': 'bold',
  'axes.titlelocation': 'left',
  'axes.axisbelow': True,
  'grid.color': '#e4e7eb',
  'xtick.color': '#57606a',
  'ytick.color': '#57606a',
  'legend.frameon': False,
  'svg.fonttype': 'none',  # text stays text: small files, can be searched and read aloud
  'svg.hashsalt': 'sslax',  # the same picture is the same bytes
}


# Contact sheets


def sheet(
  rows: Sequence[Sequence[np.ndarray]],
  row_labels: Sequence[str] | None = None,
  column_labels: Sequence[str] | None = None,
  title: str = '',
  scale: float | None = None,
) -> Image.Image:
  """A contact sheet. Images keep their relative sizes (multi-crop views differ) and stand in the middle of their cells.

  Args:
    rows: images, uint8 [H, W, 3] (or [H, W], [H, W, 1]); rows may differ in length and images in size.
    row_labels: one a row, cut to 160 px.
    column_labels: one a column; a column is as wide as its label.
    title: one line above all.
    scale: display px per image px. Default: one whole factor, or a reduction, that brings the largest side to about 96 px, and to
      256 px at most. Enlarged pixels stay squares (nearest neighbour).

  Returns:
    RGB image.

  Raises:
    UserError: no images, an image that is not uint8 RGB, or labels that do not match in number.
  """
  images = [[_rgb(image, f'row {i}, column {j}') for j, image in enumerate(row)] for i, row in enumerate(rows)]
  if not any(images):
    raise UserError('sheet: there are no images to show: give at least one row with one image.')
  for name, labels, want in (('row', row_labels, len(images)), ('column', column_labels, max(map(len, images)))):
    if labels is not None and len(labels) != want:
      raise UserError(f'sheet: {len(labels)} {name} labels for {want} {name}s: give one for each.')
  scale = scale or _auto_scale([image.shape for row in images for image in row])
  cells = [[_resize(image, scale) for image in row] for row in images]

  font, bold = _font(13), _font(16, bold=True)
  left = [_shorten(str(text), font, 160) for text in row_labels or [''] * len(cells)]
  top = [str(text) for text in column_labels or [''] * max(map(len, cells))]
  widths = [math.ceil(font.getlength(text)) for text in top]
  for row in cells:
    widths[: len(row)] = [max(w, cell.width) for w, cell in zip(widths, row, strict=False)]
  heights = [
    max([18, *(cell.height for cell in row)]) if any(left) else max([1, *(cell.height for cell in row)]) for row in cells
  ]
  x0 = _MARGIN + (math.ceil(max(map(font.getlength, left))) + 2 * _GAP if any(left) else 0)
  y0 = _MARGIN + (26 if title else 0) + (22 if any(top) else 0)
  width = max(x0 + sum(widths) + _GAP * (len(widths) - 1), _MARGIN + math.ceil(bold.getlength(title))) + _MARGIN

  page = Image.new('RGB', (width, y0 + sum(heights) + _GAP * (len(heights) - 1) + _MARGIN), PAPER)
  draw = ImageDraw.Draw(page)
  draw.text((_MARGIN, _MARGIN), title, INK, bold, anchor='lt')
  x = x0
  for text, w in zip(top, widths, strict=True):
    draw.text((x + w / 2, y0 - 8), text, FAINT, font, anchor='ms')
    x += w + _GAP
  y = y0
  for text, row, h in zip(left, cells, heights, strict=True):
    draw.text((x0 - 2 * _GAP, y + h / 2), text, INK, font, anchor='rm')
    x = x0
    for cell, w in zip(row, widths, strict=False):
      page.paste(cell, (x + (w - cell.width) // 2, y + (h - cell.height) // 2))
      x += w + _GAP
    y += h + _GAP
  return page


def views_sheet(
  originals: np.ndarray,
  views: Sequence[np.ndarray],
  mean: Sequence[float],
  std: Sequence[float],
  labels: Sequence[str] | None = None,
) -> Image.Image:
  """What a method sees: one row an image, the original and then its views, with the normalisation undone.

  Args:
    originals: [N, H, W, 3] uint8.
    views: arrays [N, V, S, S, 3] of normalised floats; V and S may differ (global and local crops).
    mean, std: [3], in units of [0, 1] intensities: a view is (image / 255 - mean) / std.
    labels: [N] names of the rows.

  Returns:
    RGB image. Values outside [0, 255] are clipped; pixels that are not finite are magenta.

  Raises:
    UserError: shapes that do not match.
  """
  originals, views = np.asarray(originals), [np.asarray(v, np.float32) for v in views]
  for v in views:
    if v.ndim != 5 or len(v) != len(originals):
      raise UserError(
        f'views_sheet: views of shape {list(v.shape)} for {len(originals)} originals: they must be [N, V, S, S, 3].'
      )
  shown = [_denormalise(v, mean, std) for v in views]
  rows = [[image, *(view for v in shown for view in v[n])] for n, image in enumerate(originals)]
  count = sum(v.shape[1] for v in views)
  return sheet(rows, labels, ['original', *(f'view {i + 1}' for i in range(count))])


def neighbours_sheet(
  query_images: np.ndarray,
  query_labels: np.ndarray,
  gallery_images: np.ndarray,
  gallery_labels: np.ndarray,
  neighbour_index: np.ndarray,
  similarity: np.ndarray,
  classes: Sequence[str] | None = None,
) -> Image.Image:
  """One row a query: the image, then its neighbours, nearest first. A tick on green is the query's class, a cross on red another.

  Args:
    query_images: [Q, H, W, 3] uint8; query_labels: [Q] int.
    gallery_images: [G, H, W, 3] uint8; gallery_labels: [G] int.
    neighbour_index: [Q, k] rows of the gallery.
    similarity: [Q, k], printed under each neighbour.
    classes: names of the classes; default: their numbers.

  Returns:
    RGB image.

  Raises:
    UserError: `neighbour_index` and `similarity` do not fit the queries or the gallery.
  """
  index, similarity = np.asarray(neighbour_index), np.asarray(similarity, np.float32)
  if index.ndim != 2 or index.shape != similarity.shape or len(index) != len(query_images):
    raise UserError(
      f'neighbours_sheet: neighbour_index {list(index.shape)}, similarity {list(similarity.shape)}, {len(query_images)} queries: '
      'the first two must be [Q, k].'
    )
  if index.size and not (0 <= index.min() and index.max() < len(gallery_images)):
    raise UserError(f'neighbours_sheet: neighbour_index must lie in [0, {len(gallery_images)}), the rows of the gallery.')
  scale = _auto_scale([np.shape(query_images)[1:], np.shape(gallery_images)[1:]])
  rows, hits = [], 0
  for image, label, neighbours, near in zip(query_images, query_labels, index, similarity, strict=True):
    row = [_card(_rgb(image, 'a query'), scale, '', PAPER)]
    for i, s in zip(neighbours, near, strict=True):
      same = bool(gallery_labels[i] == label)
      hits += same
      row.append(
        _card(_rgb(gallery_images[i], f'gallery {i}'), scale, f'{"✓" if same else "✗"} {s:.2f}', SAME if same else OTHER)
      )
    rows.append(row)
  k = index.shape[1]
  share = f" ({hits / index.size:.0%} of those shown are of the query's class)" if index.size else ''
  names = [_class_name(classes, label) for label in query_labels]
  return sheet(rows, names, ['query', *(str(j + 1) for j in range(k))], f'Nearest neighbours{share}', scale=1)


# Plots


def feature_map(
  x: np.ndarray,
  y: np.ndarray,
  classes: Sequence[str] | None = None,
  method: str = 'pca',
  max_points: int = 2000,
  seed: int = 0,
) -> bytes:
  """A map of features in two dimensions: PCA, or t-SNE (van der Maaten and Hinton 2008) of the first 50 principal components.

  Args:
    x: [N, D] features; rows that are not finite are left out, and the title says how many.
    y: [N] int classes; negative means unlabelled.
    classes: their names; default: their numbers. Up to 20 classes have a legend, more are coloured by number.
    method: 'pca' or 'tsne'. Fewer than 5 points, or points that are all equal, are drawn by PCA, and the title says so.
    max_points: a random subset of this many is drawn.
    seed: of the subset and of t-SNE.

  Returns:
    PNG bytes.

  Raises:
    UserError: another method, no finite row, or shapes that do not match.
  """
  if method not in ('pca', 'tsne'):
    raise UserError(f"feature_map: method is '{method}': it must be 'pca' or 'tsne'.")
  x, y = np.asarray(x, np.float32), np.asarray(y)
  if x.ndim != 2 or not x.shape[1] or y.shape != x.shape[:1]:
    raise UserError(f'feature_map: features {list(x.shape)} and classes {list(y.shape)}: they must be [N, D] and [N].')
  finite = np.isfinite(x).all(1)
  lost = int((~finite).sum())
  x, y = x[finite], y[finite]
  if not len(x):
    raise UserError('feature_map: no row of the features is finite: there is nothing to draw. Has the run diverged?')
  present = np.unique(y[y >= 0])  # before the subset, so that colours do not depend on it
  if len(x) > max_points:
    keep = np.sort(np.random.default_rng(seed).choice(len(x), max_points, replace=False))
    x, y = x[keep], y[keep]
  d = x.shape[1]
  z, share = _pca(x, 50 if method == 'tsne' else 2)
  if method == 'tsne' and len(x) >= 5 and z.any():
    z = _tsne(z, seed)
    name, labels = 't-SNE', ('', '')
  else:
    name, labels = 'PCA', [f'component {i + 1} ({s:.0%} of the variance)' for i, s in enumerate(share[:2])]
  title = f'{name} of {len(x):,} points in {d:,} dimensions' + (f', {lost:,} not finite left out' if lost else '')

  with _figure(8.6, 5.4) as (figure, axes):
    if (y < 0).any():
      axes.scatter(*z[y < 0, :2].T, s=10, c='#b8bfc6', marker='.', linewidths=0, label='-')
    if len(present) <= 20:
      names = ['unlabelled'] * bool((y < 0).any())
      for i, c in enumerate(present):
        style = {'c': PALETTE[i % len(PALETTE)], 'marker': MARKERS[i // len(PALETTE)]}
        axes.scatter(*z[y == c, :2].T, s=18, alpha=0.75, linewidths=0, label='-', **style)
        names.append(_shorten(_class_name(classes, c), _font(13), 190))
      _legend(figure, axes, names, loc='outside right upper', markerscale=1.6)
    else:
      points = axes.scatter(*z[y >= 0, :2].T, s=18, c=y[y >= 0], cmap='viridis', alpha=0.75, linewidths=0)
      figure.colorbar(points, label='class number', shrink=0.7).outline.set_visible(False)
    axes.set_title(title)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    if name == 't-SNE':  # its axes have no unit
      axes.set_xlabel('Near means alike; sizes of clusters, and distances between them, mean nothing.', fontsize=8, loc='left')
      axes.set(xticks=[], yticks=[])
      axes.spines[:].set_visible(True)
      axes.spines[:].set_color('#d0d7de')
    axes.set_aspect('equal', 'datalim')
    return _save(figure, 'png')


def curves(
  series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
  xlabel: str = 'step',
  ylabel: str = '',
  title: str = '',
  log_y: bool = False,
  smooth: float = 0.02,
  kind: str = 'svg',
) -> str | bytes:
  """Curves over steps: the raw values faint, their running mean bold.

  Args:
    series: name -> (x, y). Points that are not finite (or not positive, with `log_y`) are skipped, and the legend counts them.
      Each curve is thinned to 2000 points at most; the smallest and largest value of each stretch stay, so no spike is lost.
    xlabel, ylabel, title: text.
    log_y: logarithmic axis.
    smooth: width of the centred running mean, as a fraction of a curve's points; 0 is none. Below 3 points there is none.
    kind: 'svg' or 'png'.

  Returns:
    SVG text, or PNG bytes.

  Raises:
    UserError: x and y of different length, or another kind.
  """
  from matplotlib import ticker

  with _figure(7.2, 3.8) as (figure, axes):
    names, widest, ends = [], 0, []
    for i, (name, (x, y)) in enumerate(series.items()):
      x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
      if x.shape != y.shape or x.ndim != 1:
        raise UserError(f"curves: '{name}' has {x.size} x and {y.size} y: they must be two lists of one length.")
      good = np.isfinite(x) & np.isfinite(y) & ((y > 0) | (not log_y))
      names.append(name + (f' ({(~good).sum():,} of {len(y):,} points cannot be drawn)' if not good.all() else ''))
      order = np.argsort(x[good], kind='stable')
      x, y = x[good][order], y[good][order]
      ends += [*x[:1], *x[-1:]]
      width = int(smooth * len(y)) | 1  # odd: centred
      style = {'color': PALETTE[i % len(PALETTE)], 'linestyle': DASHES[i // len(PALETTE) % len(DASHES)]}
      if width >= 3:
        widest = max(widest, width)
        axes.plot(*_thin(x, y), color=style['color'], linewidth=0.8, alpha=0.3)
        y = _running_mean(y, width)
      axes.plot(*_thin(x, y), **style, linewidth=1.9, marker='o' if len(y) <= 30 else None, markersize=4, label='-')
    if log_y:
      axes.set_yscale('log')
      low, high = axes.get_ylim()
      if high < 100 * low:  # within two decades, powers of ten are too few ticks
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter('{x:g}')
        axes.yaxis.set_minor_formatter('')
    if max(ends, default=0) >= 10_000:
      axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=''))
    elif max(ends, default=0) >= 5:
      axes.xaxis.set_major_locator(ticker.MaxNLocator('auto', integer=True, steps=(1, 2, 5, 10)))  # no half steps
    axes.grid(True, axis='y')
    axes.set_title(title, parse_math=False)
    axes.set_xlabel(xlabel, parse_math=False)
    axes.set_ylabel(ylabel, parse_math=False)
    if widest:
      axes.set_title(f'bold: running mean of {widest:,} points', loc='right', fontsize=8, fontweight='normal', color='#57606a')
    if names != [ylabel]:
      _legend(figure, axes, names, loc='outside lower left', ncols=1 if max(map(len, names), default=0) > 24 else 3)
    return _save(figure, kind)


def bars(
  groups: Sequence[str],
  series: Mapping[str, Sequence[float]],
  errors: Mapping[str, Sequence[float]] | None = None,
  xlabel: str = '',
  ylabel: str = '',
  title: str = '',
  kind: str = 'svg',
) -> str | bytes:
  """Grouped bars with values and error bars, such as label efficiency: accuracy of each encoder at 1, 5, 10, all labels a class.

  Args:
    groups: [G] names along the x axis.
    series: name -> [G] heights; NaN leaves a gap.
    errors: name -> [G] half-lengths of the error bars, for any of the series (the caption says what they are: deviation, ...).
    xlabel, ylabel, title: text.
    kind: 'svg' or 'png'.

  Returns:
    SVG text, or PNG bytes.

  Raises:
    UserError: a series without one value for each group, errors of an unknown series, or another kind.
  """
  errors = errors or {}
  for name, values in (*series.items(), *errors.items()):
    if name not in series or len(values) != len(groups):
      raise UserError(
        f"bars: '{name}' has {len(values)} values for {len(groups)} groups; each of {list(series)} needs one for each group."
      )
  with _figure(7.2, 3.8) as (figure, axes):
    width = 0.8 / max(len(series), 1)
    for i, (name, values) in enumerate(series.items()):
      x = np.arange(len(groups)) + (i - (len(series) - 1) / 2) * width
      y = np.asarray(values, np.float64)
      e = np.nan_to_num(np.asarray(errors.get(name, np.zeros(len(y))), np.float64))
      hatch = (None, '//', '..')[i // len(PALETTE) % 3]
      axes.bar(x, y, width * 0.92, color=PALETTE[i % len(PALETTE)], hatch=hatch, edgecolor='white', linewidth=0.0, label='-')
      if (e > 0).any():
        axes.errorbar(x[e > 0], y[e > 0], e[e > 0], fmt='none', ecolor='#1f2328', elinewidth=1, capsize=3)
      if len(groups) * len(series) <= 24:
        style = {'ha': 'center', 'fontsize': 8, 'color': '#57606a', 'textcoords': 'offset points'}
        for a, b, c in zip(x, y, e, strict=True):
          if np.isfinite(b):
            up = 1 if b >= 0 else -1
            axes.annotate(f'{b:#.3g}'.rstrip('.'), (a, b + up * c), (0, 3 * up), va='bottom' if up > 0 else 'top', **style)
    axes.axhline(0, color='#8c959f', linewidth=0.8)
    axes.margins(y=0.08)
    axes.grid(True, axis='y')
    axes.tick_params(axis='x', length=0)
    axes.set_xticks(range(len(groups)), [str(g) for g in groups], parse_math=False)
    axes.set_title(title, parse_math=False)
    axes.set_xlabel(xlabel, parse_math=False)
    axes.set_ylabel(ylabel, parse_math=False)
    _legend(figure, axes, list(series), loc='outside lower left', ncols=4)
    return _save(figure, kind)


def rgb(image: np.ndarray) -> np.ndarray:
  """[H, W, 3] in [0, 1] -> uint8; values outside are clipped."""
  return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def enlarged(image: np.ndarray, side: int) -> np.ndarray:
  """[h, w, 3] uint8 -> [side, side, 3], each pixel a square."""
  return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST))


def heat(values: np.ndarray, side: int) -> np.ndarray:
  """[h, w] -> [side, side, 3] uint8: dark to bright between the smallest and the largest value, each a square."""
  import matplotlib

  span = np.ptp(values)
  colours = matplotlib.colormaps['inferno']((values - values.min()) / (span if span > 0 else 1.0))
  return enlarged(rgb(colours[..., :3]), side)


def png(image: Image.Image) -> bytes:
  """The PNG bytes of a sheet."""
  out = io.BytesIO()
  image.save(out, 'PNG', optimize=True)
  return out.getvalue()


# Pieces


def _rgb(image, where):
  image = np.asarray(image)
  if image.ndim == 2:
    image = image[..., None]
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3) or 0 in image.shape:
    raise UserError(f'sheet: {where} is {image.dtype} {list(image.shape)}: images must be uint8 [H, W, 3].')
  return np.broadcast_to(image, (*image.shape[:2], 3))


def _auto_scale(shapes):
  side = max(max(shape[:2]) for shape in shapes)
  return _MOST / side if side > _MOST else max(1, round(_SIDE / side))


def _resize(image, scale):
  image = Image.fromarray(np.ascontiguousarray(image))
  size = [max(1, round(n * scale)) for n in image.size]
  return image.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)


def _card(image, scale, text, colour):
  """An image in a frame, above a bar of the same colour with a text. uint8 [H, W, 3]."""
  cell, font, edge = _resize(image, scale), _font(13, bold=True), 4
  width = max(cell.width, math.ceil(font.getlength(text))) + 2 * edge
  page = Image.new('RGB', (width, cell.height + edge + 20), colour)
  page.paste(cell, ((width - cell.width) // 2, edge))
  ImageDraw.Draw(page).text((width / 2, cell.height + edge + 10), text, 'white', font, anchor='mm')
  return np.asarray(page)


def _denormalise(views, mean, std):
  pixels = (views * np.asarray(std, np.float32) + np.asarray(mean, np.float32)) * 255
  shown = np.rint(np.clip(np.nan_to_num(pixels), 0, 255)).astype(np.uint8)
  shown[~np.isfinite(pixels).all(-1)] = (255, 0, 255)
  return shown


def _font(size, bold=False):
  import matplotlib  # DejaVu comes with it and knows Greek, Cyrillic and the ticks; Pillow's own font knows Latin

  return ImageFont.truetype(f'{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans{"-Bold" if bold else ""}.ttf', size)


def _shorten(text, font, width):
  text = ' '.join(text.split())
  if font.getlength(text) <= width:
    return text
  while text and font.getlength(text + '…') > width:
    text = text[:-1]
  return text + '…'


def _class_name(classes, label):
  return str(classes[label]) if classes is not None and 0 <= label < len(classes) else str(label)


def _pca(x, k):
  """Principal components, as of the SVD: ([N, k] coordinates, [k] shares of the variance), zeros where there are fewer than k."""
  scale = float(np.abs(x).max(initial=0)) or 1.0  # squares of large features stay finite
  x = x.astype(np.float64) / scale
  x -= x.mean(0)
  n, d = x.shape
  gram = (
    x.T @ x if d <= n else x @ x.T
  )  # the k largest eigenvectors of the smaller Gram matrix: 20 times quicker than all of the SVD
  top = min(k, len(gram))
  w, v = scipy.linalg.eigh(gram, subset_by_index=(len(gram) - top, len(gram) - 1))
  w, v = w[::-1], v[:, ::-1]
  w = w * (w > 1e-12 * max(n, d))  # float32 features that differ by rounding alone are equal
  z = (x @ v if d <= n else v * np.sqrt(w)) * (w > 0) * scale
  z *= np.sign(z[np.abs(z).argmax(0), range(top)])  # the sign of a component is arbitrary: make it the same everywhere
  return np.pad(z, ((0, 0), (0, k - top))), np.pad(w / (np.trace(gram) if w.any() else 1.0), (0, k - top))


def _tsne(z, seed):
  from sklearn.manifold import TSNE
  from threadpoolctl import threadpool_limits

  start = (z[:, :2] / z[:, 0].std() * 1e-4).astype(np.float32)  # as sklearn's init='pca'
  tsne = TSNE(perplexity=min(30.0, (len(z) - 1) / 3), init=start, learning_rate='auto', random_state=seed)
  with threadpool_limits(
    1
  ):  # beside a training run OpenMP's spinning threads cost 5 times what they gain (2 cores: 128 s for 23 s)
    return tsne.fit_transform(z.astype(np.float32))


def _thin(x, y, most=2000):
  """At most `most` points of a curve: the first, the last, and the smallest and largest of each stretch."""
  if len(x) <= most:
    return x, y
  edges = np.linspace(0, len(x), (most - 2) // 2 + 1).astype(int)
  keep = [0, len(x) - 1]
  for a, b in zip(edges[:-1], edges[1:], strict=True):
    keep += [a + y[a:b].argmin(), a + y[a:b].argmax()]
  keep = np.unique(keep)
  return x[keep], y[keep]


def _running_mean(y, width):
  """Mean of the `width` (odd) points around each, of those that exist near the ends: unlike an EMA, it does not lag."""
  n, total = np.arange(len(y)), np.concatenate([[0.0], np.cumsum(y)])
  first, last = np.maximum(n - width // 2, 0), np.minimum(n + width // 2 + 1, len(y))
  return (total[last] - total[first]) / (last - first)


@contextlib.contextmanager
def _figure(width, height):
  import matplotlib
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  with matplotlib.rc_context(_STYLE):
    figure = Figure((width, height), dpi=120, layout='constrained')
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.06)  # inches: nothing touches the edge
    yield figure, figure.add_subplot()


def _legend(figure, axes, names, **place):
  handles, _ = axes.get_legend_handles_labels()
  legend = figure.legend(handles, ['-'] * len(handles), fontsize=9, **place)
  for text, name in zip(legend.get_texts(), names, strict=True):  # afterwards: names that begin with '_' would be left out
    text.set_text(name)
    text.set_parse_math(False)


def _save(figure, kind):
  out = io.BytesIO()
  if kind == 'svg':
    figure.savefig(out, format='svg', metadata={'Date': None, 'Creator': None, 'Format': None, 'Type': None})
    return out.getvalue().decode()
  if kind == 'png':
    figure.savefig(out, format='png')
    return out.getvalue()
  raise UserError(f"kind is '{kind}': it must be 'svg' or 'png'.")
