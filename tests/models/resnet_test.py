import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.counting import count

from sslax.errors import UserError
from sslax.models import net
from sslax.models.resnet import Block, ResNet, SelectiveKernel
from sslax.spec import build, spec

TINY = dict(depth=18, stages=(1, 1), base=8, stem='cifar')


def images(B=4, size=8, seed=0):
  return np.random.default_rng(seed).standard_normal((B, size, size, 3)).astype(np.float32)


def shapes(model, size=8):
  return jax.eval_shape(lambda key: net.init(model, key, jnp.zeros((2, size, size, 3))), jax.random.key(0))


def initial(model, *path):
  """One initial parameter; the compiler leaves out the others."""
  params = lambda key: net.init(model, key, jnp.zeros((1, 8, 8, 3)))[0]
  return jax.jit(lambda key: functools.reduce(lambda tree, name: tree[name], path, params(key)))(jax.random.key(0))


def lively(model, size=8):
  """Parameters of order one, no branch switched off, and running statistics that are not the first ones."""
  rng = np.random.default_rng(1)

  def fill(p):
    x = rng.standard_normal(p.shape)
    return np.float32(1 + 0.3 * x if p.ndim == 1 else x / np.sqrt(p.size / p.shape[-1]))

  params, stats = shapes(model, size)
  return jax.tree.map(fill, params), jax.tree.map(lambda s: np.full(s.shape, 0.8, np.float32), stats)


@functools.partial(jax.jit, static_argnames=('model', 'train'))
def run(model, params, stats, x, train):
  return net.apply(model, params, stats, x, train=train)


@pytest.mark.parametrize(
  'fields, size, parameters, map_shape',
  [
    (dict(depth=18), 224, 11_176_512, (7, 7, 512)),
    (dict(depth=18, stem='cifar'), 32, 11_168_832, (4, 4, 512)),
    (dict(depth=50), 224, 23_508_032, (7, 7, 2048)),
    (dict(depth=50, stem='cifar'), 32, 23_500_352, (4, 4, 2048)),
    (dict(depth=34), 224, 21_284_672, (7, 7, 512)),  # torchvision's 21,797,672 less its classifier of 513,000
    (dict(depth=101), 224, 42_500_160, (7, 7, 2048)),  # 44,549,160 - 2,049,000
    (dict(depth=50, width=2.0), 224, 93_907_072, (7, 7, 4096)),  # SimCLR: 94M
    (dict(depth=18, width=0.25, stages=(1, 1, 1)), 32, None, (2, 2, 64)),
    (dict(depth=18, block='bottleneck', stages=(1,), base=4), 32, None, (8, 8, 16)),
  ],
)
@pytest.mark.slow
def test_sizes(fields, size, parameters, map_shape):
  model = ResNet(**fields)
  params, stats = shapes(model, size)
  assert parameters is None or count(params) == parameters
  assert {leaf.dtype for leaf in jax.tree.leaves((params, stats))} == {jnp.dtype('float32')}
  out, _ = jax.eval_shape(lambda p, s: net.apply(model, p, s, jnp.zeros((2, size, size, 3)), train=False), params, stats)
  assert out.tokens.shape == (2, *map_shape) and out.pooled.shape == (2, map_shape[-1]) == (2, model.num_features)


