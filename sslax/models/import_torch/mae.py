"""Masked autoencoders, encoder and decoder, from the names of the official code and of transformers."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from sslax.models.import_torch.fill import fill, kernel
from sslax.models.import_torch.vit import rule_of

PyTree = Any


def mae(
  state: Mapping[str, np.ndarray], params: PyTree, *, prefix: str | tuple[str, ...] = (), ignore: tuple[str, ...] = ()
) -> PyTree:
  """params of an `MAE`, {'encoder': ViT, 'decoder': Decoder}, from the names of the official code (facebookresearch/mae).

  The fixed position tables, which those checkpoints keep and ours do not, are compared. The rest is as in `resnet`.
  """
  encoder, decoder = rule_of(params['encoder']), rule_of(params['decoder'])
  only = {
    'embed': 'decoder_embed',
    'predict': 'decoder_pred',
    'mask_token': 'mask_token',
  }  # in the decoder, beside norm and blocks

  def rule(path, take):
    part, *path = path
    path = tuple(path)
    if part == 'encoder':
      return encoder(path, take)
    if path[0] in only:
      entry = {'kernel': '.weight', 'bias': '.bias'}.get(path[-1], '')
      return kernel(path, take(only[path[0]] + entry))
    return decoder(path, lambda name: take(f'decoder_{name}'))

  tables = ('decoder_pos_embed',) + (() if 'positions' in params['encoder']['patches'] else ('pos_embed',))
  return fill(params, state, rule, prefix, ignore, tables)


def mae_transformers(
  state: Mapping[str, np.ndarray], params: PyTree, *, prefix: str | tuple[str, ...] = (), ignore: tuple[str, ...] = ()
) -> PyTree:
  """params of an `MAE` from the names of transformers' ViTMAEForPreTraining, those of version 5 and of the files before it.

  The rest is as in `mae`; a problem is told with the official code's names.
  """
  renamed = {}
  for name, x in state.items():
    for p in (prefix,) if isinstance(prefix, str) else prefix:
      name = name.removeprefix(p)
    for pattern, replacement in _TRANSFORMERS_MAE:
      name = re.sub(pattern, replacement, name)
    renamed[name] = x
  for name in [name for name in renamed if '.attn.q.' in name]:  # one matrix [3D, D] for query, key and value
    parts = [name.replace('.attn.q.', f'.attn.{part}.') for part in 'qkv']
    if all(part in renamed for part in parts):
      renamed[name.replace('.attn.q.', '.attn.qkv.')] = np.concatenate([renamed.pop(part) for part in parts])
  return mae(renamed, params, ignore=ignore)


# transformers -> the official code's names, in this order
_TRANSFORMERS_MAE = (
  (r'^decoder\.(decoder_(embed|pos_embed|norm|pred)|mask_token)', r'\1'),
  (r'^decoder\.decoder_layers\.', 'decoder_blocks.'),
  (r'^vit\.(encoder\.layer|layers)\.', 'blocks.'),
  (r'^vit\.layernorm\.', 'norm.'),
  (r'^vit\.embeddings\.cls_token', 'cls_token'),
  (r'^vit\.embeddings\.position_embeddings', 'pos_embed'),
  (r'^vit\.embeddings\.patch_embeddings\.projection\.', 'patch_embed.proj.'),
  (r'\.attention\.(attention\.)?(q|k|v)(_proj|uery|ey|alue)\.', r'.attn.\2.'),
  (r'\.attention\.(o_proj|output\.dense)\.', '.attn.proj.'),
  (r'\.(mlp\.fc1|intermediate\.dense)\.', '.mlp.fc1.'),
  (r'\.(mlp\.fc2|output\.dense)\.', '.mlp.fc2.'),
  (r'\.layernorm_before\.', '.norm1.'),
  (r'\.layernorm_after\.', '.norm2.'),
)
