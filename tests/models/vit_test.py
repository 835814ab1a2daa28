import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.counting import count

from sslax.errors import UserError
from sslax.models import net, positions
from sslax.models.positions import sincos
from sslax.models.transformer import drop_path
from sslax.models.vit import ViT
from sslax.spec import build, spec

TINY = dict(width=16, depth=2, heads=2, patch=4)


def images(B=3, h=8, w=8):
  return np.random.default_rng(0).standard_normal((B, h, w, 3)).astype(np.float32)


def initial(model, size=8):
  return jax.jit(lambda key: net.init(model, key, jnp.zeros((1, size, size, 3)))[0])(jax.random.key(0))


def lively(model, size=8):
  """Parameters of order one: at init a block adds next to nothing, and a test of it would see nothing."""
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(lambda key: net.init(model, key, jnp.zeros((1, size, size, 3)))[0], jax.random.key(0))
  return jax.tree.map(lambda p: np.float32((p.ndim == 1) + 0.3 * rng.standard_normal(p.shape)), shapes)


def stacked(params):
  """The scanned parameters of looped ones."""
  blocks = [params[f'blocks_{i}'] for i in range(2)]
  rest = {k: v for k, v in params.items() if not k.startswith('blocks_')}
  return {**rest, 'blocks': jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)}


@functools.partial(jax.jit, static_argnames=('model', 'train'))
def run(model, params, x, train=False, rng=None):
  """With the class token among the tokens."""
  return net.apply(model, params, {}, x, train=train, rng=rng, method='encode_images')[0]


@functools.partial(jax.jit, static_argnames='model')
def value_and_grad(model, params, x):
  return jax.value_and_grad(lambda p: jnp.sum(jnp.sin(run(model, p, x, train=True).tokens)))(params)


@functools.partial(jax.jit, static_argnames='model')
def embed(model, params, x):
  return model.apply({'params': params}, x, method='embed')


@functools.partial(jax.jit, static_argnames='model')
def encode(model, params, tokens):
  return model.apply({'params': params}, tokens, False, method='encode')


@pytest.mark.parametrize(
  'fields, parameters',
  [
    (dict(variant='Ti'), 5_524_416),
    (dict(variant='S'), 21_665_664),
    (dict(variant='S', heads=12), 21_665_664),  # MoCo v3's
    (dict(variant='B'), 85_798_656),
    (dict(variant='L'), 303_301_632),
    (dict(variant='H', patch=14), 630_764_800),
    (dict(variant='H', patch=14, scan=True), 630_764_800),
    (dict(variant='B', positions='sincos_mae'), 85_798_656 - 197 * 768),
    (dict(variant='B', class_token=False, pool='mean'), 85_798_656 - 2 * 768),
    (dict(variant='B', layer_scale=0.1), 85_798_656 + 12 * 2 * 768),
    (dict(variant='B', qkv_bias=False), 85_798_656 - 12 * 3 * 768),
  ],
)
@pytest.mark.slow
def test_parameter_counts(fields, parameters):
  params = jax.eval_shape(lambda key: net.init(ViT(**fields), key, jnp.zeros((1, 224, 224, 3))), jax.random.key(0))[0]
  assert count(params) == parameters
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype('float32')}


