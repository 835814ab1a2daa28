"""Logistic regression on frozen features, by L-BFGS."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from sslax.errors import UserError
from sslax.evals import features

L2 = tuple(float(v) for v in np.logspace(-6, 5, 12))  # Kornblith et al. take 45 values of the same range
_ROWS = 16384  # rows whose logits are alive at a time


class Classifier(NamedTuple):
  """Logits ((x - mean) / std) @ w + b."""

  w: np.ndarray  # [D, C]
  b: np.ndarray  # [C]
  mean: np.ndarray  # [D]
  std: np.ndarray  # [D]
  loss: float  # the minimised objective: mean cross-entropy + l2 / (2 N) |w|^2
  iterations: int
  converged: bool

  def rank(self, x: np.ndarray, top: int = 1) -> np.ndarray:
    """[N, top] classes of x [N, D], best first."""
    parts = (x[i : i + _ROWS] for i in range(0, len(x), _ROWS))
    logits = [((part - self.mean) / self.std) @ self.w + self.b for part in parts]
    return np.concatenate([np.argsort(-z, axis=1, kind='stable')[:, :top] for z in logits])


def fit(x: Any, y: Any, num_classes: int, *, l2: float, max_iter: int = 500, tolerance: float = 1e-5) -> Classifier:
  """Multinomial logistic regression of standardised features: min mean cross-entropy + l2 / (2 N) |w|^2, the bias not penalised.

  l2 is 1 / C of scikit-learn's LogisticRegression.

  Args:
    x: [N, D] features.
    y: [N] integers in [0, num_classes).
    l2: strength, on the sum over examples.
    max_iter: L-BFGS iterations.
    tolerance: stops where no component of the gradient is larger.

  Raises:
    UserError: features or labels that do not fit.
  """
  x, y = features.checked(x, y, num_classes, 'logistic regression')
  mean, std, x, y = _prepare(x, y)
  zero = _zeros(x, num_classes)
  params, info = _minimise(x, y, jnp.float32(y >= 0), jnp.float32(l2), num_classes, max_iter, tolerance, zero)
  return _classifier(params, info, mean, std)


def probe(
  train_x: Any,
  train_y: Any,
  test_x: Any,
  test_y: Any,
  num_classes: int,
  *,
  l2: Sequence[float] = L2,
  val_fraction: float = 0.1,
  val: tuple[Any, Any] | None = None,
  max_iter: int = 500,
  tolerance: float = 1e-5,
  seed: int = 0,
) -> dict[str, Any]:
  """Linear evaluation of Kornblith et al. 2019 and SimCLR (2020, App. B.8): l2 chosen on held-out data, then refit on all.

  The search walks from the strongest l2 to the weakest, each from the solution before it: below some strength nothing moves by
  more than the tolerance any more, and the weakest share one solution. The refit starts from zero.

  Channels are standardised by the mean and std of train (and val), which is not part of the protocol: it makes one grid of l2 fit
  features of any scale. The features are on the device once. A tie goes to the larger l2.

  Args:
    train_x, test_x: [N, D], [M, D] features of images without augmentation.
    train_y, test_y: [N], [M] integers in [0, num_classes).
    l2: strengths as in `fit`.
    val_fraction: of each class of train, drawn by `seed`; not used where `val` is given.
    val: (features, labels) held out for the choice.
    max_iter, tolerance: as in `fit`.

  Returns:
    accuracy, top5 (of min(5, num_classes) classes), l2 (chosen), iterations and converged (of the refit), and grid: {'l2',
    'val_accuracy'}, lists.

  Raises:
    UserError: features or labels that do not fit, nothing held out.
  """
  train_x, train_y = features.checked(train_x, train_y, num_classes, 'linear train')
  test_x, test_y = features.checked(test_x, test_y, num_classes, 'linear test')
  if val is None:
    held = _held_out(train_y, val_fraction, seed)
  else:
    val_x, val_y = features.checked(*val, num_classes, 'linear val')
    held = np.arange(len(train_y) + len(val_y)) >= len(train_y)
    train_x, train_y = np.concatenate([train_x, val_x]), np.concatenate([train_y, val_y])
  if len(l2) > 1 and (not held.any() or held.all()):
    raise UserError(
      f'linear: {held.sum()} of {len(held)} examples held out for the choice of l2: raise val_fraction or give val.'
    )
  if train_x.shape[1] != test_x.shape[1]:
    raise UserError(f'linear: train has {train_x.shape[1]} features and test {test_x.shape[1]}.')
  l2 = sorted(float(v) for v in l2)

  mean, std, x, y = _prepare(train_x, train_y)  # one copy of the features for search and refit: weights say which rows count
  every = jnp.float32(y >= 0)
  held = jnp.asarray(features.blocks(held.astype(np.float32), y.shape[1]))
  # One strength after the other, strongest first, each from the solution of the one before: under vmap all would wait for the
  # longest line search and pay for both of its branches (10,000 x 512, 10 classes, 12 strengths on a CPU: three times slower),
  # with 12 times the memory, and the weakest would start from far away.
  zero = _zeros(x, num_classes)
  val_accuracy: list[float] = []
  params = zero
  for strength in reversed(l2) if len(l2) > 1 else ():
    params, _ = _minimise(x, y, every * (1 - held), jnp.float32(strength), num_classes, max_iter, tolerance, params)
    val_accuracy.insert(0, float(_accuracy(params, x, y, held)))
  best = max(range(len(val_accuracy)), key=lambda i: (val_accuracy[i], l2[i]), default=0)  # one strength is no choice
  params, info = _minimise(x, y, every, jnp.float32(l2[best]), num_classes, max_iter, tolerance, zero)
  classifier = _classifier(params, info, mean, std)

  hits = classifier.rank(test_x, min(5, num_classes)) == test_y[:, None]
  return {
    'accuracy': float(hits[:, 0].mean()),
    'top5': float(hits.any(1).mean()),
    'l2': l2[best],
    'iterations': classifier.iterations,
    'converged': classifier.converged,
    'grid': {'l2': l2, 'val_accuracy': val_accuracy},
  }


@functools.partial(jax.jit, static_argnums=(4,))
def _minimise(x, y, weight, l2, num_classes, max_iter, tolerance, params):
  """({'w': [D, C], 'b': [C]}, (loss, iterations, converged)) for x [n, B, D], y [n, B], weight [n, B], l2 []."""
  total = weight.sum()

  def block_loss(params, part):
    x, y, weight = part
    losses = optax.softmax_cross_entropy_with_integer_labels(_logits(params, x), jnp.maximum(y, 0))
    return (weight * losses).sum()

  def objective(params):
    # checkpoint: the logits of one block are alive, not [N, C], which for ImageNet is 5 GB.
    add = lambda sum, part: (sum + jax.checkpoint(block_loss)(params, part), None)
    data = lax.scan(add, jnp.zeros(()), (x, y, weight))[0]
    return (data + l2 / 2 * jnp.square(params['w']).sum()) / total

  tx = optax.lbfgs(memory_size=10)

  def going(carry):
    _, _, grad, _, i = carry
    return (i < max_iter) & (optax.tree.norm(grad, ord='inf') > tolerance)

  def body(carry):
    params, value, grad, state, i = carry
    updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=objective)
    params = optax.apply_updates(params, updates)
    # The line search has been at the new point: its value and gradient are in its state.
    return params, optax.tree.get(state, 'value'), optax.tree.get(state, 'grad'), state, i + 1

  value, grad = jax.value_and_grad(objective)(params)
  params, value, grad, _, i = lax.while_loop(going, body, (params, value, grad, tx.init(params), 0))
  return params, (value, i, optax.tree.norm(grad, ord='inf') <= tolerance)


@jax.jit
def _accuracy(params, x, y, weight):
  """[] weighted accuracy over blocks as in `_minimise`."""

  def hits(part):
    x, y, weight = part
    return ((_logits(params, x).argmax(-1) == y) * weight).sum()

  return lax.map(hits, (x, y, weight)).sum() / weight.sum()


def _zeros(x, num_classes):
  return {'w': jnp.zeros((x.shape[-1], num_classes)), 'b': jnp.zeros(num_classes)}


def _logits(params, x):
  # HIGHEST: the line search compares values that bfloat16 products would not tell apart.
  return jnp.matmul(x, params['w'], precision=lax.Precision.HIGHEST) + params['b'][None]


def _prepare(x, y):
  """(mean [D], std [D], x [n, B, D] standardised, y [n, B] padded with -1)."""
  mean = x.mean(0, dtype=np.float64).astype(np.float32)
  x = x - mean
  std = np.sqrt(np.einsum('nd,nd->d', x, x) / len(x))
  std = np.where(std > 1e-6 * np.abs(mean), std, 1).astype(np.float32)  # a constant channel (but for rounding) stays near 0
  x /= std
  size = min(_ROWS, len(x))
  return mean, std, jnp.asarray(features.blocks(x, size)), jnp.asarray(features.blocks(y, size, -1))


def _classifier(params, info, mean, std):
  loss, iterations, converged = info
  return Classifier(np.asarray(params['w']), np.asarray(params['b']), mean, std, float(loss), int(iterations), bool(converged))


def _held_out(y, fraction, seed):
  """[N] bool: `fraction` of each class, at least one of those with two."""
  rng, held = np.random.default_rng(seed), np.zeros(len(y), bool)
  for c in np.unique(y):
    rows = rng.permutation(np.flatnonzero(y == c))
    held[rows[: min(max(round(fraction * len(rows)), 1), len(rows) - 1)]] = fraction > 0
  return held
