"""Learning rates that decay with depth, from the head to the embeddings."""

from typing import Any

import jax
import numpy as np

from sslax.errors import UserError
from sslax.models.net import Group
from sslax.ops import tree

PyTree = Any


def layer_factors(params_shape: PyTree, groups: PyTree, layer_decay: float, where: str = 'layer_decay') -> PyTree:
  """d^(depth + 1 - layer) for each parameter: d^(depth + 1) for the embeddings, d for the last block, 1 for what follows it.

  MAE's util/lr_decay.py (after BEiT). Embeddings are layer 0, block i is layer i + 1, the rest is layer depth + 1. Layers are
  those of the encoder; another network with blocks, a decoder, is all after them.

  Args:
    params_shape: {'encoder': ..., ...}.
    groups: of these parameters, or of these and others of the encoder.
    layer_decay: d, in (0, 1] as a rule.
    where: for messages.

  Returns:
    A tree of floats; of [depth, 1, ...] float32 arrays where blocks are stacked.

  Raises:
    UserError: the encoder has no blocks.
  """
  of_path = dict(zip(tree.paths(groups), jax.tree.leaves(groups), strict=True))
  of_encoder = {path: group for path, group in of_path.items() if path.startswith('encoder/') and group.layer is not None}
  depth = max((group.layer + max(0, group.stacked - 1) for group in of_encoder.values()), default=0)
  if not depth:
    raise UserError(
      f'{where}: layer decay is for encoders with blocks, and no network says that a parameter here is of one '
      '(`param_groups`, see sslax/models/net.py)'
    )

  def factor(path, leaf):
    group = of_encoder.get(path, Group())
    if group.layer is None:
      return 1.0
    if group.stacked:
      layer = group.layer + np.arange(leaf.shape[0])
      return (layer_decay ** (depth + 1 - layer)).astype(np.float32).reshape(-1, *[1] * (len(leaf.shape) - 1))
    return layer_decay ** (depth + 1 - group.layer)

  return tree.map_with_path(factor, params_shape)
