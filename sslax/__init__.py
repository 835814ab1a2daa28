"""sslax: self-supervised learning in JAX, on one chip or a pod with the same result.

The names below are imported when they are first used: `import sslax` itself costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = '0.2.0'

_PUBLIC = {  # name: the module that has it
  'Batch': 'sslax.method',
  'Classes': 'sslax.method',
  'Facts': 'sslax.method',
  'Features': 'sslax.method',
  'Input': 'sslax.method',
  'Method': 'sslax.method',
  'Output': 'sslax.method',
  'Probe': 'sslax.evals.probe',
  'Ramp': 'sslax.ops.schedules',
  'Records': 'sslax.method',
  'Score': 'sslax.evals.probe',
  'UserError': 'sslax.errors',
  'Wrapper': 'sslax.method',
  'base_config': 'sslax.recipes',
  'open_source': 'sslax.data.sources',
  'prepare': 'sslax.run.prepare',
}
__all__ = [
  'Batch',
  'Classes',
  'Facts',
  'Features',
  'Input',
  'Method',
  'Output',
  'Probe',
  'Ramp',
  'Records',
  'Score',
  'UserError',
  'Wrapper',
  'base_config',
  'open_source',
  'prepare',
]

if TYPE_CHECKING:
  from sslax.data.sources import open_source
  from sslax.errors import UserError
  from sslax.evals.probe import Probe, Score
  from sslax.method import Batch, Classes, Facts, Features, Input, Method, Output, Records, Wrapper
  from sslax.ops.schedules import Ramp
  from sslax.recipes import base_config
  from sslax.run.prepare import prepare


def __getattr__(name: str) -> Any:
  if name not in _PUBLIC:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return vars(importlib.import_module(_PUBLIC[name]))[name]


def __dir__() -> list[str]:
  return sorted({*globals(), *_PUBLIC})
