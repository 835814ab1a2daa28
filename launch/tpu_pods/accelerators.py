"""Types of TPU slices as Google's queued resources name them."""

from __future__ import annotations

import re

from .errors import Mistake, suggest

KINDS = ('v2', 'v3', 'v4', 'v5e', 'v5litepod', 'v5p', 'v6e')
RUNTIMES = {'v5litepod': 'v2-alpha-tpuv5-lite', 'v5p': 'v2-alpha-tpuv5', 'v6e': 'v2-alpha-tpuv6e'}
OTHER_RUNTIME = 'tpu-ubuntu2204-base'


def accelerator_type(text: str) -> str:
  """Google's name of a slice: 'v5e-16' is 'v5litepod-16', all others stay. How many hosts it has, nobody computes from it.

  Raises:
    Mistake: no kind that queued resources have, or no number.
  """
  kind, dash, count = text.rpartition('-')
  kind = kind if dash else text
  if kind in ('tpu7x', 'ironwood'):
    raise Mistake(f'--type={text}: Google offers it on GKE only; see launch/gke')
  if kind not in KINDS:
    raise Mistake(f'--type={text} is unknown.{suggest(kind, KINDS)}')
  if not dash or not re.fullmatch('[1-9][0-9]*', count):
    raise Mistake(f'--type={text} lacks the number of its chips or cores, for example --type=v5litepod-16')
  return f'v5litepod-{count}' if kind == 'v5e' else text


def runtime_version(accelerator: str) -> str:
  """The software of the VM that fits a type."""
  return RUNTIMES.get(accelerator.rpartition('-')[0], OTHER_RUNTIME)
