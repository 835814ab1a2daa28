"""Losses over image-text pairs: a softmax both ways (CLIP), or a sigmoid for every pair (SigLIP). Rows are unit already.

`block` says how the similarities are made: None chooses by size, 0 holds all of them, n works in tiles of n x n
(blockwise.py). Value and gradient are the same.
"""

import chex
import jax
import jax.numpy as jnp
import optax

from sslax.losses import blockwise
from sslax.ops.normalize import inner


def clip(image: jax.Array, text: jax.Array, scale: float | jax.Array, block: int | None = None) -> jax.Array:
  """Symmetric softmax loss: half the cross-entropy of picking each image's text plus half that of picking each text's image.

  Radford et al. 2021, https://arxiv.org/abs/2103.00020, figure 3; open_clip's ClipLoss. Under `jit` over a mesh the arrays
  are the global batch: every pair of all devices is a negative, with its gradient (`gather_with_grad` there).

  Args:
    image: [B, D] unit rows; they are not normalised here.
    text: [B, D] unit rows; row i belongs with row i of `image`.
    scale: multiplies the cosines: 1 / temperature, > 0.
    block: None, 0 or n; see the module.

  Returns:
    [] float32; log(B) when all rows are equal.
  """
  chex.assert_rank([image, text], 2)
  chex.assert_equal_shape([image, text])
  target = jnp.arange(len(image))
  if block := blockwise.block_size(block, len(image), len(text)):
    one_way = lambda q, k: blockwise.log_sum_exp(q, k, scale, block=block, target=target).mean()
    return (one_way(image, text) + one_way(text, image)) / 2
  logits = _logits(image, text, scale)
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels
  return (cross_entropy(logits, target).mean() + cross_entropy(logits.T, target).mean()) / 2


def siglip(
  image: jax.Array, text: jax.Array, scale: float | jax.Array, bias: float | jax.Array, block: int | None = None
) -> jax.Array:
  """Sigmoid loss: -1/B sum over all pairs (i, j) of log sigmoid(y_ij (scale x_i.y_j + bias)), y = 1 for i = j, else -1.

  Zhai et al. 2023, https://arxiv.org/abs/2303.15343, algorithm 1 (its equation has the sign of the bias wrong); big_vision's
  siglip.py. The sum over B^2 pairs is divided by B. In blocks over a mesh the texts go around a ring, as in
  the paper's section 3.3.

  Args:
    image: [B, D] unit rows; they are not normalised here.
    text: [B, D] unit rows; row i belongs with row i of `image`.
    scale: multiplies the cosines, > 0; 10 at first in the paper.
    bias: is added to the logits; -10 at first, as most pairs are negatives.
    block: None, 0 or n; see the module.

  Returns:
    [] float32.
  """
  chex.assert_rank([image, text], 2)
  chex.assert_equal_shape([image, text])
  if block := blockwise.block_size(block, len(image), len(text)):
    return blockwise.sigmoid_sum(image, text, scale, bias, block=block).mean()
  rows = jnp.arange(len(image))
  logits = _logits(image, text, scale) + bias
  return -jnp.sum(jax.nn.log_sigmoid(jnp.where(rows[:, None] == rows[None], logits, -logits))) / len(image)


def matching_accuracy(image: jax.Array, text: jax.Array, block: int | None = None) -> dict[str, jax.Array]:
  """The fraction of images whose most similar text of the batch is their own, and of texts likewise; no gradient.

  Args:
    image: [B, D] unit rows.
    text: [B, D] unit rows; row i belongs with row i of `image`.
    block: None, 0 or n; see the module.

  Returns:
    {'image_to_text': [] float32, 'text_to_image': [] float32}; of equal similarities the first counts, so that rows that are all
    equal score 1 / B.
  """
  chex.assert_rank([image, text], 2)
  chex.assert_equal_shape([image, text])
  target = jnp.arange(len(image))
  if block := blockwise.block_size(block, len(image), len(text)):
    texts, images = blockwise.nearest(image, text, block=block), blockwise.nearest(text, image, block=block)
  else:
    logits = jax.lax.stop_gradient(_logits(image, text, 1.0))
    texts, images = logits.argmax(1), logits.argmax(0)
  hit = lambda found: jnp.mean(found == target, dtype=jnp.float32)
  return {'image_to_text': hit(texts), 'text_to_image': hit(images)}


def _logits(image, text, scale):
  """[B, D], [C, D] -> [B, C] float32."""
  return scale * inner(image.astype(jnp.float32), text.astype(jnp.float32))
