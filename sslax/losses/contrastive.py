"""Contrastive losses: a softmax over similarities picks the positive out of the batch, a queue, or the rows of other classes.

For every loss `block` says how the similarities are made: None chooses by size, 0 holds all of them, n works in tiles of n x n
(blockwise.py). Value and gradient are the same.
"""

import chex
import jax
import jax.numpy as jnp
import optax

from sslax.errors import UserError
from sslax.losses import blockwise
from sslax.ops.normalize import inner, l2_normalize


def nt_xent(z1: jax.Array, z2: jax.Array, temperature: float | jax.Array, block: int | None = None) -> jax.Array:
  """NT-Xent: cross-entropy of picking an anchor's other view out of the 2B - 1 other rows, mean over the 2B anchors.

  Chen et al. 2020, https://arxiv.org/abs/2002.05709, eq. 1. The official code (google-research/simclr, objective.py) returns the
  SUM of the two views' means, which is 2x this; the mean is what the paper writes and what lightly returns. Rows are
  l2-normalised here (`hidden_norm=True` there), in float32 whatever the input. Under `jit` over a mesh the arrays are the global
  batch, so all devices' rows are negatives and nothing is gathered by hand.

  Args:
    z1: [B, D] projections of the first views, any scale.
    z2: [B, D] projections of the second views; row i belongs with row i of `z1`.
    temperature: divides the cosine similarities, > 0; 0.1 for ImageNet and 0.5 for CIFAR-10 in the paper.
    block: None, 0 or n; see the module.

  Returns:
    [] float32; log(2B - 1) when all rows are equal.
  """
  chex.assert_rank([z1, z2], 2)
  z = _interleaved(z1, z2)
  if block := blockwise.block_size(block, len(z), len(z)):
    positive = jnp.arange(len(z)) ^ 1
    return blockwise.log_sum_exp(z, z, 1 / temperature, block=block, keep=blockwise.others, target=positive).mean()
  logits, positive = _logits(z, temperature)
  return optax.softmax_cross_entropy_with_integer_labels(logits, positive).mean()


def contrastive_accuracy(z1: jax.Array, z2: jax.Array, block: int | None = None) -> jax.Array:
  """The fraction of the 2B anchors whose most similar other row is their positive; no gradient.

  Chance is 1 / (2B - 1). The official code logs the same number as contrast_acc.

  Args:
    z1: [B, D] projections of the first views, any scale.
    z2: [B, D] projections of the second views.
    block: None, 0 or n; see the module.

  Returns:
    [] float32 in [0, 1]. Equal rows count once at most, so a collapsed encoder scores about chance and not 1.
  """
  chex.assert_rank([z1, z2], 2)
  z = jax.lax.stop_gradient(_interleaved(z1, z2))
  if block := blockwise.block_size(block, len(z), len(z)):
    found, positive = blockwise.nearest(z, z, block=block, keep=blockwise.others), jnp.arange(len(z)) ^ 1
  else:
    logits, positive = _logits(z, 1.0)
    found = jnp.argmax(logits, axis=1)
  return jnp.mean(found == positive, dtype=jnp.float32)


def info_nce(q: jax.Array, k: jax.Array, temperature: float | jax.Array, block: int | None = None) -> jax.Array:
  """InfoNCE, one direction: cross-entropy of picking row i of `k` out of all its rows for row i of `q`, mean over the batch.

  van den Oord et al. 2018, https://arxiv.org/abs/1807.03748, eq. 4, on cosines. Chen et al. 2021 (MoCo v3,
  https://arxiv.org/abs/2104.02057, alg. 1) take 2 x temperature x the sum of both directions. Rows are l2-normalised here. No
  gradient is cut: the caller decides whether the keys have one.

  Args:
    q: [B, D] queries, any scale.
    k: [B, D] keys; row i is the positive of row i of `q`, the other rows are its negatives.
    temperature: divides the cosine similarities, > 0.
    block: None, 0 or n; see the module.

  Returns:
    [] float32; log(B) when all rows are equal, 0 for a batch of one.
  """
  chex.assert_rank([q, k], 2)
  chex.assert_equal_shape([q, k])
  q, k = l2_normalize(q), l2_normalize(k)
  if block := blockwise.block_size(block, len(q), len(k)):
    return blockwise.log_sum_exp(q, k, 1 / temperature, block=block, target=jnp.arange(len(q))).mean()
  logits = inner(q, k) / temperature
  return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(q.shape[0])).mean()