def test_zero_gamma_makes_blocks_the_identity():
  model = ResNet(depth=18, stages=(2,), base=8, stem='cifar')
  params, stats = lively(model)
  for block in ('layer1_0', 'layer1_1'):
    params[block]['bn2'] = {name: np.asarray(initial(model, block, 'bn2', name)) for name in ('scale', 'bias')}
  params['bn1'] = {'scale': np.ones(8, np.float32), 'bias': np.zeros(8, np.float32)}
  x = images()
  out = run(model, params, stats, x, train=False)[0]
  stem = jax.lax.conv_general_dilated(x, params['conv1']['kernel'], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  np.testing.assert_allclose(out.tokens, jax.nn.relu((stem - 0.8) / np.sqrt(0.8 + 1e-5)), rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(out.pooled, np.mean(out.tokens, (1, 2)), rtol=1e-5)
  assert initial(ResNet(**TINY, zero_init_residual=False), 'layer1_0', 'bn2', 'scale').tolist() == [1.0] * 8
  bottleneck = ResNet(depth=50, stages=(1,), base=4, stem='cifar')
  assert [float(initial(bottleneck, 'layer1_0', bn, 'scale')[0]) for bn in ('bn1', 'bn3', 'downsample_bn')] == [1, 0, 1]


def test_relu_after_stem():
  with_relu, without = (ResNet(**TINY, zero_init_residual=False, relu_after_stem=relu) for relu in (True, False))
  params, stats = lively(with_relu)
  x = images()
  a, b = (run(m, params, stats, x, train=False)[0].pooled for m in (with_relu, without))
  assert np.abs(a - b).max() > 0.01
  params['bn1']['bias'] = params['bn1']['bias'] + 100  # nothing is negative any more
  a, b = (run(m, params, stats, x, train=False)[0].pooled for m in (with_relu, without))
  np.testing.assert_array_equal(a, b)


def test_projection():
  """'shape': torchvision; 'group': SimCLR also projects in stage 1 of the basic nets."""
  projected = lambda **fields: {k for k, v in shapes(ResNet(**fields, stages=(2, 2)))[0].items() if 'downsample_conv' in v}
  assert projected(depth=18) == {'layer2_0'}
  assert projected(depth=18, projection='group') == {'layer1_0', 'layer2_0'}
  assert projected(depth=50) == projected(depth=50, projection='group') == {'layer1_0', 'layer2_0'}


@pytest.mark.parametrize('strided', [False, True])
def test_norm_groups_are_separate_batches(strided):
  x = images(8)
  grouped, single = ResNet(**TINY, norm_groups=2, norm_strided=strided), ResNet(**TINY)
  params, stats = lively(single)
  together = run(grouped, params, stats, x, train=True)[0].pooled
  for g in range(2):
    rows = slice(g, None, 2) if strided else slice(4 * g, 4 * g + 4)
    alone = run(single, params, stats, x[rows], train=True)[0].pooled
    np.testing.assert_allclose(together[rows], alone, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_near():
  x = images(8, 16)
  f32, bf16 = (ResNet(**TINY, zero_init_residual=False, dtype=d) for d in ('float32', 'bfloat16'))
  params, stats = lively(f32, 16)
  (a, stats_a), (b, stats_b) = (run(m, params, stats, x, train=True) for m in (f32, bf16))
  assert {leaf.dtype for leaf in jax.tree.leaves((b, stats_b))} == {jnp.dtype('float32')}
  error = np.linalg.norm(a.pooled - b.pooled) / np.linalg.norm(a.pooled)
  assert 1e-5 < error < 0.02  # not the same computation, and near
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.05, atol=0.02), stats_a, stats_b)


def test_rows_are_independent_in_evaluation():
  model = ResNet(**TINY, norm_groups=2)
  params, stats = lively(model)
  x = images(3)  # three rows do not divide into two groups: evaluation does not care
  whole = run(model, params, stats, x, train=False)[0].pooled
  np.testing.assert_allclose(whole[:1], run(model, params, stats, x[:1], train=False)[0].pooled, rtol=1e-5, atol=1e-6)


def test_convolutions_start_as_in_torchvision():
  model = ResNet(depth=18, stages=(1,), base=64, stem='cifar')
  he = np.sqrt(2 / (9 * 64))  # He's normal, fan-out
  np.testing.assert_allclose(initial(model, 'layer1_0', 'conv1', 'kernel').std(), he, rtol=0.02)
  np.testing.assert_allclose(initial(model, 'conv1', 'kernel').std(), he, rtol=0.05)  # fan-in would be sqrt(2 / 27)


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(depth=51), 'depth=51'),
    (dict(stem='mnist'), "stem='mnist'"),
    (dict(projection='all'), "projection='all'"),
    (dict(block='wide'), "block='wide'"),
    (dict(dtype='float16'), "dtype='float16'"),
    (dict(width=0.0), 'width=0.0'),
    (dict(stages=(2, 0)), r'stages=\(2, 0\)'),
    (dict(sk_ratio=-0.1), 'sk_ratio=-0.1'),
    (dict(depth=18, sk_ratio=0.0625), 'bottlenecks'),
  ],
)
def test_refusals(fields, message):
  with pytest.raises(ValueError, match=message):
    ResNet(**fields)
  with pytest.raises(UserError, match=message):
    build(spec(ResNet, **fields), 'config.method.encoder')


@pytest.mark.parametrize(
  'depth, width, millions', [(50, 1, 35), (50, 2, 140), (101, 1, 65), (101, 2, 257), (152, 1, 89), (152, 2, 354), (152, 3, 795)]
)
@pytest.mark.slow
def test_selective_kernel_networks_have_the_papers_size(depth, width, millions):
  """Table 1 of SimCLR v2, which counts the running statistics too."""
  params, stats = shapes(ResNet(depth=depth, width=float(width), sk_ratio=0.0625), 32)
  assert round((count(params) + count(stats)) / 1e6) == millions
  assert params['layer2_0']['sk']['squeeze_conv']['kernel'].shape == (1, 1, 128 * width, 32)  # at least 32
  assert params['layer4_0']['sk']['squeeze_conv']['kernel'].shape[-1] == 32 * width


