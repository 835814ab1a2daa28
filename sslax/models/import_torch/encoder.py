"""An encoder, whichever it is, from a file of weights: which importer it takes, and which names of the file are its own."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from sslax.errors import UserError
from sslax.models.import_torch.resnet import resnet
from sslax.models.import_torch.vit import vit

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Importer:
  """How weights come into one kind of network."""

  part: str  # of its parameters, by which it is recognised
  typical: str  # a name that every file of it has
  own: tuple[str, ...]  # what its names begin with
  fill: Callable  # (state, params, stats, *, prefix) -> (params, stats)


IMPORTERS = (
  Importer('conv1', 'layer1.0.conv1.weight', ('conv1.', 'bn1.', 'layer'), resnet),
  Importer(
    'patches',
    'blocks.0.norm1.weight',
    ('cls_token', 'pos_embed', 'patch_embed.', 'blocks.', 'norm.'),
    lambda state, params, stats, *, prefix: (vit(state, params, prefix=prefix), stats),
  ),
)


def encoder(
  state: Mapping[str, np.ndarray], params: PyTree, stats: PyTree, *, prefix: str = '', file: str = 'FILE'
) -> tuple[PyTree, PyTree]:
  """(params, stats) of a ResNet or a ViT from the names of torchvision or timm.

  Args:
    state: name -> array; what is not the encoder's, a head or a queue, is left out.
    params, stats: arrays or shapes: structure, shapes, dtypes.
    prefix: what its names begin with, 'module.encoder_q.'.
    file: what the state was read from, for messages.

  Raises:
    UserError: the encoder is neither, the file is not of its kind, or their parameters differ.
  """
  importer = next((known for known in IMPORTERS if known.part in params), None)
  if importer is None:
    raise UserError(f'there are importers for ResNet and ViT, and this encoder, of {", ".join(params)}, is neither')
  if f'{prefix}{importer.typical}' not in state:
    prefixes = [name.removesuffix(importer.typical) for name in state if name.endswith(importer.typical)]
    tries = ' or '.join(f'encoder={file}:{p}' for p in prefixes)
    hint = f' Try {tries}' if prefixes else f' It has {", ".join(sorted(state)[:8])}, ...'
    raise UserError(f'{file} has no {prefix}{importer.typical}.{hint}')
  own = importer.own
  if not any('position' in part.key for path, _ in jax.tree.leaves_with_path(params) for part in path):
    # Fixed positions: the file's are those of another image size, or the same.
    own = tuple(name for name in own if name != 'pos_embed')
  state = {name: x for name, x in state.items() if name.startswith(prefix) and name.removeprefix(prefix).startswith(own)}
  return importer.fill(state, params, stats, prefix=prefix)