def info_nce_queue(
  q: jax.Array, k: jax.Array, queue: jax.Array, temperature: float | jax.Array, block: int | None = None
) -> jax.Array:
  """InfoNCE against a queue: -log exp(q.k / T) / (exp(q.k / T) + sum over the queue of exp(q.n / T)), mean over the batch.

  He et al. 2020 (MoCo), https://arxiv.org/abs/1911.05722, eq. 1. The other rows of the batch are no negatives. `q` and `k` are
  l2-normalised here; the queue's rows are unit already, as they were when they entered it. No gradient is cut.

  Args:
    q: [B, D] queries, any scale.
    k: [B, D] keys; row i is the positive of row i of `q`.
    queue: [K, D] unit rows, the negatives of every query (one per row; the official code keeps them in columns).
    temperature: divides the cosine similarities, > 0; 0.07 in MoCo v1, 0.2 in v2.
    block: None, 0 or n; see the module.

  Returns:
    [] float32; log(1 + K) when all rows are equal.
  """
  chex.assert_rank([q, k, queue], 2)
  chex.assert_equal_shape([q, k])
  chex.assert_axis_dimension(queue, 1, q.shape[1])
  q, k = l2_normalize(q), l2_normalize(k)
  positive = jnp.sum(q * k, axis=1) / temperature
  if block := blockwise.block_size(block, len(q), len(queue)):
    lse = blockwise.log_sum_exp(q, queue, 1 / temperature, block=block, everywhere=True)
  else:
    lse = jax.nn.logsumexp(inner(q, queue.astype(jnp.float32)) / temperature, axis=1)
  # Equation 1 without joining [B, 1] to [B, K]: log(1 + exp(lse(negatives) - positive)).
  return jax.nn.softplus(lse - positive).mean()


def supcon(
  z: jax.Array, label: jax.Array, temperature: float | jax.Array, variant: str = 'out', block: int | None = None
) -> jax.Array:
  """Supervised contrastive loss: all other rows of an anchor's class are its positives, mean over the N anchors.

  Khosla et al. 2020, https://arxiv.org/abs/2004.11362. With p_ij the softmax over j != i of z_i.z_j / T and P(i) the positives:
  'out' (eq. 2) is -mean over P(i) of log p_ij; 'in' (eq. 3) is -log of the mean over P(i) of p_ij, never larger (Jensen). The
  paper sums over the anchors; this is their mean, as in the official code (HobbitLong/SupContrast, losses.py), but without its
  factor temperature / base_temperature: multiply by T / 0.07 for its value. Anchors without positives count as 0, there too. Rows
  are l2-normalised here.

  Args:
    z: [N, D] embeddings of all views of all images, any scale and order: the labels alone say what is positive.
    label: [N] integer classes; two views of an image have the same.
    temperature: divides the cosine similarities, > 0; 0.1 in the paper.
    variant: 'out' or 'in'.
    block: None, 0 or n; see the module.

  Returns:
    [] float32; log(N - 1) when all rows are equal (and every anchor has a positive).

  Raises:
    UserError: another variant.
  """
  chex.assert_rank([z, label], [2, 1])
  chex.assert_equal_shape_prefix([z, label], 1)
  if variant not in ('out', 'in'):
    raise UserError(f"supcon: variant {variant!r} is unknown. Known: 'in', 'out'.")
  z = l2_normalize(z)
  block = blockwise.block_size(block, len(z), len(z))
  log_all, log_positive, count = (
    _supcon_in_blocks(z, label, temperature, variant, block) if block else _supcon(z, label, temperature, variant)
  )
  return jnp.where(count > 0, log_all - log_positive, 0).mean()


def _supcon(z, label, temperature, variant):
  """For each anchor: lse over the others, what `variant` says of its positives, their number; [N] each."""
  row = jnp.arange(z.shape[0])
  other = row[:, None] != row[None, :]
  positive = other & (label[:, None] == label[None, :])
  count = positive.sum(axis=1)
  logits = inner(z, z) / temperature
  # -1e30 and not -inf: a row without any entry (no positive; a batch of one) keeps finite gradients, which are then times 0.
  log_all = jax.nn.logsumexp(jnp.where(other, logits, -1e30), axis=1)
  if variant == 'out':
    log_positive = jnp.where(positive, logits, 0).sum(axis=1) / jnp.maximum(count, 1)
  else:
    log_positive = jax.nn.logsumexp(jnp.where(positive, logits, -1e30), axis=1) - jnp.log(jnp.maximum(count, 1))
  return log_all, log_positive, count


def _supcon_in_blocks(z, label, temperature, variant, block):
  ordered = jnp.sort(label)
  first, last = (jnp.searchsorted(ordered, label, side) for side in ('left', 'right'))
  count = last - first - 1
  log_all = blockwise.log_sum_exp(z, z, 1 / temperature, block=block, keep=blockwise.others)
  if variant == 'out':
    # The sum over positives is linear in them: z_i.(sum of the class - z_i), without a pair. `first` numbers the classes.
    others = jnp.zeros_like(z).at[first].add(z)[first] - z
    log_positive = jnp.sum(z * others, axis=1) / temperature / jnp.maximum(count, 1)
  else:
    log_positive = blockwise.log_sum_exp(z, z, 1 / temperature, block=block, keep=blockwise.positives, label=label)
    log_positive -= jnp.log(jnp.maximum(count, 1))
  return log_all, log_positive, count


def _interleaved(z1, z2):
  """[B, D] each -> [2B, D] unit rows: 2i + v is view v of i."""
  chex.assert_equal_shape([z1, z2])
  # Stacking behind the sharded axis leaves every row on its device; concatenating along it would not.
  return jnp.stack([l2_normalize(z1), l2_normalize(z2)], axis=1).reshape(-1, z1.shape[1])


def _logits(z, temperature):
  """([2B, 2B] cosine similarities / temperature with -inf on the diagonal, [2B] column of each row's positive)."""
  row = jnp.arange(z.shape[0])
  # ORDER MATTERS: masked before the division, the gradient of a learnt temperature would be 0 * inf.
  return jnp.where(row[:, None] == row[None, :], -jnp.inf, inner(z, z) / temperature), row ^ 1
