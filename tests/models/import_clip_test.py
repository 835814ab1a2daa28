"""Parity with transformers' CLIPModel through the importer, and the names of openai/CLIP."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.import_torch_test import near, weights

from sslax.errors import UserError
from sslax.losses.image_text import clip
from sslax.methods.clip import CLIP
from sslax.models import import_torch
from sslax.models.mlp import MLP
from sslax.models.resnet_clip import ModifiedResNet
from sslax.models.text import TextTransformer
from sslax.models.vit import ViT
from sslax.ops.views import RandomViews

ONE = RandomViews(count=1, size=32)
HEAD = MLP((24,), final_bias=False)


def tiny(scan=False, image=None):
  fields = dict(eps=1e-5, activation='quick_gelu', scan=scan, weight_init='clip')
  vit = ViT(width=48, depth=2, heads=4, patch=8, mlp_ratio=2.0, pre_norm=True, patch_bias=False, **fields)
  text = TextTransformer(width=32, depth=2, heads=4, vocab_size=100, length=12, mlp_ratio=2.0, **fields)
  if image is None:
    return CLIP(vit, text, ONE, head=HEAD, text_head=HEAD)
  return CLIP(image, text, ONE, text_head=HEAD)


@functools.cache
def shapes_of(method):
  views = {'image': jnp.zeros((1, 1, 32, 32, 3)), 'text': jnp.zeros((1, 12), jnp.int32)}
  params, memory = jax.eval_shape(lambda key: method.init(key, views), jax.random.key(0))
  return params, memory['stats']


def transformers_state():
  """transformers' names and shapes, written down here without looking at our module."""
  shapes = {
    'text_model.embeddings.token_embedding.weight': (100, 32),
    'text_model.embeddings.position_embedding.weight': (12, 32),
    'vision_model.embeddings.class_embedding': (48,),
    'vision_model.embeddings.patch_embedding.weight': (48, 3, 8, 8),
    'vision_model.embeddings.position_embedding.weight': (17, 48),
    'visual_projection.weight': (24, 48),
    'text_projection.weight': (24, 32),
  }
  norms = {'text_model.final_layer_norm': 32, 'vision_model.pre_layrnorm': 48, 'vision_model.post_layernorm': 48}
  for tower, D, hidden in (('text_model', 32, 64), ('vision_model', 48, 96)):
    for i in range(2):
      at = f'{tower}.encoder.layers.{i}.'
      norms |= {f'{at}layer_norm1': D, f'{at}layer_norm2': D}
      dense = {f'self_attn.{name}_proj': (D, D) for name in ('q', 'k', 'v', 'out')} | {
        'mlp.fc1': (hidden, D),
        'mlp.fc2': (D, hidden),
      }
      for name, shape in dense.items():
        shapes |= {f'{at}{name}.weight': shape, f'{at}{name}.bias': shape[:1]}
  shapes |= {f'{name}.{entry}': (D,) for name, D in norms.items() for entry in ('weight', 'bias')}
  return {name: weights(name, shape) for name, shape in shapes.items()} | {'logit_scale': np.float32(np.log(1 / 0.07))}


def openai_state(state):
  """The same weights under OpenAI's names."""
  out = {'logit_scale': state['logit_scale'], 'visual.proj': state['visual_projection.weight'].T}
  out |= {
    'text_projection': state['text_projection.weight'].T,
    'token_embedding.weight': state['text_model.embeddings.token_embedding.weight'],
  }
  out['positional_embedding'] = state['text_model.embeddings.position_embedding.weight']
  out['visual.class_embedding'] = state['vision_model.embeddings.class_embedding']
  out['visual.conv1.weight'] = state['vision_model.embeddings.patch_embedding.weight']
  out['visual.positional_embedding'] = state['vision_model.embeddings.position_embedding.weight']
  for entry in ('weight', 'bias'):
    for ours, theirs in (
      ('ln_final', 'text_model.final_layer_norm'),
      ('visual.ln_pre', 'vision_model.pre_layrnorm'),
      ('visual.ln_post', 'vision_model.post_layernorm'),
    ):
      out[f'{ours}.{entry}'] = state[f'{theirs}.{entry}']
    for to, source in (('', 'text_model'), ('visual.', 'vision_model')):
      for i in range(2):
        a, b = f'{to}transformer.resblocks.{i}.', f'{source}.encoder.layers.{i}.'
        out[f'{a}attn.in_proj_{entry}'] = np.concatenate([state[f'{b}self_attn.{x}_proj.{entry}'] for x in 'qkv'])
        for ours, theirs in (
          ('attn.out_proj', 'self_attn.out_proj'),
          ('mlp.c_fc', 'mlp.fc1'),
          ('mlp.c_proj', 'mlp.fc2'),
          ('ln_1', 'layer_norm1'),
          ('ln_2', 'layer_norm2'),
        ):
          out[f'{a}{ours}.{entry}'] = state[f'{b}{theirs}.{entry}']
  return out


