"""Parity with torchvision and timm, and MAE's names, through the importer. The weights follow the reference values' README."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from sslax.errors import UserError
from sslax.models import import_torch, net
from sslax.models.decoder import Decoder
from sslax.models.positions import sincos
from sslax.models.resnet import STAGES, ResNet
from sslax.models.vit import ViT

TINY_VIT = dict(width=48, depth=3, heads=4, patch=8)


def weights(name, shape):
  """The reference's entry of this name, seed 0."""
  x = np.random.default_rng([0, zlib.crc32(name.encode())]).standard_normal(shape)
  if name.endswith('running_var'):
    return np.float32(1 + 0.1 * np.abs(x))
  if name.endswith('running_mean'):
    return np.float32(0.1 * x)
  if len(shape) <= 1:
    return np.float32(float(name.endswith('weight')) + 0.1 * x)
  return np.float32(x / np.sqrt(np.prod(shape[1:])))


def torchvision_state(depth, stages=None, base=64):
  """torchvision's names and shapes, written down here without looking at our module."""
  shapes = {}

  def norm(name, n):
    for entry in ('weight', 'bias', 'running_mean', 'running_var'):
      shapes[f'{name}.{entry}'] = (n,)

  shapes['conv1.weight'] = (base, 3, 7, 7)
  norm('bn1', base)
  inputs, expansion = base, 4 if depth >= 50 else 1
  for s, blocks in enumerate(stages or STAGES[depth], 1):
    f = base * 2 ** (s - 1)
    for b in range(blocks):
      kernels = [(f, inputs, 1), (f, f, 3), (4 * f, f, 1)] if expansion == 4 else [(f, inputs, 3), (f, f, 3)]
      for i, (out, inside, k) in enumerate(kernels, 1):
        shapes[f'layer{s}.{b}.conv{i}.weight'] = (out, inside, k, k)
        norm(f'layer{s}.{b}.bn{i}', out)
      if b == 0 and (s > 1 or expansion == 4):
        shapes[f'layer{s}.{b}.downsample.0.weight'] = (f * expansion, inputs, 1, 1)
        norm(f'layer{s}.{b}.downsample.1', f * expansion)
      inputs = f * expansion
  state = {name: weights(name, shape) for name, shape in shapes.items()}
  return state | {'bn1.num_batches_tracked': np.array(3), 'fc.weight': np.zeros((1000, inputs)), 'fc.bias': np.zeros(1000)}


def timm_state(D=48, depth=3, patch=8, tokens=17):
  shapes = {'cls_token': (1, 1, D), 'pos_embed': (1, tokens, D)}
  shapes |= {
    'patch_embed.proj.weight': (D, 3, patch, patch),
    'patch_embed.proj.bias': (D,),
    'norm.weight': (D,),
    'norm.bias': (D,),
  }
  for i in range(depth):
    for name, out, inside in (('attn.qkv', 3 * D, D), ('attn.proj', D, D), ('mlp.fc1', 4 * D, D), ('mlp.fc2', D, 4 * D)):
      shapes |= {f'blocks.{i}.{name}.weight': (out, inside), f'blocks.{i}.{name}.bias': (out,)}
    for name in ('norm1', 'norm2'):
      shapes |= {f'blocks.{i}.{name}.weight': (D,), f'blocks.{i}.{name}.bias': (D,)}
  return {name: weights(name, shape) for name, shape in shapes.items()}


