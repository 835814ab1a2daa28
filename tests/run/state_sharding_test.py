"""Where each leaf of a state lives, against the rule by path that used to decide it."""

import functools
import re

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from methods import byol_test, clip_test, dino_test, distill_test, ijepa_test, mae_test, moco_v3_test, tiny
from methods.battery import tiny_batch

from sslax.method import Facts
from sslax.methods.averaged import Averaged
from sslax.models import net
from sslax.models.decoder import Decoder
from sslax.models.mlp import Identity
from sslax.models.predictor import Predictor
from sslax.ops import fsdp, tree
from sslax.run import sharding
from sslax.run.optim import AdamW, Partition, Sgd
from sslax.step import TrainState, init_state


def old_rule(mesh, abstract_state):
  """`state_sharding` as it was: whatever lies under 'blocks/' is stacked."""

  def place(path, leaf):
    if re.search(r'(^|/)blocks/', path) and leaf.ndim:
      return NamedSharding(mesh, P(None, *fsdp.split(leaf.shape[1:], mesh.shape['fsdp'])))
    return NamedSharding(mesh, fsdp.split(leaf.shape, mesh.shape['fsdp']))

  return tree.map_with_path(place, abstract_state)


SCAN = dict(depth=8, heads=2, scan=True)  # eight layers: a rule that takes them for a dimension splits them over eight devices


def vit(scan=True, **changes):
  return tiny.vit(**{**SCAN, 'scan': scan, **changes})


def ijepa(**changes):
  return ijepa_test.tiny_ijepa(
    encoder=vit(patch=2, class_token=False, pool='mean', positions='sincos_mae'), predictor=Predictor(width=32, **SCAN), **changes
  )


def mae(scan=True):
  fields = {**SCAN, 'patch': 4, 'scan': scan}
  return mae_test.tiny_mae(encoder=tiny.vit(**fields), decoder=Decoder(width=32, **fields))


def clip():
  tower = vit(pre_norm=True, patch_bias=False, weight_init='clip', activation='quick_gelu')
  return clip_test.tiny_clip(encoder=tower, text=clip_test.text(vocab_size=259, **SCAN))


def distill():
  return distill_test.tiny(encoder=vit(), teacher_encoder=vit(), neck=Identity(), teacher_neck=Identity())


CASES = {  # method, and its networks where they are more than `modules` names
  'dino': (lambda: dino_test.tiny_dino(encoder=vit()), None),
  'dino without scan': (lambda: dino_test.tiny_dino(encoder=vit(scan=False)), None),
  'dino, resnet': (lambda: dino_test.tiny_dino(encoder=tiny.resnet()), None),
  'byol': (byol_test.tiny_byol, None),
  'moco v3': (lambda: moco_v3_test.tiny_moco_v3(encoder=vit()), None),
  'averaged': (lambda: Averaged(moco_v3_test.tiny_moco_v3(encoder=vit())), None),
  'ijepa': (ijepa, lambda m: {'encoder': m.encoder, 'predictor': m.predictor}),
  'averaged ijepa': (
    lambda: Averaged(ijepa()), lambda m: {'encoder': m.inner.encoder, 'predictor': m.inner.predictor}
  ),
  'mae': (mae, lambda m: {'encoder': m.encoder, 'decoder': m.decoder}),
  'mae without scan': (lambda: mae(scan=False), lambda m: {'encoder': m.encoder, 'decoder': m.decoder}),
  'clip': (clip, None),
  'distill': (distill, None),
}  # fmt: skip


