"""What a result was made with."""

import contextlib
import importlib.metadata
import platform

PACKAGES = ('jax', 'flax', 'optax', 'orbax-checkpoint')


def versions() -> dict[str, str]:
  """{'sslax': '0.1.0', 'python': '3.11.7', 'jax': ..., ...}: what is not installed is left out. Imports none of them."""
  from sslax import __version__

  found = {'sslax': __version__, 'python': platform.python_version()}
  for name in PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found
