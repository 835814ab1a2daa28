"""Numbers that see a representation collapse, which a falling loss does not."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from sslax.errors import UserError
from sslax.evals import features
from sslax.evals.probe import BASELINE, Data, Needs, Probe, Score, Store

MORE_IS_BETTER = {'feature_std': True, 'rankme': True, 'rank_fraction': True, 'uniformity': False, 'alignment': False}


@dataclasses.dataclass(frozen=True)
class Collapse(Probe):
  """`metrics` of the test set, and, of methods that draw views, of pairs of them."""

  pairs: int = 2048  # at most

  def needs(self) -> Needs:
    return Needs(labels=False)

  def run(self, store: Store, data: Data) -> Iterator[Score]:
    views = None if store.row == BASELINE else self.views(store, data)
    for name, value in metrics(store.get(data.test).values, views).items():
      yield Score(name, value, name, more_is_better=MORE_IS_BETTER[name])

  def views(self, store: Store, data: Data) -> np.ndarray | None:
    """[M, 2, D] features of two random views of test examples, as the method draws them; None where it draws none."""
    method, parts = store.card.method, []

    @jax.jit
    def of(params, memory, rng, batch):
      drawn = method.augmented(rng, batch)
      if drawn is None:
        return None
      rows = {key: x.reshape(-1, *x.shape[2:]) for key, x in drawn.items()}
      pooled = method.features(params, memory, rows).pooled
      assert pooled is not None, 'the contract: features of what it augments'
      return pooled.reshape(-1, 2, pooled.shape[1])

    for i, batch in enumerate(itertools.islice(store.batches(data.test), -(-self.pairs // store.batch_size))):
      mask = batch.pop('mask')
      arrays = {key: value for key, value in batch.items() if key not in ('label', 'index')}
      pooled = of(store.params, store.memory, jax.random.key(i), arrays)
      if pooled is None:
        return None
      parts.append(np.asarray(pooled)[mask])
    return np.concatenate(parts)


def metrics(x: Any, views: Any = None, *, sample: int = 4096, seed: int = 0) -> dict[str, float]:
  """Spread, rank, uniformity and alignment of features; finite for constant ones too.

  Args:
    x: [N, D] features, N >= 2.
    views: [M, 2, D] features of two views of the same M images, or None: no alignment.
    sample: rows (drawn by `seed`) for the uniformity, whose cost is their square.

  Returns:
    feature_std: mean over channels of the std of unit features, times sqrt(D); 1 healthy, 0 collapsed to a point (Chen & He 2021,
      SimSiam, sec. 4.1).
    rankme: exp of the entropy of the singular values, 1 to min(N, D) (Garrido et al. 2023, https://arxiv.org/abs/2210.02885, eq.
      2-3: not centred, p = sigma / |sigma|_1 + 1e-7), on at most 25,600 rows as there.
    rank_fraction: rankme / min(N, D).
    uniformity: log of the mean over pairs of exp(-2 |u - v|^2), u, v unit features; 0 collapsed, about -4 uniform on a sphere of
      many dimensions (Wang & Isola 2020, https://arxiv.org/abs/2005.10242, t = 2).
    alignment: mean |u - v|^2 of the views' unit features, 0 to 4 (same paper, alpha = 2).

  Raises:
    UserError: fewer than 2 rows, NaN or Inf, views of another shape.
  """
  x, _ = features.checked(x, name='collapse')
  if len(x) < 2:
    raise UserError('collapse: one row has no spread; needs at least 2.')
  rng = np.random.default_rng(seed)
  unit, rows = features.l2_normalize(x.astype(np.float64)), rng.permutation(len(x))
  rank = _rankme(x[rows[:25_600]])
  out = {
    'feature_std': float(unit.std(0).mean() * x.shape[1] ** 0.5),
    'rankme': rank,
    'rank_fraction': rank / min(len(x), 25_600, x.shape[1]),
    'uniformity': _uniformity(unit[rows[:sample]]),
  }
  if views is not None:
    views = np.asarray(views, np.float64)
    if views.ndim != 3 or views.shape[1] != 2:
      raise UserError(f'collapse: views of shape {views.shape}; needs [M, 2, D].')
    features.checked(views.reshape(len(views), -1), name='collapse views')
    a, b = features.l2_normalize(views[:, 0]), features.l2_normalize(views[:, 1])
    out['alignment'] = float(np.square(a - b).sum(1).mean())
  return out


def _rankme(x):
  # Singular values from the smaller Gram matrix, in float64: seconds where the SVD of [25600, 2048] takes minutes. Their error,
  # 1e-8 of the largest, is below the 1e-7 of the definition.
  x = np.float64(x)
  gram = x.T @ x if len(x) >= x.shape[1] else x @ x.T
  sigma = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
  p = sigma / max(sigma.sum(), np.finfo(np.float64).tiny) + 1e-7
  return float(np.exp(-(p * np.log(p)).sum()))


def _uniformity(u, t=2.0, block=512):
  total = 0.0
  for i in range(0, len(u), block):  # [block, N] at a time
    a = u[i : i + block]
    square = np.square(a).sum(1)[:, None] + np.square(u).sum(1)[None] - 2 * a @ u.T
    total += np.exp(-t * np.maximum(square, 0)).sum(where=np.arange(len(u))[None] > np.arange(i, i + len(a))[:, None])
  return float(np.log(total / (len(u) * (len(u) - 1) / 2)))