def state_and_groups(method, modules):
  """A state with what two optimizers keep: one for all, and three for parts, some of it frozen."""
  init = functools.partial(init_state, method, optax.identity(), 0)
  state = jax.eval_shape(init, {**tiny_batch(), 'text': clip_test.captions()})
  groups = net.groups(modules, state.params)
  sgd = Sgd(warmup='0')
  partition = Partition(parts=(('^encoder/.*kernel$', sgd), ('^encoder', AdamW(warmup='0', freeze='bias$')), ('', sgd)))
  both = [optimizer.build(Facts(16, 10, 1, 16, 4), state.params, groups)[0] for optimizer in (AdamW(warmup='0'), partition)]
  return state._replace(opt_state=[jax.eval_shape(tx.init, state.params) for tx in both]), groups


@pytest.mark.parametrize('name', CASES)
def test_the_rule_by_path_said_the_same(name, monkeypatch):
  """Parameters, moments, averages and targets of every kind of network."""
  make, modules = CASES[name]
  method = make()
  state, groups = state_and_groups(method, modules(method) if modules else method.modules)
  for small, split in ((fsdp.MIN_SHARDED_SIZE, False), (64, True)):
    monkeypatch.setattr(fsdp, 'MIN_SHARDED_SIZE', small)
    for data, parts in ((1, 8), (4, 2), (8, 1)):
      mesh = sharding.make_mesh(data, parts)
      got, expected = sharding.state_sharding(mesh, state, groups), old_rule(mesh, state)
      assert jax.tree.structure(got) == jax.tree.structure(expected) == jax.tree.structure(state)
      for path, a, b in zip(tree.paths(got), jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a == b, (path, a.spec, b.spec)
      assert any('fsdp' in s.spec for s in jax.tree.leaves(got)) == (split and parts > 1)


def leaf(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def specs(state, groups):
  return jax.tree.map(lambda s: s.spec, sharding.state_sharding(sharding.make_mesh(1, 8), state, groups))


def test_copies_are_known_by_path_and_shape(monkeypatch):
  """From the key of the module on, or from inside it; another shape, or another end, is another thing."""
  monkeypatch.setattr(fsdp, 'MIN_SHARDED_SIZE', 1)
  params = {'encoder': {'trunk': {'kernel': leaf(16, 8), 'plain': leaf(16, 8)}}, 'head': {'kernel': leaf(16, 8)}}
  stack = net.Group(stacked=True)
  groups = {'encoder': {'trunk': {'kernel': stack, 'plain': net.Group()}}, 'head': {'kernel': net.Group()}}
  memory = {
    'deep': {'target': params['encoder'], 'all': params},
    'longer': {'trunk': {'kernel': leaf(16, 9)}},
    'other': {'xtrunk': {'kernel': leaf(16, 8)}, 'kernel': leaf(16, 8)},
  }
  got = specs(TrainState(leaf(), params, memory, (memory,)), groups)
  split, whole = P('fsdp', None), P(None, 'fsdp')
  expected = {
    'deep': {
      'target': {'trunk': {'kernel': whole, 'plain': split}},
      'all': {'encoder': {'trunk': {'kernel': whole, 'plain': split}}, 'head': {'kernel': split}},
    },
    'longer': {'trunk': {'kernel': P('fsdp', None)}},
    'other': {'xtrunk': {'kernel': split}, 'kernel': split},
  }
  assert got.memory == got.opt_state[0] == expected
  assert got.params == expected['deep']['all'] and got.step == P()


def test_a_parameter_goes_by_its_own_group(monkeypatch):
  """And not by another one's, whose path from inside its module is the same end and whose shape is the same."""
  monkeypatch.setattr(fsdp, 'MIN_SHARDED_SIZE', 1)
  params = {'encoder': {'blocks': leaf(16, 8)}, 'head': {'sub': {'blocks': leaf(16, 8)}}}
  groups = {'encoder': {'blocks': net.Group(stacked=True)}, 'head': {'sub': {'blocks': net.Group()}}}
  got = specs(TrainState(leaf(), params, {}, {'mu': params}), groups)
  for t in (got.params, got.opt_state['mu']):
    assert t == {'encoder': {'blocks': P(None, 'fsdp')}, 'head': {'sub': {'blocks': P('fsdp', None)}}}