@pytest.mark.parametrize('order, column_first', [('sincos_mae', True), ('sincos_moco', False)])
def test_sincos_tables(order, column_first):
  h, w, D = 3, 5, 24
  table = np.zeros((h, w, D))
  for r in range(h):
    for c in range(w):
      for half, position in enumerate((c, r) if column_first else (r, c)):
        for i in range(D // 4):
          angle = position / 10000 ** (i / (D / 4))
          table[r, c, half * D // 2 + i] = np.sin(angle)
          table[r, c, half * D // 2 + D // 4 + i] = np.cos(angle)
  np.testing.assert_allclose(sincos(h, w, D, order), table, atol=1e-6)


def test_table_of_a_line():
  """Places of a clip one after the other; the formula of VideoMAE's get_sinusoid_encoding_table."""
  table = positions.table((2, 3, 2), 12, 'sincos_line').reshape(12, 12)
  for place in range(12):
    for i in range(12):
      angle = place / 10000 ** (2 * (i // 2) / 12)
      np.testing.assert_allclose(table[place, i], np.cos(angle) if i % 2 else np.sin(angle), atol=1e-6)
  with pytest.raises(ValueError, match='are for two axes'):
    positions.table((2, 3, 2), 12, 'sincos_mae')


@pytest.mark.slow
def test_clips():
  """Patches of several sides: a grid of three axes, the features of a clip's patch at its place."""
  model = ViT(width=16, depth=1, heads=2, patch=(2, 4, 4), class_token=False, pool='mean')
  x = np.random.default_rng(0).standard_normal((2, 4, 8, 12, 3)).astype(np.float32)
  params, _ = net.init(model, jax.random.key(0), x)
  patches = params['patches']
  assert patches['projection']['kernel'].shape == (2, 4, 4, 3, 16) and patches['positions'].shape == (1, 2, 2, 3, 16)
  out = net.apply(model, params, {}, x, train=False)[0]
  assert out.grid == (2, 2, 3) and out.stride == (2, 4, 4)
  other = x.copy()
  other[:, 2:, 4:, 8:] += 1  # the last patch
  moved = np.abs(embed(model, params, x) - embed(model, params, other)).max((0, 2))
  assert np.flatnonzero(moved > 1e-6).tolist() == [11]


def test_patches_of_clips_are_a_convolution():
  """Three axes are a product of matrices, with the parameters of the convolution: their names, shapes and initial values."""
  fields = dict(width=16, depth=1, heads=2, patch=(2, 4, 4), class_token=False, pool='mean', positions='sincos_line')
  x = np.random.default_rng(0).standard_normal((2, 4, 8, 12, 3)).astype(np.float32)
  params, _ = net.init(ViT(**fields), jax.random.key(0), x)
  image, _ = net.init(ViT(**fields | dict(patch=(8, 4))), jax.random.key(0), x[:, 0])  # with as many numbers in a patch
  ours = params['patches']['projection'] = {**params['patches']['projection'], 'bias': np.arange(16, dtype=np.float32)}
  np.testing.assert_array_equal(ours['kernel'].reshape(-1, 16), image['patches']['projection']['kernel'].reshape(-1, 16))
  conv = jax.lax.conv_general_dilated(x, ours['kernel'], (2, 4, 4), 'VALID', dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'))
  expected = np.asarray(conv + positions.table((2, 2, 3), 16, 'sincos_line')[None]).reshape(2, 12, 16) + ours['bias']
  np.testing.assert_allclose(embed(ViT(**fields), params, x), expected, rtol=1e-5, atol=1e-5)


def test_fixed_positions_are_added_to_the_patches():
  model = ViT(**TINY, positions='sincos_mae')
  params = lively(model)
  params['patches']['projection'] = jax.tree.map(np.zeros_like, params['patches']['projection'])
  assert params['patches'].keys() == {'projection'} and 'cls_position' not in params
  tokens = embed(model, params, np.zeros((1, 8, 12, 3)))  # any size
  np.testing.assert_allclose(tokens[0], sincos(2, 3, 16, 'sincos_mae').reshape(6, 16), atol=1e-6)


def test_patches_are_read_row_by_row():
  model = ViT(**TINY)
  params = lively(model)
  x = np.zeros((1, 8, 8, 3), np.float32)
  x[0, 0:4, 4:8] = 1.0  # the second patch
  moved = np.abs(embed(model, params, x) - embed(model, params, 0 * x)).max(-1)
  assert np.flatnonzero(moved > 1e-6).tolist() == [1]


def test_encode_takes_any_subset():
  """`__call__` is encode of embed; positions come in embed: the order of the tokens does not matter to the class token."""
  model = ViT(**TINY)
  params, x = lively(model), images()
  tokens = np.asarray(embed(model, params, x))
  assert tokens.shape == (3, 4, 16)
  out = run(model, params, x)
  assert out.tokens.shape == (3, 5, 16) and out.pooled.shape == (3, model.num_features)
  np.testing.assert_allclose(encode(model, params, tokens).pooled, out.pooled, atol=1e-5)
  np.testing.assert_allclose(encode(model, params, tokens[:, ::-1]).pooled, out.pooled, atol=1e-5)
  some = encode(model, params, tokens[:, :3])
  assert some.tokens.shape == (3, 4, 16) and np.abs(some.pooled - out.pooled).max() > 1e-3


@pytest.mark.slow
def test_features_are_a_grid_without_the_class_token():
  model = ViT(**TINY)
  params, x = lively(model), images(2, 8, 12)
  whole, out = run(model, params, x), net.apply(model, params, {}, x, train=False)[0]
  assert out.tokens.shape == (2, 2, 3, 16) and out.grid == (2, 3) and out.stride == (4, 4)
  np.testing.assert_allclose(out.tokens.reshape(2, 6, 16), whole.tokens[:, 1:], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(out.pooled, whole.pooled, rtol=1e-5, atol=1e-6)


def test_pooling():
  x = images()
  for fields in (dict(pool='mean'), dict(pool='mean', class_token=False)):
    model = ViT(**TINY, **fields)
    out = run(model, lively(model), x)
    np.testing.assert_allclose(out.pooled, out.tokens[:, -4:].mean(1), atol=1e-5)
  model = ViT(**TINY)
  out = run(model, lively(model), x)
  np.testing.assert_array_equal(out.pooled, out.tokens[:, 0])


@pytest.mark.parametrize('fields', [dict(scan=True), dict(remat='full'), dict(scan=True, remat='dots')])
@pytest.mark.slow
def test_scan_and_remat_change_nothing(fields):
  plain, other = (ViT(**TINY, layer_scale=0.5, **kind) for kind in ({}, fields))
  params, x = lively(plain), images()
  convert = stacked if other.scan else lambda p: p
  assert jax.tree.map(np.shape, convert(params)) == jax.tree.map(np.shape, lively(other))
  value, grads = value_and_grad(plain, params, x)
  value2, grads2 = value_and_grad(other, convert(params), x)
  np.testing.assert_allclose(value, value2, rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), convert(grads), grads2)
  if other.scan:  # each layer draws its own weights
    kernel = jax.jit(lambda key: net.init(other, key, x)[0]['blocks']['qkv']['kernel'])(jax.random.key(0))
    assert np.abs(kernel[0] - kernel[1]).max() > 1e-3


def test_remat_keeps_what_it_says():
  """Values that wait for the backward pass: nothing but a block's input, the products with weights too, or all."""
  params, x = lively(ViT(**TINY)), images()

  def kept(remat):
    forward = lambda params: net.apply(ViT(**TINY, remat=remat), params, {}, x, train=True)[0].pooled.sum()
    return sum(a.size for a in jax.tree.leaves(jax.eval_shape(lambda params: jax.vjp(forward, params)[1], params)))

  assert kept('full') < kept('dots') < kept('none')


def test_drop_path_keeps_the_expectation():
  y = jnp.ones((4000, 2, 3))
  out = np.asarray(drop_path(jax.random.key(0), y, 0.3))
  assert set(np.unique(out.round(5))) == {0.0, np.float32(1 / 0.7).round(5)}
  assert np.all(out == out[:, :1, :1])  # whole rows
  np.testing.assert_allclose(out.mean(), 1.0, atol=0.04)
  np.testing.assert_array_equal(drop_path(jax.random.key(0), y, 0.0), y)


@pytest.mark.parametrize('scan', [False, True])
@pytest.mark.slow
def test_drop_path_in_the_network(scan):
  """Two blocks have the rates 0 and 0.5: each row takes one of four ways through the second block's branches, and no other."""
  model = ViT(**TINY, drop_path=0.5, scan=scan)
  params = lively(ViT(**TINY))
  params = stacked(params) if scan else params
  x = np.broadcast_to(images(1), (400, 8, 8, 3))
  rows = np.asarray(run(model, params, x, train=True, rng=jax.random.key(3)).pooled).round(3)
  ways, counts = np.unique(rows, axis=0, return_counts=True)
  assert len(ways) == 4 and counts.min() > 60  # 100 each expected
  still = run(model, params, x[:2], train=False).pooled
  np.testing.assert_allclose(still, run(ViT(**TINY, scan=scan), params, x[:2], train=True).pooled, atol=1e-5)


def test_drop_path_rates_are_linear():
  """One block has rate 0: training is evaluation."""
  model = ViT(width=16, depth=1, heads=2, patch=4, drop_path=0.9)
  params, x = lively(model), images()
  trained = run(model, params, x, train=True, rng=jax.random.key(0)).pooled
  np.testing.assert_allclose(trained, run(model, params, x).pooled, atol=1e-5)


def test_learnt_positions_are_interpolated():
  model = ViT(**TINY)
  params = lively(model, 16)  # 4 x 4 patches
  table = np.zeros((1, 4, 4, 16), np.float32)
  table[..., 0], table[..., 1], table[..., 2] = 7.0, np.arange(4)[None, :, None], np.arange(4)[None, None, :]
  params['patches'] = {'projection': jax.tree.map(np.zeros_like, params['patches']['projection']), 'positions': table}
  np.testing.assert_array_equal(embed(model, params, np.zeros((1, 16, 16, 3)))[0], table.reshape(16, 16))
  larger = np.asarray(embed(model, params, np.zeros((1, 32, 24, 3)))).reshape(8, 6, 16)
  np.testing.assert_allclose(larger[..., 0], 7.0, rtol=1e-5)  # a constant stays
  np.testing.assert_allclose(larger[..., 1], np.broadcast_to(larger[:, :1, 1], (8, 6)), atol=1e-5)  # rows vary by row only
  np.testing.assert_allclose(larger[..., 2], np.broadcast_to(larger[:1, :, 2], (8, 6)), atol=1e-5)
  np.testing.assert_allclose(
    larger[3:5, 0, 1], [1.25, 1.75], atol=0.05
  )  # pixel centres: (i + .5) / 2 - .5, and bicubic keeps a ramp
  assert run(model, params, images(2, 8, 12)).tokens.shape == (2, 7, 16)


@pytest.mark.slow
def test_freeze_patch():
  x = images()
  for freeze in (False, True):
    model = ViT(width=16, depth=1, heads=2, patch=4, freeze_patch=freeze)
    grads = value_and_grad(model, lively(model), x)[1]['patches']
    assert all(np.any(g) != freeze for g in jax.tree.leaves(grads['projection'])) and np.any(grads['positions'])


def test_layer_scale():
  model = ViT(**TINY, layer_scale=1e-9, eps=1e-6)
  params, x = lively(model), images()
  scales = jax.jit(lambda key: net.init(model, key, x)[0]['blocks_1']['scale2'])(jax.random.key(0))
  np.testing.assert_array_equal(scales, np.full(16, 1e-9, np.float32))
  for i, name in ((0, 'scale1'), (0, 'scale2'), (1, 'scale1'), (1, 'scale2')):
    params[f'blocks_{i}'][name] = np.asarray(scales)
  params['norm'] = {'scale': np.ones(16, np.float32), 'bias': np.zeros(16, np.float32)}
  tokens = np.asarray(embed(model, params, x))
  tokens = (tokens - tokens.mean(-1, keepdims=True)) / np.sqrt(tokens.var(-1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(run(model, params, x).tokens[:, 1:], tokens, atol=1e-4)  # only the final norm remains


@pytest.mark.parametrize(
  'weight_init, dense, qkv, patch, cls',
  [
    ('timm', 0.02, 0.02, np.sqrt(1 / (3 * 48)), 1e-6),
    ('mae', np.sqrt(2 / (128 + 512)), np.sqrt(2 / (128 + 384)), np.sqrt(2 / (48 + 128)), 0.02),
    ('xavier', np.sqrt(2 / (128 + 512)), np.sqrt(2 / (128 + 384)), np.sqrt(1 / (3 * 48)), 0.02),
    ('moco', np.sqrt(2 / (128 + 512)), np.sqrt(2 / (128 + 128)), np.sqrt(2 / (48 + 128)), 1e-6),
  ],
)
@pytest.mark.slow
def test_initial_weights(weight_init, dense, qkv, patch, cls):
  """Standard deviations: a uniform of bound b has b / sqrt(3)."""
  params = initial(ViT(width=128, depth=1, heads=2, patch=4, weight_init=weight_init))
  for x, std, rtol in [
    (params['blocks_0']['fc1']['kernel'], dense, 0.03),
    (params['blocks_0']['qkv']['kernel'], qkv, 0.03),
    (params['patches']['projection']['kernel'], patch, 0.03),
    (params['cls'], cls, 0.3),
    (params['cls_position'], 0.02, 0.3),
    (params['patches']['positions'], 0.02, 0.2),
  ]:
    np.testing.assert_allclose(x.std(), std, rtol=rtol)
  assert not any(np.any(leaf) for path, leaf in jax.tree.leaves_with_path(params) if path[-1].key == 'bias')
  tail = float(np.abs(params['blocks_0']['fc1']['kernel']).max()) / dense
  assert (tail > 3) == (weight_init == 'timm')  # timm's normal is not cut at two sigma; uniforms end at sqrt(3)


def test_bfloat16_is_near():
  f32, bf16 = (ViT(**TINY, dtype=d) for d in ('float32', 'bfloat16'))
  params, x = lively(f32), images(16)
  a, b = run(f32, params, x).pooled, run(bf16, params, x).pooled
  assert b.dtype == jnp.float32
  assert 1e-4 < np.linalg.norm(a - b) / np.linalg.norm(a) < 0.03


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(variant='XL'), "variant='XL'"),
    (dict(), 'give a variant or all sizes'),
    (dict(variant='S', heads=5), 'no multiple of heads=5'),
    (dict(width=6, depth=1, heads=1, positions='sincos_mae'), 'multiple of 4'),
    (dict(variant='S', class_token=False), "pool='cls' needs"),
    (dict(variant='S', pool='max'), "pool='max'"),
    (dict(variant='S', positions='none'), "positions='none'"),
    (dict(variant='S', weight_init='jax'), "weight_init='jax'"),
    (dict(variant='S', drop_path=1.0), 'drop_path=1.0'),
    (dict(variant='S', layer_scale=-1.0), 'layer_scale=-1.0'),
    (dict(variant='S', dtype='float64'), "dtype='float64'"),
    (dict(variant='S', attention='flash'), "attention='flash'"),
    (dict(variant='S', remat='all'), "remat='all' is none of 'none', 'full', 'dots'"),
  ],
)
def test_refusals(fields, message):
  with pytest.raises(UserError, match=message):
    build(spec(ViT, **fields), 'config.method.encoder')


def test_refuses_images_that_do_not_divide():
  with pytest.raises(ValueError, match='10x8 does not divide into patches of 4x4'):
    jax.eval_shape(lambda key: net.init(ViT(**TINY), key, jnp.zeros((1, 10, 8, 3))), jax.random.key(0))