def test_selective_kernel_is_the_formula():
  """sk_conv2d of SimCLR's code in float64, running statistics 0.8."""
  x, f = images(2, 6), 3
  unit = SelectiveKernel(f, 2, 0.0625, {'dtype': 'float32'})
  params, stats = lively(unit, 6)
  out = jax.jit(lambda *args: net.apply(unit, *args, train=False)[0])(params, stats, x)

  def norm(y, p):
    return np.maximum((y - 0.8) / np.sqrt(0.8 + 1e-5) * p['scale'] + p['bias'], 0)

  p = jax.tree.map(np.float64, params)
  padded = np.pad(np.float64(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
  patches = lambda i, j: padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
  y = np.stack([[np.einsum('bhwc,hwcf->bf', patches(i, j), p['conv']['kernel']) for j in range(3)] for i in range(3)])
  y = norm(y.transpose(2, 0, 1, 3), p['bn'])
  a, b = y[..., :f], y[..., f:]
  m = norm((a + b).mean((1, 2)) @ p['squeeze_conv']['kernel'][0, 0], p['squeeze_bn']) @ p['expand_conv']['kernel'][0, 0]
  w = 1 / (1 + np.exp(m[:, f:] - m[:, :f]))[:, None, None]  # the softmax of two
  assert 0.02 < w.std() < 0.5
  np.testing.assert_allclose(out, w * a + (1 - w) * b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('stride, size', [(1, 5), (2, 6), (2, 5)])
def test_shortcuts_average_before_they_project(stride, size):
  """With the last gamma at 0 a block is its shortcut: means of 2x2; at the edge without (stride 1) or with zeros (stride 2)."""
  x = np.abs(images(2, size))
  block = Block(2, stride, bottleneck=True, project=True, norm={'dtype': 'float32'}, zero_init=True, sk_ratio=0.0625)
  params, stats = lively(block, size)
  params['bn3'] = {'scale': np.zeros(8, np.float32), 'bias': np.zeros(8, np.float32)}
  out = jax.jit(lambda *args: net.apply(block, *args, train=False)[0])(params, stats, x)
  padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=np.nan if stride == 1 else 0)
  windows = [padded[:, i : i + size : stride, j : j + size : stride] for i in range(2) for j in range(2)]
  mean = np.nanmean(np.stack(windows), 0)
  p = params['downsample_bn']
  expected = (mean @ params['downsample_conv']['kernel'][0, 0] - 0.8) / np.sqrt(0.8 + 1e-5) * p['scale'] + p['bias']
  np.testing.assert_allclose(out, np.maximum(expected, 0), rtol=1e-4, atol=1e-5)


def test_stem_with_selective_kernels():
  """ResNet-D: three 3x3, the first with stride 2, half the filters in the first two; on CIFAR's stem nothing changes."""
  fields = dict(depth=50, width=2.0, stages=(1,), sk_ratio=0.0625)
  params, _ = shapes(ResNet(**fields), 32)
  kernels = [params[name]['kernel'].shape for name in ('stem_conv0', 'stem_conv1', 'conv1')]
  assert kernels == [(3, 3, 3, 64), (3, 3, 64, 64), (3, 3, 64, 128)]
  model = ResNet(**fields)
  out = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((2, 32, 32, 3)), train=False)[0])
  assert out.tokens.shape == (2, 8, 8, 512)
  params, _ = shapes(ResNet(**fields, stem='cifar'), 32)
  assert params['conv1']['kernel'].shape == (3, 3, 3, 128) and 'stem_conv0' not in params


@pytest.mark.slow
def test_selective_kernels_in_bfloat16():
  x = images(8, 16)
  f32, bf16 = (
    ResNet(depth=50, stages=(1, 1), base=4, sk_ratio=0.0625, zero_init_residual=False, dtype=d) for d in ('float32', 'bfloat16')
  )
  params, stats = lively(f32, 16)
  a, b = (run(m, params, stats, x, train=True)[0].pooled for m in (f32, bf16))
  assert b.dtype == jnp.float32 and 1e-5 < np.linalg.norm(a - b) / np.linalg.norm(a) < 0.05


def test_config_round_trip():
  node = spec(ResNet, depth=18, stages=(1, 1))
  assert node.width == 1.0 and node.stem == 'imagenet' and build(node) == ResNet(depth=18, stages=(1, 1))
