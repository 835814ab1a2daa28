"""Weights of torchvision and timm become the encoder, whatever else their file holds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from models.import_torch_test import timm_state, torchvision_state
from run.toy import BATCH, SGD, Toy

from sslax.errors import UserError
from sslax.method import Method
from sslax.models import branch, import_torch
from sslax.models.resnet import ResNet
from sslax.models.vit import ViT
from sslax.run import graft
from sslax.step import init_state


@dataclasses.dataclass(frozen=True)
class Real(Method):
  """The parameters of a real encoder."""

  encoder: object

  def init(self, rng, views):
    params, stats = branch.init({'encoder': self.encoder}, rng, jnp.zeros((1, 32, 32, 3)))
    return params, {'stats': stats}

  def loss(self, params, memory, views, rng, step):
    raise NotImplementedError

  def features(self, params, memory, batch):
    raise NotImplementedError


RESNET = Real(ResNet(depth=18, stages=(1, 1), base=8))
VIT = Real(ViT(width=48, depth=3, heads=4, patch=8))


def write(path, weights, prefix='', **more):
  arrays = {f'{prefix}{name}': np.ascontiguousarray(x) for name, x in weights.items()} | more
  safetensors.numpy.save_file(arrays, path)
  return str(path)


@pytest.mark.parametrize('prefix', ['', 'module.encoder_q.'])
def test_weights_of_torchvision(tmp_path, prefix):
  """As MoCo's file has them: behind a prefix, with a queue, a key encoder and a head."""
  weights = torchvision_state(18, (1, 1), 8)
  others = (
    {'module.queue': np.zeros((4, 4)), **{f'module.encoder_k.{name}': np.asarray(x * 0) for name, x in weights.items()}}
    if prefix
    else {}
  )
  path = write(tmp_path / 'x.safetensors', weights, prefix, **others)
  state = jax.jit(lambda: init_state(RESNET, SGD, 0, BATCH))()
  wanted, stats = import_torch.resnet(weights, state.params['encoder'], state.memory['stats']['encoder'])
  for entry in [f'encoder={path}:{prefix}'] if prefix else [path, f'encoder={path}']:
    planned = graft.plan((entry,), RESNET, jax.eval_shape(lambda: state))
    for _ in range(2):
      after = graft.apply(planned, state)
      jax.tree.map(np.testing.assert_array_equal, after.params['encoder'], wanted)
      jax.tree.map(np.testing.assert_array_equal, after.memory['stats']['encoder'], stats)
      assert (
        str(planned[0]) == f'params/encoder and memory/stats/encoder from {path} ({len(jax.tree.leaves([wanted, stats]))} leaves)'
      )
      jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)(
        after.params
      )  # what the next apply gives must not be 0


@pytest.mark.slow
def test_weights_of_timm(tmp_path):
  weights = timm_state()
  path = write(tmp_path / 'x.safetensors', weights, head_weight=np.zeros(3, np.float32))
  state = jax.jit(lambda: init_state(VIT, SGD, 0, BATCH))()
  after = graft.apply(graft.plan((path,), VIT, state), state)
  jax.tree.map(np.testing.assert_array_equal, after.params['encoder'], import_torch.vit(weights, state.params['encoder']))
  fixed = Real(dataclasses.replace(VIT.encoder, positions='sincos_mae'))  # MAE's file has the table; ours is computed
  shapes = jax.eval_shape(lambda: init_state(fixed, SGD, 0, BATCH))
  assert len(graft.plan((path,), fixed, shapes)[0].leaves) == len(jax.tree.leaves(shapes.params))


def test_weights_that_do_not_fit(tmp_path):
  moco = write(tmp_path / 'moco.safetensors', torchvision_state(18, (1, 1), 8), 'module.encoder_q.')
  large = write(tmp_path / 'large.safetensors', torchvision_state(18, (2, 1), 8))
  wide = write(tmp_path / 'wide.safetensors', torchvision_state(18, (1, 1), 16))
  for entry, method, words in (
    (moco, RESNET, f'has no layer1.0.conv1.weight. Try encoder={moco}:module.encoder_q.'),
    (f'encoder={moco}:module.', RESNET, 'Try encoder='),
    (large, RESNET, 'not used: layer1.1.bn1.bias'),
    (wide, RESNET, r'wrong shape: params/conv1/kernel is \(7, 7, 3, 8\), the weights are \(7, 7, 3, 16\)'),
    (large, VIT, 'has no blocks.0.norm1.weight. It has bn1.bias, '),
    (large, Toy(), 'this encoder, of dense, is neither'),
  ):
    with pytest.raises(UserError, match=words):
      graft.plan((entry,), method, jax.eval_shape(lambda m=method: init_state(m, SGD, 0, BATCH)))
