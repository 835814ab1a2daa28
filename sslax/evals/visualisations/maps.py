"""Maps of features in two dimensions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sslax.errors import UserError
from sslax.evals.visualisations.canvas import figure, legend, save
from sslax.evals.visualisations.colours import MARKERS, PALETTE
from sslax.evals.visualisations.text import class_name, font, shorten
from sslax.io import extras


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
  labels: Sequence[str]
  z, share = _pca(x, 50 if method == 'tsne' else 2)
  if method == 'tsne' and len(x) >= 5 and z.any():
    z = _tsne(z, seed)
    name, labels = 't-SNE', ('', '')
  else:
    name, labels = 'PCA', [f'component {i + 1} ({s:.0%} of the variance)' for i, s in enumerate(share[:2])]
  title = f'{name} of {len(x):,} points in {d:,} dimensions' + (f', {lost:,} not finite left out' if lost else '')

  with figure(8.6, 5.4) as (page, axes):
    if (y < 0).any():
      axes.scatter(z[y < 0, 0], z[y < 0, 1], s=10, c='#b8bfc6', marker='.', linewidths=0, label='-')
    if len(present) <= 20:
      names = ['unlabelled'] * bool((y < 0).any())
      for i, c in enumerate(present):
        style: dict[str, Any] = {'c': PALETTE[i % len(PALETTE)], 'marker': MARKERS[i // len(PALETTE)]}
        axes.scatter(z[y == c, 0], z[y == c, 1], s=18, alpha=0.75, linewidths=0, label='-', **style)
        names.append(shorten(class_name(classes, c), font(13), 190))
      legend(page, axes, names, loc='outside right upper', markerscale=1.6)
    else:
      points = axes.scatter(z[y >= 0, 0], z[y >= 0, 1], s=18, c=y[y >= 0], cmap='viridis', alpha=0.75, linewidths=0)
      page.colorbar(points, label='class number', shrink=0.7).outline.set_visible(False)
    axes.set_title(title)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    if name == 't-SNE':  # its axes have no unit
      axes.set_xlabel('Near means alike; sizes of clusters, and distances between them, mean nothing.', fontsize=8, loc='left')
      axes.set(xticks=[], yticks=[])
      axes.spines[:].set_visible(True)
      axes.spines[:].set_color('#d0d7de')
    axes.set_aspect('equal', 'datalim')
    return save(page, 'png')


def _pca(x, k):
  """Principal components, as of the SVD: ([N, k] coordinates, [k] shares of the variance), zeros where there are fewer than k."""
  scale = float(np.abs(x).max(initial=0)) or 1.0  # squares of large features stay finite
  x = x.astype(np.float64) / scale
  x -= x.mean(0)
  n, d = x.shape
  # The k largest eigenvectors of the smaller Gram matrix: 20 times quicker than all of the SVD.
  gram = x.T @ x if d <= n else x @ x.T
  top = min(k, len(gram))
  w, v = extras.need('scipy.linalg', 'eval').eigh(gram, subset_by_index=(len(gram) - top, len(gram) - 1))
  w, v = w[::-1], v[:, ::-1]
  w = w * (w > 1e-12 * max(n, d))  # float32 features that differ by rounding alone are equal
  z = (x @ v if d <= n else v * np.sqrt(w)) * (w > 0) * scale
  z *= np.sign(z[np.abs(z).argmax(0), range(top)])  # the sign of a component is arbitrary: make it the same everywhere
  return np.pad(z, ((0, 0), (0, k - top))), np.pad(w / (np.trace(gram) if w.any() else 1.0), (0, k - top))


def _tsne(z, seed):
  TSNE = extras.need('sklearn.manifold', 'eval').TSNE
  threadpool_limits = extras.need('threadpoolctl', 'eval').threadpool_limits

  start = (z[:, :2] / z[:, 0].std() * 1e-4).astype(np.float32)  # as sklearn's init='pca'
  tsne = TSNE(perplexity=min(30.0, (len(z) - 1) / 3), init=start, learning_rate='auto', random_state=seed)
  # Beside a training run OpenMP's spinning threads cost 5 times what they gain (2 cores: 128 s for 23 s).
  with threadpool_limits(1):
    return tsne.fit_transform(z.astype(np.float32))
