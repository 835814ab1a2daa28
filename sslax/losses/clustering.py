"""Losses over cluster assignments: SwAV's swapped prediction."""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from sslax.losses.distillation import cross_view


def swapped_prediction(scores: Sequence[jax.Array], codes: Sequence[jax.Array], temperature: float | jax.Array) -> jax.Array:
  """-sum over K of codes_i log softmax(scores_v / T): mean over images, over crops v != i, and over assigned crops i.

  Caron et al. 2020 (SwAV), https://arxiv.org/abs/2006.09882, eq. 1-2 for two crops and eq. 6 for more, averaged over the pairs as
  in the official code (facebookresearch/swav, main_swav.py). No gradient is cut: give it `stop_gradient` of the codes.

  Args:
    scores: V arrays [B, K], one a crop: cosines of the embeddings with the prototypes.
    codes: G <= V arrays [B, K], one for each of the first crops: their assignments, rows sum to 1.
    temperature: divides the scores, > 0; 0.1 in the paper.

  Returns:
    [] float32; log(K) when all scores are equal.

  Raises:
    UserError: there is no pair of different crops.
  """
  chex.assert_rank([*scores, *codes], 2)
  chex.assert_equal_shape([*scores, *codes])
  log_p = [jax.nn.log_softmax(s.astype(jnp.float32) / temperature) for s in scores]
  return cross_view([c.astype(jnp.float32) for c in codes], log_p)
