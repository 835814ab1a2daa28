"""Ranges of numbers in the nodes of a config."""

import math
from typing import Any

from sslax.errors import UserError


def zero_or_more(node: Any, where: str, *keys: str) -> None:
  """Raises UserError that names the first of these fields of `node` that is negative, infinite or no number."""
  for key in keys:
    if not (0 <= getattr(node, key) < math.inf):
      raise UserError(f'{where}.{key}={getattr(node, key)} must be zero or more')


def positive(node: Any, where: str, *keys: str) -> None:
  """The same for fields that must be more than zero."""
  for key in keys:
    if not (0 < getattr(node, key) < math.inf):
      raise UserError(f'{where}.{key}={getattr(node, key)} must be more than zero')


def below_one(node: Any, where: str, *keys: str) -> None:
  """The same for fields that must be in [0, 1)."""
  for key in keys:
    if not (0 <= getattr(node, key) < 1):
      raise UserError(f'{where}.{key}={getattr(node, key)} must be in [0, 1)')
