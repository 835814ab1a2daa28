"""What networks say of their parameters, against the rules by path that optimizers and sharding used to go by."""

import dataclasses
import importlib
import inspect
import pathlib
import pkgutil
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import sslax.models
from sslax.errors import UserError
from sslax.models import net
from sslax.models.decoder import Decoder
from sslax.models.mlp import MLP, Identity
from sslax.models.predictor import Predictor
from sslax.models.prototypes import Prototypes
from sslax.models.resnet import ResNet
from sslax.models.resnet_clip import ModifiedResNet
from sslax.models.text import TextTransformer
from sslax.models.vit import ViT
from sslax.ops import fsdp, tree
from sslax.run import sharding
from sslax.run.optim import EXCLUDE

# The rules by path as they were.
OLD_EXCLUDE = re.compile(r'(bias|scale\d*)$')
OLD_SCANNED = re.compile(r'(^|/)blocks/')
OLD_LAYERS = re.compile(r'(^|/)blocks(_\d+)?/')
OLD_EMBEDDING = re.compile(r'^(.*/)?(patches/|cls$|cls_position$)')
OLD_BLOCK = re.compile(r'^(.*/)?blocks_(?P<index>\d+)/')

IMAGES, ROWS, TOKENS = jnp.zeros((2, 16, 16, 3)), jnp.zeros((2, 16)), jnp.zeros((2, 4, 16))
CLIPS = jnp.zeros((2, 4, 16, 16, 3))
PLACES, WORDS = jnp.zeros((2, 4), jnp.int32), jnp.zeros((2, 5), jnp.int32)
VIT = dict(width=16, depth=2, heads=2, patch=8)
SMALL = dict(width=16, depth=2, heads=2)

NETWORKS = [
  (ResNet(depth=18, base=4, stem='cifar'), IMAGES),
  (ResNet(depth=50, base=4, stages=(1, 1), sk_ratio=0.0625, projection='group'), IMAGES),
  (ModifiedResNet(stages=(1, 1), base=4, embed=8), IMAGES),
  (ViT(**VIT, layer_scale=0.1, pre_norm=True), IMAGES),
  (ViT(**VIT, layer_scale=0.1, scan=True), IMAGES),
  (ViT(**VIT, positions='sincos_mae', class_token=False, pool='mean', qkv_bias=False, patch_bias=False), IMAGES),
  (ViT(width=16, depth=2, heads=2, patch=(2, 8, 8), positions='sincos_line'), CLIPS),
  (Decoder(**SMALL, patch=8), TOKENS, PLACES.reshape(-1, 2, 2)),
  (Decoder(**SMALL, patch=8, scan=True), TOKENS, PLACES.reshape(-1, 2, 2)),
  (Predictor(**SMALL), TOKENS, PLACES, PLACES, jnp.ones((2, 8), bool), (2, 2)),
  (Predictor(**SMALL, scan=True), TOKENS, PLACES, PLACES, jnp.ones((2, 8), bool), (2, 2)),
  (TextTransformer(**SMALL, vocab_size=11, length=5), WORDS),
  (TextTransformer(**SMALL, vocab_size=11, length=5, scan=True), WORDS),
  (MLP((8, 8, 4), bias=False, final_norm='bn'), ROWS),
  (MLP((8, 4), norm='ln', final_norm='bn_no_bias', final_bias=False), ROWS),
  (MLP((4,), norm='none'), ROWS),
  (Prototypes(5, weight_norm=True, learn_scale=True), ROWS),
  (Identity(), ROWS),
]
PARTS = {
  'BatchNorm',
  'Block',
  'Bottleneck',
  'SelectiveKernel',
  'Patches',
  'Product',
  'AttentionPool',
  'RelativeBias',
}  # of the networks above


def shapes_of(module, *inputs):
  static = [x for x in inputs if not isinstance(x, jax.Array)]
  arrays = [x for x in inputs if isinstance(x, jax.Array)]
  return jax.eval_shape(lambda *xs: net.init(module, jax.random.key(0), *xs, *static)[0], *arrays)


def by_path(t):
  return dict(zip(tree.paths(t), jax.tree.leaves(t), strict=True))


def old_layer(path):
  if OLD_SCANNED.search(path):
    return 1
  block = OLD_BLOCK.search(path)
  return int(block['index']) + 1 if block else 0 if OLD_EMBEDDING.search(path) else None


def test_no_network_is_forgotten():
  """One that is not of the list, or a part of it, is of a file whose own test says what it says of its parameters."""
  known = {type(module).__name__ for module, *_ in NETWORKS} | PARTS
  for module in pkgutil.iter_modules(sslax.models.__path__):
    for name, value in vars(importlib.import_module(f'sslax.models.{module.name}')).items():
      if inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__.startswith('sslax.'):
        test = pathlib.Path(__file__).parent / f'{value.__module__.rpartition(".")[2]}_test.py'
        assert name in known or 'groups(' in test.read_text(encoding='utf-8'), f'{name}: nobody tests its groups'


