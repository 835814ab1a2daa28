"""Weights of torchvision, timm, MAE, CLIP and transformers, from safetensors files. No PyTorch, no pickle."""

import math
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from sslax.errors import UserError
from sslax.models.positions import sincos

PyTree = Any

_CONVERT = """where PyTorch is at hand, convert it with
  python -c "import sys, torch, safetensors.torch as s; d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); \\
  d = d.get('state_dict', d); s.save_file({k: v.clone() for k, v in d.items() if torch.is_tensor(v)}, sys.argv[2])" \
"""


def load(source: str | pathlib.Path | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays of a state_dict, by name.

  Args:
    source: a .safetensors file, or a dict of arrays, which comes back as numpy arrays.

  Raises:
    UserError: a pickled file (.pth, .pt, .bin, ...; reading one may run code), no such file, or a damaged one.
  """
  if isinstance(source, Mapping):
    return {name: np.asarray(x) for name, x in source.items()}
  path = pathlib.Path(source)
  if path.suffix != '.safetensors':
    raise UserError(f'{path}: only .safetensors are read, not pickled files; {_CONVERT}{path} {path.with_suffix(".safetensors")}')
  try:
    return safetensors.numpy.load_file(path)
  except (OSError, safetensors.SafetensorError) as error:
    raise UserError(f'{path}: cannot be read as safetensors ({error}); check the path, or fetch the file again') from error


def resnet(
  state: Mapping[str, np.ndarray],
  params: PyTree,
  stats: PyTree,
  *,
  prefix: str | tuple[str, ...] = (),
  ignore: tuple[str, ...] = ('fc.',),
) -> tuple[PyTree, PyTree]:
  """(params, stats) of a `ResNet` from torchvision's names.

  Args:
    state: name -> array; num_batches_tracked is left out.
    params, stats: what the module's init returns (arrays, or shapes under `jax.eval_shape`): structure, shapes, dtypes.
    prefix: cut from the front of names that begin with it, each of a tuple in turn: ('module.', 'backbone.').
    ignore: names that begin so, before or after the cut, are left out.

  Raises:
    UserError: a name that nothing needs, a parameter without a name, or another shape: all are listed.
  """
  leaf = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}

  def rule(path, take):
    module = '.'.join(path[:-1]).replace('_conv', '.0').replace('_bn', '.1').replace('_', '.')  # layer1_0/downsample_bn
    return _kernel(path, take(f'{module}.{leaf[path[-1]]}'))

  state = {name: x for name, x in state.items() if not name.endswith('num_batches_tracked')}
  both = _fill({'params': params, 'stats': stats}, state, rule, prefix, ignore)
  return both['params'], both['stats']


def vit(
  state: Mapping[str, np.ndarray], params: PyTree, *, prefix: str | tuple[str, ...] = (), ignore: tuple[str, ...] = ('head.',)
) -> PyTree:
  """params of a `ViT`, looped or scanned, from timm's names, which the official DINO, MAE and MoCo v3 checkpoints share.

  Networks with fixed positions do not keep them: add 'pos_embed' to `ignore`. The rest is as in `resnet`.
  """
  return _fill(params, state, _vit_rule(params), prefix, ignore)


def mae(
  state: Mapping[str, np.ndarray], params: PyTree, *, prefix: str | tuple[str, ...] = (), ignore: tuple[str, ...] = ()
) -> PyTree:
  """params of an `MAE`, {'encoder': ViT, 'decoder': Decoder}, from the names of the official code (facebookresearch/mae).

  The fixed position tables, which those checkpoints keep and ours do not, are compared. The rest is as in `resnet`.
  """
  encoder, decoder = _vit_rule(params['encoder']), _vit_rule(params['decoder'])
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
      return _kernel(path, take(only[path[0]] + entry))
    return decoder(path, lambda name: take(f'decoder_{name}'))

  tables = ('decoder_pos_embed',) + (() if 'positions' in params['encoder']['patches'] else ('pos_embed',))
  return _fill(params, state, rule, prefix, ignore, tables)


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


def _vit_rule(params):
  """The rule of `_fill` for a `ViT`, looped or scanned, and timm's names."""
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
      return _kernel(path, take(top[path]))
    if path[1] in ('scale1', 'scale2'):
      name = f'ls{path[1][-1]}.gamma'
    else:
      name = f'{block[path[1]]}.{"bias" if path[2] == "bias" else "weight"}'
    if path[0] != 'blocks':
      return _kernel(path, take(f'blocks.{path[0].removeprefix("blocks_")}.{name}'))
    any_leaf = params['blocks']['norm1']['scale']
    return np.stack([_kernel(path, take(f'blocks.{i}.{name}')) for i in range(any_leaf.shape[0])])

  return rule


def _kernel(path: tuple[str, ...], x: np.ndarray) -> np.ndarray:
  """PyTorch's [out, in, ...] -> Flax's [..., in, out]."""
  return np.moveaxis(x, (0, 1), (-1, -2)) if path[-1] == 'kernel' else x


def _fill(template: PyTree, state: Mapping[str, np.ndarray], rule: Callable, prefix, ignore, tables=()) -> PyTree:
  """`template` with rule(path, take) at each leaf, where take(name) is an entry of `state`; every entry must be taken.

  `tables` names sin-cos positions [1, 1 + T, D] with a row of zeros in front: if they are there they must be what we compute.
  """
  names = {}
  for name in state:
    short = name
    for p in (prefix,) if isinstance(prefix, str) else prefix:
      short = short.removeprefix(p)
    if not name.startswith(tuple(ignore)) and not short.startswith(tuple(ignore)):
      names[short] = name
  taken, problems, leaves = set(), [], {}

  def take(name):
    taken.add(name)
    return state[names[name]]

  for path, leaf in traverse_util.flatten_dict(template).items():
    inner = path[1:] if path[0] in ('params', 'stats') else path
    try:
      x = rule(inner, take)
    except KeyError as error:
      problems.append(f'missing: {error.args[0]} for {"/".join(path)} {leaf.shape}')
      continue
    except ValueError as error:  # positions of another grid
      problems.append(f'wrong shape: {"/".join(path)} {leaf.shape}: {error}')
      continue
    if x.shape != leaf.shape:
      problems.append(f'wrong shape: {"/".join(path)} is {leaf.shape}, the weights are {x.shape}')
    leaves[path] = jnp.asarray(x, leaf.dtype)
  for name in set(tables) & set(names):
    x = take(name)
    side = math.isqrt(x.shape[1] - 1)
    ours = np.pad(sincos(side, side, x.shape[2], 'sincos_mae').reshape(-1, x.shape[2]), ((1, 0), (0, 0)))
    if x.shape[1:] != ours.shape or np.abs(x[0] - ours).max() > 2e-3:  # half precision
      problems.append(f'other positions: {name} {x.shape} is not the sin-cos table of MAE')
  problems += [f'not used: {names[name]} {state[names[name]].shape}' for name in names if name not in taken]
  if problems:
    raise UserError('these weights are not of this network (see `prefix` and `ignore`):\n  ' + '\n  '.join(problems))
  return traverse_util.unflatten_dict(leaves)


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
      return _kernel(path, take(f'{at}transformer.resblocks.{block.removeprefix("blocks_")}.{name}'))
    depth = params[tower]['blocks']['norm1']['scale'].shape[0]
    return np.stack([_kernel(path, take(f'{at}transformer.resblocks.{i}.{name}')) for i in range(depth)])

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
      return _kernel(path, take('visual.conv1.weight'))
    if path[0] in ('norm_pre', 'norm'):
      return take(f'visual.{"ln_pre" if path[0] == "norm_pre" else "ln_post"}.{entry}')
    if path[0].startswith('blocks'):
      return transformer('encoder', path, take, 'visual.')
    if path[:2] == ('attnpool', 'kv'):
      return _kernel(path, np.concatenate([take(f'visual.attnpool.{name}_proj.{entry}') for name in 'kv']))
    if path[0] == 'attnpool':
      return _kernel(path, take(f'visual.attnpool.{path[1]}_proj.{entry}'))
    module = '.'.join(path[:-1]).replace('_conv', '.0').replace('_bn', '.1').replace('_', '.')  # as in `resnet`
    return _kernel(path, take(f'visual.{module}.{entry}'))

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
  both = _fill({'params': params, 'stats': stats}, state, rule, prefix, ignore)
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
