"""Vision transformers from timm's names."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sslax.models.import_torch.fill import Rule, fill, kernel

PyTree = Any


def vit(
  state: Mapping[str, np.ndarray], params: PyTree, *, prefix: str | tuple[str, ...] = (), ignore: tuple[str, ...] = ('head.',)
) -> PyTree:
  """params of a `ViT`, looped or scanned, from timm's names, which the official DINO, MAE and MoCo v3 checkpoints share.

  Networks with fixed positions do not keep them: add 'pos_embed' to `ignore`. The rest is as in `resnet`.
  """
  return fill(params, state, rule_of(params), prefix, ignore)


def rule_of(params: PyTree) -> Rule:
  """The rule of `fill` for a `ViT`, looped or scanned, and timm's names."""
  top = {
    ('cls',): 'cls_token',
    ('patches', 'projection', 'kernel'): 'patch_embed.proj.weight',
    ('patches', 'projection', 'bias'): 'patch_embed.proj.bias',
    ('norm', 'scale'): 'norm.weight',
    ('norm', 'bias'): 'norm.bias',
  }
  block = {'qkv': 'attn.qkv', 'proj': 'attn.proj', 'fc1': 'mlp.fc1', 'fc2': 'mlp.fc2', 'norm1': 'norm1', 'norm2': 'norm2'}
  has_class = 'cls' in params

  def rule(path, take):
    if path == ('cls_position',):
      return take('pos_embed')[:, :1]
    if path == ('patches', 'positions'):
      return take('pos_embed')[:, int(has_class) :].reshape(params['patches']['positions'].shape)
    if path in top:
      return kernel(path, take(top[path]))
    if path[1] in ('scale1', 'scale2'):
      name = f'ls{path[1][-1]}.gamma'
    else:
      name = f'{block[path[1]]}.{"bias" if path[2] == "bias" else "weight"}'
    if path[0] != 'blocks':
      return kernel(path, take(f'blocks.{path[0].removeprefix("blocks_")}.{name}'))
    any_leaf = params['blocks']['norm1']['scale']
    return np.stack([kernel(path, take(f'blocks.{i}.{name}')) for i in range(any_leaf.shape[0])])

  return rule
