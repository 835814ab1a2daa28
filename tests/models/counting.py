"""How large a network is."""

import math

import jax


def count(params):
  """The number of scalars in a tree."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