def mae_state(reference):
  """ViTMAEForPreTraining's names and shapes; the fixed positions are the reference's."""
  shapes = {
    'vit.embeddings.cls_token': (1, 1, 48),
    'vit.embeddings.patch_embeddings.projection.weight': (48, 3, 8, 8),
    'vit.embeddings.patch_embeddings.projection.bias': (48,),
    'decoder.mask_token': (1, 1, 32),
    'decoder.decoder_embed.weight': (32, 48),
    'decoder.decoder_embed.bias': (32,),
    'decoder.decoder_pred.weight': (192, 32),
    'decoder.decoder_pred.bias': (192,),
  }
  for stem, norm, D in (('vit.layers', 'vit.layernorm', 48), ('decoder.decoder_layers', 'decoder.decoder_norm', 32)):
    for i in range(2):
      for name in ('q_proj', 'k_proj', 'v_proj', 'o_proj'):
        shapes |= {f'{stem}.{i}.attention.{name}.weight': (D, D), f'{stem}.{i}.attention.{name}.bias': (D,)}
      for name, out, inside in (('fc1', 2 * D, D), ('fc2', D, 2 * D)):
        shapes |= {f'{stem}.{i}.mlp.{name}.weight': (out, inside), f'{stem}.{i}.mlp.{name}.bias': (out,)}
    norms = [norm] + [f'{stem}.{i}.layernorm_{where}' for i in range(2) for where in ('before', 'after')]
    shapes |= {f'{name}.{entry}': (D,) for name in norms for entry in ('weight', 'bias')}
  tables = {
    'vit.embeddings.position_embeddings': reference['encoder_position'],
    'decoder.decoder_pos_embed': reference['decoder_position'],
  }
  return {name: weights(name, shape) for name, shape in shapes.items()} | tables


def official_mae_names(state):
  """The same weights as facebookresearch/mae names them, written down here without looking at our importer."""
  short = {
    'vit.embeddings.cls_token': 'cls_token',
    'vit.embeddings.position_embeddings': 'pos_embed',
    'decoder.mask_token': 'mask_token',
    'decoder.decoder_pos_embed': 'decoder_pos_embed',
  }
  modules = {
    'vit.embeddings.patch_embeddings.projection': 'patch_embed.proj',
    'vit.layernorm': 'norm',
    'decoder.decoder_embed': 'decoder_embed',
    'decoder.decoder_norm': 'decoder_norm',
    'decoder.decoder_pred': 'decoder_pred',
  }
  layers = {'o_proj': 'attn.proj', 'fc1': 'mlp.fc1', 'fc2': 'mlp.fc2', 'layernorm_before': 'norm1', 'layernorm_after': 'norm2'}
  official = {short[name]: x for name, x in state.items() if name in short}
  for name, x in state.items():
    module, _, entry = name.rpartition('.')
    if module in modules:
      official[f'{modules[module]}.{entry}'] = x
    elif '.layers.' in name or '.decoder_layers.' in name:
      stem, i, last = ('blocks', module.split('.')[2], module.split('.')[-1])
      stem = 'decoder_blocks' if 'decoder' in module else stem
      if last in layers:
        official[f'{stem}.{i}.{layers[last]}.{entry}'] = x
      elif last == 'q_proj':
        qkv = [state[name.replace('q_proj', f'{part}_proj')] for part in 'qkv']
        official[f'{stem}.{i}.attn.qkv.{entry}'] = np.concatenate(qkv)
  return official


def shapes_of(model, size):
  return jax.eval_shape(lambda key: net.init(model, key, jnp.zeros((1, size, size, 3))), jax.random.key(0))


def near(ours, theirs, rtol):
  """The largest deviation over the largest value."""
  assert ours.shape == theirs.shape
  deviation = np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
  print(f'deviation {deviation:.1e}')
  assert deviation < rtol


@pytest.mark.parametrize('depth', [18, 50])
@pytest.mark.slow
def test_resnet_is_torchvisions(golden, depth):
  reference = np.load(golden / f'model_resnet{depth}.npz')
  image = reference['image'].transpose(0, 2, 3, 1)
  model = ResNet(depth)
  params, stats = import_torch.resnet(torchvision_state(depth), *shapes_of(model, 64))
  apply = jax.jit(lambda params, stats, x, train: net.apply(model, params, stats, x, train=train), static_argnums=3)
  out, same = apply(params, stats, image, False)
  near(out.pooled, reference['features_eval'], 1e-5)
  jax.tree.map(np.testing.assert_array_equal, same, stats)
  out, new = apply(params, stats, image, True)
  # Eight values a channel in the last stage: batch statistics of ResNet-50 amplify rounding. Against this network in float64,
  # the reference is off by 5e-6 (18) and 1.5e-4 (50), ours by 7e-6 and 1.8e-4.
  near(out.pooled, reference['features_train'], {18: 2e-5, 50: 4e-4}[depth])
  near(new['bn1']['mean'], reference['bn1_running_mean_after'], 1e-5)
  near(new['bn1']['var'], reference['bn1_running_var_after'], 1e-5)