@pytest.mark.parametrize('scan', [False, True])
@pytest.mark.slow
def test_clip_is_transformers(golden, scan):
  reference = np.load(golden / 'model_clip_hf.npz')
  state = transformers_state()
  assert sorted(state) == sorted(reference['names'])
  method = tiny(scan)
  params, stats = import_torch.clip_transformers(state, *shapes_of(method))

  @jax.jit
  def run(params, image, text):  # normalised images, as the reference takes them
    out = method.features(params, {'stats': stats}, {'image': image, 'text': text})
    scale = jnp.exp(params['logit_scale'])
    logits = scale * out.embedding @ out.text_embedding.T
    return out, logits, clip(out.embedding, out.text_embedding, scale)

  out, logits, loss = run(params, reference['image'].transpose(0, 2, 3, 1), np.int32(reference['ids']))
  near(out.embedding, reference['image_embed'], 1e-5)
  near(out.text_embedding, reference['text_embed'], 1e-5)
  near(logits, reference['logits_per_image'], 1e-5)
  near(loss, reference['loss'], 1e-5)


def test_openais_names_are_the_same_weights():
  method, state = tiny(), transformers_state()
  shapes = shapes_of(method)
  a, b = import_torch.clip_transformers(state, *shapes), import_torch.clip(openai_state(state), *shapes)
  jax.tree.map(np.testing.assert_array_equal, a, b)
  assert jax.tree.structure(a) == jax.tree.structure(shapes)


def test_every_name_is_needed_and_no_other():
  shapes = shapes_of(tiny())
  state = transformers_state()
  for name in ('visual_projection.weight', 'text_model.encoder.layers.1.self_attn.k_proj.bias', 'logit_scale'):
    with pytest.raises(UserError, match='missing'):
      import_torch.clip_transformers({k: x for k, x in state.items() if k != name}, *shapes)
  with pytest.raises(UserError, match=re.escape('not used: visual.transformer.resblocks.2.ln_1.weight (48,)')):
    import_torch.clip_transformers(state | {'vision_model.encoder.layers.2.layer_norm1.weight': np.zeros(48)}, *shapes)
  with pytest.raises(UserError, match='not used: extra'):
    import_torch.clip(openai_state(state) | {'extra': np.zeros(48)}, *shapes)
  old = state | {'text_model.embeddings.position_ids': np.arange(12)[None]}
  import_torch.clip_transformers(old, *shapes)


