"""Losses over image-text pairs: a softmax both ways (CLIP), or a sigmoid for every pair (SigLIP). Rows are unit already."""

import chex
import jax
import jax.numpy as jnp
import optax

from sslax.ops.unit import inner


def clip(image: jax.Array, text: jax.Array, scale: float | jax.Array) -> jax.Array:
  """Symmetric softmax loss: half the cross-entropy of picking each image's text plus half that of picking each text's image.

  Radford et al. 2021, https://arxiv.org/abs/2103.00020, figure 3; open_clip's ClipLoss. Under `jit` over a mesh the arrays
  are the global batch: every pair of all devices is a negative, with its gradient (`gather_with_grad` there).

  Args:
    image: [B, D] unit rows; they are not normalised here.
    text: [B, D] unit rows; row i belongs with row i of `image`.
    scale: multiplies the cosines: 1 / temperature, > 0.

  Returns:
    [] float32; log(B) when all rows are equal.
  """
  chex.assert_rank([image, text], 2)
  chex.assert_equal_shape([image, text])
  logits, target = _logits(image, text, scale), jnp.arange(len(image))
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels
  return (cross_entropy(logits, target).mean() + cross_entropy(logits.T, target).mean()) / 2


def siglip(image: jax.Array, text: jax.Array, scale: float | jax.Array, bias: float | jax.Array, chunk: int = 0) -> jax.Array:
  """Sigmoid loss: -1/B sum over all pairs (i, j) of log sigmoid(y_ij (scale x_i.y_j + bias)), y = 1 for i = j, else -1.

  Zhai et al. 2023, https://arxiv.org/abs/2303.15343, algorithm 1 (its equation has the sign of the bias wrong); big_vision's
  siglip.py. The sum over B^2 pairs is divided by B.

  Args:
    image: [B, D] unit rows; they are not normalised here.
    text: [B, D] unit rows; row i belongs with row i of `image`.
    scale: multiplies the cosines, > 0; 10 at first in the paper.
    bias: is added to the logits; -10 at first, as most pairs are negatives.
    chunk: > 0 compares all images with this many texts at a time and recomputes that in the backward pass: [B, chunk] logits are
      alive instead of [B, B]. Over a mesh, a multiple of the number of devices.

  Returns:
    [] float32.

  Raises:
    ValueError: B is not a multiple of `chunk`.
  """
  chex.assert_rank([image, text], 2)
  chex.assert_equal_shape([image, text])
  rows = jnp.arange(len(image))

  def pairs(text, columns):  # [C, D] and their places in the batch -> []
    logits = _logits(image, text, scale) + bias
    return -jnp.sum(jax.nn.log_sigmoid(jnp.where(rows[:, None] == columns[None], logits, -logits)))

  if not chunk:
    return pairs(text, rows) / len(image)
  if len(image) % chunk:
    raise ValueError(f'{len(image)} pairs do not divide into chunk={chunk}')
  # Strided, as in net.apply: texts i, i + n, ... make a chunk, so that each device holds a part of every chunk.
  split = lambda x: x.reshape(chunk, -1, *x.shape[1:]).swapaxes(0, 1)
  add = jax.checkpoint(lambda total, part: (total + pairs(*part), None))
  return jax.lax.scan(add, jnp.zeros(()), (split(text), split(rows)))[0] / len(image)


def matching_accuracy(image: jax.Array, text: jax.Array) -> dict[str, jax.Array]:
  """The fraction of images whose most similar text of the batch is their own, and of texts likewise; no gradient.

  Args:
    image: [B, D] unit rows.
    text: [B, D] unit rows; row i belongs with row i of `image`.

  Returns:
    {'image_to_text': [] float32, 'text_to_image': [] float32}; of equal similarities the first counts, so that rows that are all
    equal score 1 / B.
  """
  chex.assert_rank([image, text], 2)
  chex.assert_equal_shape([image, text])
  logits, target = jax.lax.stop_gradient(_logits(image, text, 1.0)), jnp.arange(len(image))
  hit = lambda axis: jnp.mean(logits.argmax(axis) == target, dtype=jnp.float32)
  return {'image_to_text': hit(1), 'text_to_image': hit(0)}


def _logits(image, text, scale):
  """[B, D], [C, D] -> [B, C] float32."""
  return scale * inner(image.astype(jnp.float32), text.astype(jnp.float32))
