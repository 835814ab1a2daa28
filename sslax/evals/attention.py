"""What a vision transformer looks at, and what its patches have in common: two pictures that need no labels."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from sslax.method import Method
from sslax.models import net


def attention_maps(method: Method, params, memory, image: jax.Array) -> np.ndarray | None:
  """Attention of the last block's class token to the patches, a map for each head (Caron et al. 2021, figure 1).

  Networks without a class token: the mean over all queries, how much a patch is looked at.

  Args:
    image: [B, S, S, 3] uint8, as `method.features` takes it.

  Returns:
    [B, heads, h, w], each map sums to 1; None where the encoder has no attention over a square grid of patches that can be
    seen: a ResNet, or blocks under `scan`.
  """

  @jax.jit
  def maps(params, memory, image):
    out, calls = net.watched(lambda: method.features(params, memory, {'image': image}), method='attend')
    tokens, first = _grid(out)
    if not calls or tokens is None:
      return None
    q, k = calls[-1][:2]
    weights = jax.nn.softmax(jnp.einsum('bqhd,bkhd->bhqk', q, k).astype(jnp.float32) / math.sqrt(q.shape[-1]), axis=-1)
    rows = weights[:, :, 0] if first else weights.mean(2)
    rows = rows[:, :, first:]
    side = math.isqrt(rows.shape[-1])
    return (rows / rows.sum(-1, keepdims=True)).reshape(*rows.shape[:2], side, side)

  try:
    found = maps(params, memory, image)
  except jax.errors.UnexpectedTracerError:  # scanned blocks
    return None
  return None if found is None else np.asarray(found)


def patch_pca(tokens: np.ndarray) -> np.ndarray:
  """The first three principal components of all patch tokens together as red, green and blue (Oquab et al. 2023, figure 1).

  Args:
    tokens: [B, T, D]; T is a square, or a square and a class token in front, which is left out.

  Returns:
    [B, h, w, 3] in [0, 1], each component between its 1st and 99th percentile; the sign makes the larger part of it positive.

  Raises:
    ValueError: T is neither.
  """
  tokens, first = _grid({'tokens': tokens})
  if tokens is None:
    raise ValueError('patch tokens must be a square grid, with or without a class token in front')
  x = np.asarray(tokens, np.float64)[:, first:]
  flat = x.reshape(-1, x.shape[-1])
  flat = flat - flat.mean(0)
  components = np.linalg.svd(np.cov(flat.T))[0][:, :3]
  z = flat @ components
  z = z * np.where(np.abs(z.max(0)) < np.abs(z.min(0)), -1.0, 1.0)
  low, high = np.percentile(z, (1, 99), axis=0)
  z = np.clip((z - low) / np.maximum(high - low, 1e-12), 0, 1)
  side = math.isqrt(x.shape[1])
  return z.reshape(len(x), side, side, 3)


def _grid(out) -> tuple[jax.Array | None, int]:
  """(tokens [B, T, D], 1 if the first is a class token) of a network's output; None where there is no square grid."""
  tokens = out.get('tokens')
  if tokens is None or tokens.ndim != 3:
    return None, 0
  for first in (0, 1):
    if math.isqrt(tokens.shape[1] - first) ** 2 == tokens.shape[1] - first > 1:
      return tokens, first
  return None, 0