@pytest.mark.parametrize('scan', [False, True])
def test_vit_is_timms(golden, scan):
  reference = np.load(golden / 'model_vit_timm.npz')
  state = timm_state()
  assert sorted(state) == sorted(reference['names'])
  model = ViT(**TINY_VIT, scan=scan)
  params = import_torch.vit(state, shapes_of(model, 32)[0])
  out, _ = jax.jit(lambda params, x: net.apply(model, params, {}, x, train=False, method='encode_images'))(
    params, reference['image'].transpose(0, 2, 3, 1)
  )
  near(out.tokens, reference['tokens'], 1e-5)


def test_layer_scale_names():
  model = ViT(**TINY_VIT, layer_scale=0.1)
  gammas = {f'blocks.{i}.ls{j}.gamma': weights(f'{i}{j}', (48,)) for i in range(3) for j in (1, 2)}
  params = import_torch.vit(timm_state() | gammas, shapes_of(model, 32)[0])
  np.testing.assert_array_equal(params['blocks_2']['scale1'], gammas['blocks.2.ls1.gamma'])


def test_files(tmp_path):
  state = timm_state()
  safetensors.numpy.save_file(state, tmp_path / 'vit.safetensors')
  loaded = import_torch.load(str(tmp_path / 'vit.safetensors'))
  assert loaded.keys() == state.keys()
  jax.tree.map(np.testing.assert_array_equal, loaded, state)
  jax.tree.map(np.testing.assert_array_equal, import_torch.load(state), state)
  with pytest.raises(UserError, match=r'(?s)resnet50\.pth: only \.safetensors.*save_file.*resnet50\.safetensors'):
    import_torch.load(tmp_path / 'resnet50.pth')
  with pytest.raises(UserError, match='missing.safetensors: cannot be read'):
    import_torch.load(tmp_path / 'missing.safetensors')
  whole = (tmp_path / 'vit.safetensors').read_bytes()
  (tmp_path / 'half.safetensors').write_bytes(whole[: len(whole) // 2])
  with pytest.raises(UserError, match='half.safetensors: cannot be read'):
    import_torch.load(tmp_path / 'half.safetensors')


def tiny_resnet():
  return torchvision_state(18, (1, 1), 8), *shapes_of(ResNet(18, stages=(1, 1), base=8), 32)


def test_prefixes_and_ignored_names():
  state, params, stats = tiny_resnet()
  plain = import_torch.resnet(state, params, stats)
  wrapped = {f'module.encoder_q.{k}': v for k, v in state.items()}
  stripped = import_torch.resnet(wrapped, params, stats, prefix='module.encoder_q.')
  jax.tree.map(np.testing.assert_array_equal, plain, stripped)
  moco = wrapped | {'module.queue': np.zeros((8, 4)), 'module.encoder_k.conv1.weight': np.zeros(3)}
  fields = dict(prefix=('module.', 'encoder_q.'), ignore=('fc.', 'queue', 'module.encoder_k.'))
  jax.tree.map(np.testing.assert_array_equal, plain, import_torch.resnet(moco, params, stats, **fields))
  with pytest.raises(UserError, match=r'not used: module.queue \(8, 4\)'):
    import_torch.resnet(moco, params, stats, prefix=('module.', 'encoder_q.'))


def test_half_precision_weights_become_float32():
  state, params, stats = tiny_resnet()
  new, _ = import_torch.resnet({k: v.astype(np.float16) for k, v in state.items()}, params, stats)
  assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype('float32')}


def test_every_problem_is_listed():
  state, params, stats = tiny_resnet()
  state['extra.weight'] = np.zeros(3)
  state['layer2.0.conv1.weight'] = np.zeros((1, 2, 3, 3))
  del state['bn1.running_var'], state['layer1.0.bn2.bias']
  with pytest.raises(UserError) as error:
    import_torch.resnet(state, params, stats, ignore=())
  lines = str(error.value).splitlines()[1:]
  assert sorted(line.strip() for line in lines) == [
    'missing: bn1.running_var for stats/bn1/var (8,)',
    'missing: layer1.0.bn2.bias for params/layer1_0/bn2/bias (8,)',
    'not used: extra.weight (3,)',
    'not used: fc.bias (1000,)',
    'not used: fc.weight (1000, 16)',
    'wrong shape: params/layer2_0/conv1/kernel is (3, 3, 8, 16), the weights are (3, 3, 2, 1)',
  ]


def test_another_grid_of_positions_is_refused():
  with pytest.raises(UserError, match='wrong shape: patches/positions'):
    import_torch.vit(timm_state(), shapes_of(ViT(**TINY_VIT), 40)[0])
  fixed = shapes_of(ViT(**TINY_VIT, positions='sincos_mae'), 40)[0]
  with pytest.raises(UserError, match='not used: pos_embed'):
    import_torch.vit(timm_state(), fixed)
  import_torch.vit(timm_state(), fixed, ignore=('head.', 'pos_embed'))


def tiny_mae():
  """(state of transformers, shapes of the parameters) of the reference's MAE."""
  sizes = dict(heads=4, depth=2, mlp_ratio=2.0, patch=8)
  encoder = shapes_of(ViT(width=48, positions='sincos_mae', **sizes), 32)[0]
  decoder, _ = jax.eval_shape(
    lambda key: net.init(Decoder(width=32, **sizes), key, jnp.zeros((1, 5, 48)), jnp.zeros((1, 4, 4), jnp.int32)),
    jax.random.key(0),
  )
  tables = {'encoder_position': sincos_table(48), 'decoder_position': sincos_table(32)}
  return mae_state(tables), {'encoder': encoder, 'decoder': decoder}


def sincos_table(D):
  return np.pad(sincos(4, 4, D, 'sincos_mae').reshape(1, 16, D), ((0, 0), (1, 0), (0, 0)))


def test_transformers_older_names():
  """The files on the hub were written before version 5."""
  state, params = tiny_mae()
  new = import_torch.mae_transformers(state, params)
  older = {
    'vit.layers': 'vit.encoder.layer',
    'attention.q_proj': 'attention.attention.query',
    'attention.k_proj': 'attention.attention.key',
    'attention.v_proj': 'attention.attention.value',
    'attention.o_proj': 'attention.output.dense',
    'mlp.fc1': 'intermediate.dense',
    'mlp.fc2': 'output.dense',
  }
  old = {}
  for name, x in state.items():
    for now, before in older.items():
      name = name.replace(now, before)
    old[f'module.{name}'] = x
  assert 'module.vit.encoder.layer.0.attention.attention.query.weight' in old and len(old) == len(state)
  jax.tree.map(np.testing.assert_array_equal, import_torch.mae_transformers(old, params, prefix='module.'), new)


def test_every_problem_of_an_mae_is_listed():
  state, params = tiny_mae()
  state['vit.pooler.weight'] = np.zeros(3)
  del state['decoder.mask_token'], state['vit.layers.1.attention.k_proj.bias']
  state['decoder.decoder_pos_embed'] = sincos_table(32)[:, ::-1]
  state['vit.embeddings.position_embeddings'] = state['vit.embeddings.position_embeddings'].astype(np.float16)  # is the same
  with pytest.raises(UserError) as error:
    import_torch.mae_transformers(state, params)
  assert sorted(line.strip() for line in str(error.value).splitlines()[1:]) == [
    'missing: blocks.1.attn.qkv.bias for encoder/blocks_1/qkv/bias (144,)',
    'missing: mask_token for decoder/mask_token (1, 1, 32)',
    'not used: blocks.1.attn.q.bias (48,)',
    'not used: blocks.1.attn.v.bias (48,)',
    'not used: vit.pooler.weight (3,)',
    'other positions: decoder_pos_embed (1, 17, 32) is not the sin-cos table of MAE',
  ]


def test_the_tables_of_an_mae_may_be_missing_or_of_another_size():
  state, params = tiny_mae()
  new = import_torch.mae_transformers(state, params)
  larger = np.pad(sincos(6, 6, 48, 'sincos_mae').reshape(1, 36, 48), ((0, 0), (1, 0), (0, 0)))
  del state['decoder.decoder_pos_embed']
  state['vit.embeddings.position_embeddings'] = larger
  jax.tree.map(np.testing.assert_array_equal, import_torch.mae_transformers(state, params), new)
