"""Packages that not everyone needs, and how each is asked for: `pip install 'sslax[eval,text,tfds,video,audio]'`."""

import importlib
from types import ModuleType

from sslax.errors import UserError


def need(package: str, extra: str) -> ModuleType:
  """The imported package.

  Raises:
    UserError: it is not installed; names the extra of sslax that brings it.
  """
  try:
    return importlib.import_module(package)
  except ImportError as error:
    raise UserError(f"the package {package!r} is missing ({error}): pip install 'sslax[{extra}]'") from error
