"""What the files of presets are made with."""

from collections.abc import Callable
from typing import Any, TypeAlias

import ml_collections

from sslax.errors import UserError, suggest
from sslax.evals.knn import KNN
from sslax.evals.zeroshot import ZeroShot
from sslax.models.mlp import MLP
from sslax.run import config as configs
from sslax.spec import spec

IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CIFAR10 = dict(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
Config: TypeAlias = ml_collections.ConfigDict
Preset = Callable[[Config], None]  # sets what differs from the base


def base_config() -> Config:
  """The keys that every run has, with their defaults, and those of the probes that have settings."""
  config = configs.base_config()
  config.eval.probes = dict(knn=spec(KNN), zeroshot=spec(ZeroShot))
  return config


def presets(*functions: Preset, **others: Preset) -> dict[str, Preset]:
  """Presets by the names of their functions, and `others` under names of their own."""
  return {**{function.__name__: function for function in functions}, **others}


def get_config(presets: dict[str, Preset], base: Callable[[], Config] = base_config) -> Callable[..., Config]:
  """The function `get_config(preset)` of a config file: --config=FILE.py:PRESET; without a preset the first one.

  The function raises UserError for a preset that there is not.
  """

  def get(preset: str = '') -> Config:
    if preset and preset not in presets:
      raise UserError(f'no preset {preset!r}.{suggest(preset, presets)}')
    config = base()
    presets[preset or next(iter(presets))](config)
    return config

  return get


def mlp(*features: int, **changes: Any) -> Config:
  """An MLP head; see `sslax.models.mlp` for the papers'."""
  return spec(MLP, features=features, **changes)