def resnet_state(stages=(1, 2), base=4, embed=24, places=4):
  """openai/CLIP's names of a modified ResNet, written down here without looking at our module."""
  shapes = {}

  def norm(name, n):
    shapes.update({f'{name}.{entry}': (n,) for entry in ('weight', 'bias', 'running_mean', 'running_var')})

  for i, (out, inside) in enumerate(((base // 2, 3), (base // 2, base // 2), (base, base // 2)), 1):
    shapes[f'visual.conv{i}.weight'] = (out, inside, 3, 3)
    norm(f'visual.bn{i}', out)
  inputs = base
  for s, blocks in enumerate(stages, 1):
    f = base * 2 ** (s - 1)
    for b in range(blocks):
      at = f'visual.layer{s}.{b}.'
      for i, (out, inside, k) in enumerate(((f, inputs, 1), (f, f, 3), (4 * f, f, 1)), 1):
        shapes[f'{at}conv{i}.weight'] = (out, inside, k, k)
        norm(f'{at}bn{i}', out)
      if b == 0:
        shapes[f'{at}downsample.0.weight'] = (4 * f, inputs, 1, 1)
        norm(f'{at}downsample.1', 4 * f)
      inputs = 4 * f
  shapes['visual.attnpool.positional_embedding'] = (places * places + 1, inputs)
  for name, out in (('q', inputs), ('k', inputs), ('v', inputs), ('c', embed)):
    shapes |= {f'visual.attnpool.{name}_proj.weight': (out, inputs), f'visual.attnpool.{name}_proj.bias': (out,)}
  return {name: weights(name, shape) for name, shape in shapes.items()} | {'visual.bn1.num_batches_tracked': np.array(3)}


@pytest.mark.slow
def test_the_modified_resnet_written_out():
  """The forward pass of openai/CLIP's ModifiedResNet in numpy, float64."""
  state = resnet_state()
  method = tiny(image=ModifiedResNet((1, 2), 4, 24))
  texts = {k: x for k, x in openai_state(transformers_state()).items() if not k.startswith('visual.')}
  params, stats = import_torch.clip(texts | state, *shapes_of(method))
  x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
  ours = jax.jit(lambda x: method.encoder.apply({'params': params['encoder'], 'batch_stats': stats['encoder']}, x, train=False))(
    x
  )
  w = {name.removeprefix('visual.'): np.float64(a) for name, a in state.items()}

  def conv(x, name, stride=1):
    kernel = w[f'{name}.weight']
    k = kernel.shape[2]
    x = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    h = (x.shape[1] - k) // stride + 1
    parts = [
      x[:, i : i + stride * h : stride, j : j + stride * h : stride] @ kernel[:, :, i, j].T for i in range(k) for j in range(k)
    ]
    return sum(part[:, :h, :h] for part in parts)

  def bn(x, name):
    x = (x - w[f'{name}.running_mean']) / np.sqrt(w[f'{name}.running_var'] + 1e-5)
    return x * w[f'{name}.weight'] + w[f'{name}.bias']

  relu = lambda x: np.maximum(x, 0)
  pool = lambda x: x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean((2, 4))
  y = np.float64(x)
  for i in (1, 2, 3):
    y = relu(bn(conv(y, f'conv{i}', 2 if i == 1 else 1), f'bn{i}'))
  y = pool(y)
  for at, stride in (('layer1.0', 1), ('layer2.0', 2), ('layer2.1', 1)):
    z = relu(bn(conv(y, f'{at}.conv1'), f'{at}.bn1'))
    z = relu(bn(conv(z, f'{at}.conv2'), f'{at}.bn2'))
    z = bn(conv(pool(z) if stride == 2 else z, f'{at}.conv3'), f'{at}.bn3')
    if f'{at}.downsample.0.weight' in w:
      y = bn(conv(pool(y) if stride == 2 else y, f'{at}.downsample.0'), f'{at}.downsample.1')
    y = relu(y + z)
  np.testing.assert_allclose(ours.tokens, y, rtol=1e-4, atol=1e-5 * np.abs(y).max())
  t = y.reshape(2, 16, -1)
  t = np.concatenate([t.mean(1, keepdims=True), t], 1) + w['attnpool.positional_embedding']
  q, k, v = (t @ w[f'attnpool.{n}_proj.weight'].T + w[f'attnpool.{n}_proj.bias'] for n in 'qkv')
  heads = 2  # base / 2
  q, k, v = (a.reshape(2, 17, heads, -1).transpose(0, 2, 1, 3) for a in (q[:, :1].repeat(17, 1), k, v))
  a = np.exp(q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1]))
  t = ((a / a.sum(-1, keepdims=True)) @ v).transpose(0, 2, 1, 3).reshape(2, 17, -1)[:, 0]
  near(ours.pooled, t @ w['attnpool.c_proj.weight'].T + w['attnpool.c_proj.bias'], 1e-5)
