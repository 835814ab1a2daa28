"""TEMPORARY until the composed optimizers are merged."""

RENAMED: dict[str, str] = {}


def upgrade(node):
  return node
