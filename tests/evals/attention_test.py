import dataclasses

import jax
import numpy as np
import pytest
from methods import tiny
from methods.battery import tiny_batch

from sslax.evals.attention import attention_maps
from sslax.evals.patches import patch_pca
from sslax.method import Method
from sslax.models import net


@dataclasses.dataclass(frozen=True)
class OnlyEncoder(Method):
  encoder: object

  def init(self, rng, views):
    params, stats = net.init(self.encoder, rng, views['image'] / 255.0)
    return {'encoder': params}, {'stats': stats}

  def loss(self, params, memory, views, rng, step):
    raise NotImplementedError

  def features(self, params, memory, batch):
    return net.apply(self.encoder, params['encoder'], memory['stats'], batch['image'] / 255.0, train=False)[0]


def made(encoder):
  method, image = OnlyEncoder(encoder), tiny_batch(4)['image']
  params, memory = method.init(jax.random.key(0), {'image': image})
  params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), params)
  return method, params, memory, {'image': image}


@pytest.mark.parametrize('class_token', [True, False])
@pytest.mark.slow
def test_attention_written_out(class_token):
  method, params, memory, batch = made(tiny.vit(depth=1, patch=4, class_token=class_token, pool='mean'))
  maps = attention_maps(method, params, memory, batch)
  assert maps.shape == (4, 2, 4, 4)
  np.testing.assert_allclose(maps.sum((2, 3)), 1.0, rtol=1e-5)
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params['encoder'])
  x = np.asarray(method.encoder.apply({'params': params['encoder']}, batch['image'] / 255.0, method='embed'), np.float64)
  if class_token:
    x = np.concatenate([np.tile(p['cls'] + p['cls_position'], (4, 1, 1)), x], 1)
  block = p['blocks_0']
  y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * block['norm1']['scale'] + block['norm1'][
    'bias'
  ]
  q, k, _ = np.moveaxis((y @ block['qkv']['kernel'] + block['qkv']['bias']).reshape(4, -1, 3, 2, 8), 2, 0)
  weights = np.exp(np.einsum('bqhd,bkhd->bhqk', q, k) / np.sqrt(8))
  weights /= weights.sum(-1, keepdims=True)
  expected = weights[:, :, 0, 1:] if class_token else weights.mean(2)
  expected = (expected / expected.sum(-1, keepdims=True)).reshape(4, 2, 4, 4)
  np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('encoder', [tiny.resnet(), tiny.vit(depth=2, scan=True)], ids=['resnet', 'scanned'])
@pytest.mark.slow
def test_nothing_to_see_is_none(encoder):
  assert attention_maps(*made(encoder)) is None


def test_patch_pca_finds_the_directions():
  rng = np.random.default_rng(0)
  basis = np.linalg.qr(rng.standard_normal((20, 3)))[0]
  strength = rng.uniform(0, 1, (5, 2, 4, 3)) * [9, 3, 1]
  colours = patch_pca(strength @ basis.T)
  assert colours.shape == (5, 2, 4, 3) and colours.min() == 0 and colours.max() == 1
  for c in range(3):
    assert abs(np.corrcoef(colours[..., c].ravel(), strength[..., c].ravel())[0, 1]) > 0.9
