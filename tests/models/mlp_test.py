import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from sslax.models import net
from sslax.models.mlp import MLP, Identity

SIMCLR = dict(bias=False, final_bias=False, final_norm='bn_no_bias', kernel_init='normal_0.01')


def rows(B=32, D=6):
  return np.random.default_rng(0).standard_normal((B, D)).astype(np.float32)


def initial(head, D=6):
  return jax.jit(lambda key: net.init(head, key, jnp.zeros((2, D))))(jax.random.key(0))


def lively(head, D=6):
  """Parameters of order one, and the first statistics."""
  rng = np.random.default_rng(1)
  params, stats = jax.eval_shape(lambda key: net.init(head, key, jnp.zeros((2, D))), jax.random.key(0))
  params = jax.tree.map(lambda p: np.float32((p.ndim == 1) + 0.3 * rng.standard_normal(p.shape)), params)
  return params, jax.tree.map(lambda s: np.ones(s.shape, np.float32), stats)


@functools.partial(jax.jit, static_argnames='head')
def run(head, params, stats, x):
  return net.apply(head, params, stats, x, train=True)


def standardise(x):
  return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


def test_simclr_head_is_the_formula():
  head = MLP((5, 4), **SIMCLR)
  (params, stats), x = lively(head), rows()
  p = jax.tree.map(np.float64, params)
  h = np.maximum(standardise(x @ p['dense0']['kernel']) * p['norm0']['scale'] + p['norm0']['bias'], 0)
  z = standardise(h @ p['dense1']['kernel']) * p['norm1']['scale']  # gamma, no beta, no ReLU
  np.testing.assert_allclose(run(head, params, stats, x)[0], z, rtol=1e-4, atol=1e-5)


def test_dino_trunk_is_the_formula():
  head = MLP((5, 4), norm='none', activation='gelu', kernel_init='trunc_normal_0.02')
  (params, stats), x = lively(head), rows()
  p = jax.tree.map(np.float64, params)
  h = x @ p['dense0']['kernel'] + p['dense0']['bias']
  h = h * 0.5 * (1 + erf(h / np.sqrt(2)))
  z = h @ p['dense1']['kernel'] + p['dense1']['bias']
  assert stats == {}
  np.testing.assert_allclose(run(head, params, stats, x)[0], z, rtol=1e-5, atol=1e-6)


def test_layer_norm():
  head = MLP((5, 4), norm='ln')
  (params, stats), x = lively(head), rows()
  p = jax.tree.map(np.float64, params)
  h = x @ p['dense0']['kernel'] + p['dense0']['bias']
  h = np.maximum(standardise(h.T).T * p['norm0']['scale'] + p['norm0']['bias'], 0)
  z = h @ p['dense1']['kernel'] + p['dense1']['bias']
  np.testing.assert_allclose(run(head, params, stats, x)[0], z, rtol=1e-4, atol=1e-5)


def test_final_activation_follows_the_final_norm():
  """The first of SimCLR's layers alone: what fine-tuning keeps of the head."""
  head, first = MLP((5, 4), **SIMCLR), MLP((5,), final_bias=False, final_norm='bn', final_activation=True)
  (params, stats), x = lively(head), rows()
  part = {name: params[name] for name in ('dense0', 'norm0')}
  p = jax.tree.map(np.float64, part)
  h = np.maximum(standardise(x @ p['dense0']['kernel']) * p['norm0']['scale'] + p['norm0']['bias'], 0)
  np.testing.assert_allclose(run(first, part, {'norm0': stats['norm0']}, x)[0], h, rtol=1e-4, atol=1e-5)
  assert jax.tree.structure(lively(first)) == jax.tree.structure((part, {'norm0': stats['norm0']}))


def test_identity_hands_on():
  x = rows()
  assert net.init(Identity(), jax.random.key(0), x) == ({}, {})
  assert net.apply(Identity(), {}, {}, x, train=True)[0] is x


