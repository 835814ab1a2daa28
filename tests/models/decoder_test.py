import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.counting import count

from sslax.models import net
from sslax.models.decoder import Decoder
from sslax.models.positions import sincos
from sslax.ops.masks import from_noise

TINY = dict(width=16, depth=2, heads=2, patch=2)


def lively(model, tokens, restore):
  """Parameters of order one."""
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(lambda key: net.init(model, key, tokens, restore)[0], jax.random.key(0))
  return jax.tree.map(lambda p: np.float32((p.ndim == 1) + 0.3 * rng.standard_normal(p.shape)), shapes)


@functools.partial(jax.jit, static_argnames='model')
def run(model, params, tokens, restore):
  return net.apply(model, params, {}, tokens, restore, train=False)[0]


def example(first=1):
  rng = np.random.default_rng(0)
  restore = from_noise(rng.random((3, 9), np.float32), 4).restore
  return rng.standard_normal((3, first + 4, 8)).astype(np.float32), restore.reshape(3, 3, 3)


def test_the_papers_decoder_has_26_million_parameters():
  tokens, restore = jax.ShapeDtypeStruct((1, 50, 768), jnp.float32), jax.ShapeDtypeStruct((1, 14, 14), jnp.int32)
  for fields in ({}, {'scan': True}):
    params = jax.eval_shape(lambda *a, f=fields: net.init(Decoder(**f), *a)[0], jax.random.key(0), tokens, restore)
    assert count(params) == 26_109_184 - 197 * 512  # the official count has the fixed positions in it


def test_tokens_go_back_to_their_places():
  """Without blocks there is nothing but: every visible token at its place, the mask token elsewhere, plus positions."""
  tokens, restore = example()
  model = Decoder(**TINY)
  params = lively(model, tokens, restore)
  for i in range(2):  # blocks that add nothing
    for name in ('proj', 'fc2'):
      params[f'blocks_{i}'][name] = jax.tree.map(np.zeros_like, params[f'blocks_{i}'][name])
  out = np.asarray(run(model, params, tokens, restore))
  assert out.shape == (3, 9, 2 * 2 * 3) and out.dtype == np.float32
  places = restore.reshape(3, 9)
  embedded = tokens @ params['embed']['kernel'] + params['embed']['bias']
  for b in range(3):
    for t in range(9):
      x = embedded[b, 1 + places[b, t]] if places[b, t] < 4 else params['mask_token'][0, 0]
      x = x + sincos(3, 3, 16, 'sincos_mae').reshape(9, 16)[t]
      x = (x - x.mean()) / np.sqrt(x.var() + 1e-6) * params['norm']['scale'] + params['norm']['bias']
      np.testing.assert_allclose(out[b, t], x @ params['predict']['kernel'] + params['predict']['bias'], rtol=1e-4, atol=1e-4)


def test_the_class_token_takes_part():
  tokens, restore = example()
  model, without = Decoder(**TINY), Decoder(**TINY, class_token=False)
  params = lively(model, tokens, restore)
  other = tokens.copy()
  other[:, 0] += 1
  assert np.abs(run(model, params, tokens, restore) - run(model, params, other, restore)).max() > 1e-2
  assert run(without, params, tokens[:, 1:], restore).shape == (3, 9, 12)
  scanned = {k: v for k, v in params.items() if not k.startswith('blocks_')}
  scanned['blocks'] = jax.tree.map(lambda *leaves: np.stack(leaves), params['blocks_0'], params['blocks_1'])
  out = run(Decoder(**TINY, scan=True, remat='full'), scanned, tokens, restore)
  np.testing.assert_allclose(out, run(model, params, tokens, restore), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  'field, value', [('heads', 3), ('width', 6), ('depth', 0), ('dtype', 'float16'), ('attention', 'flash'), ('remat', 'all')]
)
def test_impossible_values_are_refused(field, value):
  with pytest.raises(ValueError, match=field):
    Decoder(**{**TINY, field: value})


def test_grids_of_any_shape():
  """Patches of several sides, a table of positions for any grid; a grid that the table is not for is refused."""
  tokens, restore = example(first=0)
  restore = restore.reshape(3, 1, 3, 3)
  fields = {**TINY, 'patch': (2, 4, 4), 'channels': 1, 'class_token': False, 'embed_bias': False}
  model = Decoder(**fields, positions='sincos_line')
  params = lively(model, tokens, restore)
  assert 'bias' not in params['embed']
  assert run(model, params, tokens, restore).shape == (3, 9, 2 * 4 * 4)
  with pytest.raises(ValueError, match=r'are for two axes, and the grid is \(1, 3, 3\)'):
    jax.eval_shape(lambda: net.init(Decoder(**fields), jax.random.key(0), tokens, restore))