@pytest.mark.parametrize('case', NETWORKS, ids=lambda case: f'{type(case[0]).__name__}{NETWORKS.index(case)}')
def test_groups_are_what_the_rules_by_path_said(case):
  """Weight decay, stacked and gathered of every network; layers of encoders of images, which alone had a rule."""
  module, params = case[0], shapes_of(*case)
  for name in ('encoder', 'head'):
    groups = net.groups({name: module}, {name: params})
    assert jax.tree.structure(groups) == jax.tree.structure({name: params})
    for path, group in by_path(groups[name]).items():
      assert group.decay == (not OLD_EXCLUDE.search(path)), path
      assert bool(group.stacked) == bool(OLD_SCANNED.search(path)), path
      assert group.gathered == bool(OLD_LAYERS.search(path)), path
      if not isinstance(module, TextTransformer):
        assert group.layer == old_layer(path), path
  assert EXCLUDE == OLD_EXCLUDE.pattern == net.VECTORS


def test_stacked_parameters_have_the_layers_in_front():
  """As many as blocks, and what is not stacked has none."""
  for module, *inputs in NETWORKS:
    params = shapes_of(module, *inputs)
    stacked = [group.stacked for group in jax.tree.leaves(net.groups({'x': module}, {'x': params}))]
    if isinstance(module, (ViT, Decoder, Predictor, TextTransformer)):
      assert any(stacked) == module.scan
      loop = shapes_of(module.clone(scan=False), *inputs)
      for path, leaf in by_path(params).items():
        block = path.replace('blocks/', 'blocks_0/') if module.scan else path
        assert leaf.shape == ((2,) if block != path else ()) + by_path(loop)[block].shape, path
    else:
      assert not any(stacked)


def test_embeddings_of_texts_are_layer_0():
  params = shapes_of(TextTransformer(**SMALL, vocab_size=11, length=5), WORDS)
  groups = TextTransformer(**SMALL).param_groups(params)
  assert groups['tokens'].layer == groups['positions'].layer == 0 and groups['blocks_1']['fc1']['bias'].layer == 2
  assert groups['norm']['scale'].layer is None


def test_parts_that_no_module_made():
  """Temperatures and mask tokens of methods, a third party's arrays and lists of them."""
  params = {
    'encoder': {'kernel': 0.0}, 'logit_scale': 0.0, 'logit_bias': 0.0, 'mask_token': 0.0, 'own': [{'scale2': 0.0}, 0.0, ()],
  }  # fmt: skip
  groups = net.groups({}, params)
  decayed = net.Group(decay=True)
  vector = net.Group(decay=False)
  assert groups == {
    'encoder': {'kernel': decayed}, 'logit_scale': vector, 'logit_bias': vector, 'mask_token': decayed,
    'own': [{'scale2': vector}, decayed, ()],
  }  # fmt: skip
  assert net.groups({'gone': Identity()}, params) == groups, 'a module without parameters is no mistake'


class Own(nn.Module):
  """A third party's network, whose weights its own layer gathers; `wrong` breaks its groups."""

  wrong: str = ''

  @nn.compact
  def __call__(self, x, train):
    return nn.Dense(16, name='theirs')(nn.Dense(16, name='ours')(x))

  def param_groups(self, params):
    if self.wrong == 'tree':
      return {'ours': net.Group()}
    if self.wrong == 'leaves':
      return params
    plain = net.plain_groups(params)
    return {
      **plain,
      'theirs': jax.tree.map(lambda group: dataclasses.replace(group, decay=False, gathered=True), plain['theirs']),
    }


def test_a_third_partys_network_states_its_own():
  params = {'encoder': shapes_of(Own(), ROWS)}
  groups = by_path(net.groups({'encoder': Own()}, params))
  assert {path for path, group in groups.items() if group.decay} == {'encoder/ours/kernel'}
  assert {path for path, group in groups.items() if group.gathered} == {'encoder/theirs/kernel', 'encoder/theirs/bias'}
  for wrong in ('tree', 'leaves'):
    with pytest.raises(UserError, match=r'Own\.param_groups must return a tree like encoder, with a net\.Group for each leaf'):
      net.groups({'encoder': Own(wrong)}, params)


def test_what_a_layer_gathers_nobody_else_does(monkeypatch):
  monkeypatch.setattr(fsdp, 'MIN_SHARDED_SIZE', 64)
  params = shapes_of(Own(), ROWS)
  with jax.set_mesh(sharding.make_mesh(1, 8)):
    program = str(jax.make_jaxpr(lambda params: net.apply(Own(), params, {}, ROWS, train=False)[0])(params))
  assert program.count('sharding_constraint') == 1, program  # the kernel of 'ours'