@pytest.mark.parametrize(
  'name, fields, leaves',
  [
    ('SimCLR', dict(features=(8, 8, 4), **SIMCLR), 'k sb k sb k s'),
    ('MoCo v1', dict(features=(4,)), 'kb'),
    ('MoCo v2', dict(features=(8, 4), norm='none'), 'kb  kb'),
    ('MoCo v3', dict(features=(8, 8, 4), bias=False, final_bias=False, final_norm='bn_no_affine'), 'k sb k sb k'),
    ('BYOL', dict(features=(8, 4), final_bias=False), 'kb sb k'),
    ('SimSiam predictor', dict(features=(8, 4), bias=False), 'k sb kb'),
    ('Barlow Twins', dict(features=(8, 8, 4), bias=False, final_bias=False), 'k sb k sb k'),
    ('last norm with beta', dict(features=(4,), final_norm='bn'), 'kb sb'),
  ],
)
def test_heads_of_the_papers(name, fields, leaves):
  """Kernels, biases, scales layer by layer; the final norm has running statistics even without affine."""
  params, stats = lively(MLP(**fields))
  n = len(fields['features'])
  spelt = []
  for i in range(n):
    spelt.append(''.join(key for key, leaf in (('k', 'kernel'), ('b', 'bias')) if leaf in params[f'dense{i}']))
    norm = params.get(f'norm{i}', {})
    spelt.append(''.join(key for key, leaf in (('s', 'scale'), ('b', 'bias')) if leaf in norm))
  assert ' '.join(spelt).rstrip() == leaves
  assert (f'norm{n - 1}' in stats) == (fields.get('final_norm', 'none') != 'none')


@pytest.mark.parametrize(
  'kernel_init, std, largest',
  [
    ('torch', 1 / np.sqrt(3 * 400), np.sqrt(3)),
    ('lecun', 1 / np.sqrt(400), 2.3),
    ('xavier', np.sqrt(2 / 900), np.sqrt(3)),
    ('normal_0.01', 0.01, 5.5),
    ('normal0.01', 0.01, 5.5),
    ('trunc_normal_0.02', 0.02, 5.5),
    ('normal_1e-3', 1e-3, 5.5),
  ],
)
def test_initial_weights(kernel_init, std, largest):
  layer = initial(MLP((500,), kernel_init=kernel_init), 400)[0]['dense0']
  np.testing.assert_allclose(layer['kernel'].std(), std, rtol=0.01)
  tail = float(np.abs(layer['kernel']).max()) / std
  assert tail < largest + 0.01 and tail > min(largest, 4) * 0.97  # uniform, cut at two sigma, or a whole normal
  if kernel_init == 'torch':
    np.testing.assert_allclose(layer['bias'].std(), std, rtol=0.1)
  else:
    assert not np.any(layer['bias'])


def test_zeros():
  params, _ = initial(MLP((5,), kernel_init='zeros'))
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(params))


def test_bfloat16_is_near_and_float32_outside():
  f32, bf16 = (MLP((16, 8), dtype=d) for d in ('float32', 'bfloat16'))
  (params, stats), x = lively(f32), rows(64)
  (a, _), (b, new) = (run(m, params, stats, x) for m in (f32, bf16))
  assert b.dtype == jnp.float32 and {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype('float32')}
  assert 1e-4 < np.linalg.norm(a - b) / np.linalg.norm(a) < 0.02


def test_tokens_pass_like_rows():
  head = MLP((5, 4), norm='none')
  (params, stats), x = lively(head), rows(12)
  out = run(head, params, stats, x.reshape(4, 3, 6))[0]
  np.testing.assert_allclose(out.reshape(12, 4), run(head, params, stats, x)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(features=()), 'at least one layer'),
    (dict(features=(4, 0)), 'positive'),
    (dict(features=(4,), norm='gn'), "norm='gn'"),
    (dict(features=(4,), activation='tanh'), "activation='tanh'"),
    (dict(features=(4,), final_norm='ln'), "final_norm='ln'"),
    (dict(features=(4,), kernel_init='normal'), "kernel_init='normal'"),
    (dict(features=(4,), dtype='int8'), "dtype='int8'"),
  ],
)
def test_refusals(fields, message):
  with pytest.raises(ValueError, match=message):
    MLP(**fields)
