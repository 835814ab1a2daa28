"""CLIP, both towers, from the names of OpenAI's code, of open_clip and of transformers."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from sslax.models.import_torch.fill import fill, kernel

PyTree = Any


def clip(
  state: Mapping[str, np.ndarray],
  params: PyTree,
  stats: PyTree,
  *,
  prefix: str | tuple[str, ...] = (),
  ignore: tuple[str, ...] = ('input_resolution', 'context_length', 'vocab_size'),
) -> tuple[PyTree, PyTree]:
  """(params, stats) of a `CLIP` from the names of openai/CLIP and open_clip; its image tower is a `ViT` or a `ModifiedResNet`.

  Args:
    params, stats: what the method's init returns as parameters and as memory['stats'] (arrays, or shapes). The rest is as in
      `resnet`.
  """
  layers = {
    'qkv': 'attn.in_proj_',
    'proj': 'attn.out_proj.',
    'fc1': 'mlp.c_fc.',
    'fc2': 'mlp.c_proj.',
    'norm1': 'ln_1.',
    'norm2': 'ln_2.',
  }

  def transformer(tower, path, take, at):
    block, layer, leaf = path
    name = f'{layers[layer]}{"bias" if leaf == "bias" else "weight"}'
    if block != 'blocks':
      return kernel(path, take(f'{at}transformer.resblocks.{block.removeprefix("blocks_")}.{name}'))
    depth = params[tower]['blocks']['norm1']['scale'].shape[0]
    return np.stack([kernel(path, take(f'{at}transformer.resblocks.{i}.{name}')) for i in range(depth)])

  def image(path, take):
    entry = {'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}.get(path[-1], 'weight')
    if path == ('cls',):
      return take('visual.class_embedding')[None, None]
    if path == ('cls_position',):
      return take('visual.positional_embedding')[None, :1]
    if path == ('patches', 'positions'):
      return take('visual.positional_embedding')[1:].reshape(params['encoder']['patches']['positions'].shape)
    if path == ('attnpool', 'mean_position'):
      return take('visual.attnpool.positional_embedding')[None, :1]
    if path == ('attnpool', 'positions'):
      return take('visual.attnpool.positional_embedding')[1:].reshape(params['encoder']['attnpool']['positions'].shape)
    if path[0] == 'patches':
      return kernel(path, take('visual.conv1.weight'))
    if path[0] in ('norm_pre', 'norm'):
      return take(f'visual.{"ln_pre" if path[0] == "norm_pre" else "ln_post"}.{entry}')
    if path[0].startswith('blocks'):
      return transformer('encoder', path, take, 'visual.')
    if path[:2] == ('attnpool', 'kv'):
      return kernel(path, np.concatenate([take(f'visual.attnpool.{name}_proj.{entry}') for name in 'kv']))
    if path[0] == 'attnpool':
      return kernel(path, take(f'visual.attnpool.{path[1]}_proj.{entry}'))
    module = '.'.join(path[:-1]).replace('_conv', '.0').replace('_bn', '.1').replace('_', '.')  # as in `resnet`
    return kernel(path, take(f'visual.{module}.{entry}'))

  def text(path, take):
    if path[0].startswith('blocks'):
      return transformer('text', path, take, '')
    if path[0] == 'norm':
      return take(f'ln_final.{"bias" if path[1] == "bias" else "weight"}')
    return take({'tokens': 'token_embedding.weight', 'positions': 'positional_embedding'}[path[0]])

  def rule(path, take):
    part, *rest = path
    if part in ('encoder', 'text'):
      return (image if part == 'encoder' else text)(tuple(rest), take)
    return take({'head': 'visual.proj', 'text_head': 'text_projection'}.get(part, part))  # [D, E] as here

  state = {name: x for name, x in state.items() if not name.endswith('num_batches_tracked')}
  both = fill({'params': params, 'stats': stats}, state, rule, prefix, ignore)
  return both['params'], {part: both.get('stats', {}).get(part, {}) for part in stats}


def clip_transformers(
  state: Mapping[str, np.ndarray], params: PyTree, stats: PyTree, *, prefix: str = '', ignore: tuple[str, ...] = ()
) -> tuple[PyTree, PyTree]:
  """(params, stats) of a `CLIP` from the names of transformers' CLIPModel; a problem is told with OpenAI's names. See `clip`."""
  renamed = {}
  for name, x in state.items():
    name = name.removeprefix(prefix)
    if name.endswith('.position_ids'):  # 0, 1, 2, ... in files of older versions
      continue
    x = x.T if name in ('visual_projection.weight', 'text_projection.weight') else x
    for pattern, replacement in _TRANSFORMERS_CLIP:
      name = re.sub(pattern, replacement, name)
    renamed[name] = x
  for name in [name for name in renamed if '.attn.q_proj.' in name]:  # one matrix [3D, D] for query, key and value
    parts = [name.replace('.q_proj.', f'.{part}_proj.') for part in 'qkv']
    if all(part in renamed for part in parts):
      renamed[name.replace('.q_proj.', '.in_proj_')] = np.concatenate([renamed.pop(part) for part in parts])
  return clip(renamed, params, stats, ignore=ignore)


# transformers -> OpenAI's names, in this order
_TRANSFORMERS_CLIP = (
  (r'^vision_model\.embeddings\.class_embedding', 'visual.class_embedding'),
  (r'^vision_model\.embeddings\.patch_embedding\.', 'visual.conv1.'),
  (r'^vision_model\.embeddings\.position_embedding\.weight', 'visual.positional_embedding'),
  (r'^vision_model\.pre_layrnorm\.', 'visual.ln_pre.'),
  (r'^vision_model\.post_layernorm\.', 'visual.ln_post.'),
  (r'^vision_model\.encoder\.layers\.', 'visual.transformer.resblocks.'),
  (r'^text_model\.embeddings\.token_embedding\.', 'token_embedding.'),
  (r'^text_model\.embeddings\.position_embedding\.weight', 'positional_embedding'),
  (r'^text_model\.final_layer_norm\.', 'ln_final.'),
  (r'^text_model\.encoder\.layers\.', 'transformer.resblocks.'),
  (r'^visual_projection\.weight', 'visual.proj'),
  (r'^text_projection\.weight', 'text_projection'),
  (r'\.self_attn\.', '.attn.'),
  (r'\.layer_norm(1|2)\.', r'.ln_\1.'),
  (r'\.mlp\.fc1\.', '.mlp.c_fc.'),
  (r'\.mlp\.fc2\.', '.mlp.c_proj.'),
)
