"""Split weights: the rule, what the compiled step does with them, the same numbers on any mesh; the order of devices."""

import collections
import contextlib
import functools
import re
import types

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from methods import tiny
from methods.battery import Trainer, tiny_batch
from methods.clip_test import captions, text, tiny_clip
from methods.dino_test import tiny_dino
from methods.mae_test import tiny_mae

from sslax.errors import UserError
from sslax.models import net
from sslax.models.decoder import Decoder
from sslax.models.resnet import ResNet
from sslax.ops import fsdp
from sslax.run import sharding
from sslax.run.checkpoint import Checkpointer
from sslax.run.config import base_config
from sslax.step import init_state


@pytest.fixture
def split_all(monkeypatch):
  """As if the tiny networks were large."""
  monkeypatch.setattr(fsdp, 'MIN_SHARDED_SIZE', 64)


def scanned_mae(scan=True, remat='none', **changes):
  """Encoder and decoder have no shape in common, and nothing else comes in threes."""
  fields = dict(depth=3, heads=2, patch=4, scan=scan, remat=remat)
  return tiny_mae(encoder=tiny.vit(width=16, **fields), decoder=Decoder(width=32, **fields), **changes)


def scanned_clip(**changes):
  fields = dict(scan=True, remat='full')
  vit = tiny.vit(depth=2, pre_norm=True, patch_bias=False, weight_init='clip', activation='quick_gelu', **fields)
  return tiny_clip(encoder=vit, text=text(depth=2, vocab_size=259, **fields), **changes)


def scanned_dino(**changes):
  return tiny_dino(encoder=tiny.vit(depth=2, drop_path=0.1, scan=True), **changes)


def batch_of(method):
  batch = {**tiny_batch(), 'text': captions()}
  return {key: batch[key] for key in ('index', 'label', *method.inputs())}


@pytest.mark.parametrize(
  'shape, spec',
  [
    ((1024, 4096), P(None, 'fsdp')),
    ((4096, 1024), P('fsdp', None)),
    ((7, 7, 512, 33), P(None, None, 'fsdp', None)),
    ((4100, 1024), P(None, 'fsdp')),  # 8 does not divide the largest
    ((127, 129), P()),
    ((16384,), P('fsdp')),
    ((8, 512), P()),  # small
    ((), P()),
  ],
)
def test_the_largest_dimension_that_divides_is_split(shape, spec):
  assert fsdp.split(shape, 8) == spec and fsdp.split(shape, 1) == P()


def test_one_rule_for_the_whole_state():
  """Moments and targets are where their parameters are; of scanned blocks no device has whole layers."""
  encoder = tiny.vit(width=128, depth=8, scan=True)
  method, mesh = tiny_dino(encoder=encoder), sharding.make_mesh(1, 8)
  state = jax.eval_shape(functools.partial(init_state, method, optax.adam(1.0), 0), batch_of(method))
  where = sharding.state_sharding(mesh, state, net.groups(method.modules, state.params))
  adam = where.opt_state[0]
  for params in (where.params, adam.mu, adam.nu, {'encoder': where.memory['target']['encoder']}):
    blocks = params['encoder']['blocks']
    assert blocks['qkv']['kernel'].spec == P(None, None, 'fsdp') and blocks['fc2']['kernel'].spec == P(None, 'fsdp', None)
    assert blocks['qkv']['bias'].spec == P(None)
    assert params['encoder']['patches']['projection']['kernel'].spec == P(None, None, None, 'fsdp')
  assert where.step.spec == adam.count.spec == P()


def collectives(text):
  """{'all-gather': {shape: how often}, ...} of a compiled program."""
  found = collections.defaultdict(collections.Counter)
  for shape, kind in re.findall(r'= \(?(\S+?)\{?[\d,]*\}? (all-\w+|reduce-scatter|collective-permute)\(', text):
    found[kind][shape.replace('[1,', '[')] += 1  # a slice of a stack
  return found


def compiled(method, data, parts):
  """The text of the step on data x parts devices."""
  trainer = Trainer(method, data * parts, fsdp=parts)
  state = jax.eval_shape(trainer.init, trainer.batch)
  return trainer.step.lower(sharding.with_sharding(state, trainer.state), trainer.batch).compile().as_text()


@pytest.mark.parametrize(
  'remat', ['none', pytest.param('full', marks=pytest.mark.slow), pytest.param('dots', marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_a_layer_gathers_its_weights_and_nobody_keeps_them(split_all, remat):
  """Twice, forward and backward; the stack [L, ...], of weights or of gradients, is whole nowhere; activations stay in place."""
  text = compiled(scanned_mae(remat=remat), 1, 8)
  found = collectives(text)
  assert not found['all-to-all'] and not found['collective-permute'], found
  for width in (16, 32):
    for shape in ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)):
      assert found['all-gather'][f'f32[{shape[0]},{shape[1]}]'] >= 2, (shape, found)
      assert f'f32[3,{shape[0]},{shape[1]}]' not in text, shape


@pytest.mark.slow
def test_a_loop_and_other_networks_gather_too(split_all):
  """Blocks without scan, and convolutions, which no layer of theirs gathers."""
  found = collectives(compiled(scanned_mae(scan=False, remat='full'), 1, 8))
  assert found['all-gather']['f32[16,48]'] >= 4 and not found['all-to-all'], found
  dino = tiny_dino(encoder=tiny.resnet(), augment=tiny.CROPS)
  assert isinstance(dino.encoder, ResNet)
  found = collectives(compiled(dino, 1, 8))
  assert found['all-gather']['f32[3,3,8,8]'] and not found['all-to-all'], found


def test_without_split_weights_nothing_is_added(split_all):
  """Without a mesh in context, and with one whose fsdp is 1, a network gathers nothing and recomputes nothing. With another, the
  weights travel in the type of the computation.
  """
  model, x = tiny.vit(scan=True, dtype='bfloat16'), np.zeros((8, 16, 16, 3), np.float32)
  params, _ = jax.eval_shape(lambda: net.init(model, jax.random.key(0), x))
  loss = lambda params: net.apply(model, params, {}, x, train=True)[0].pooled.sum()
  for mesh in (None, sharding.make_mesh(8, 1), sharding.make_mesh(1, 8)):
    with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
      program = str(jax.make_jaxpr(jax.grad(loss))(params))
    added = mesh is not None and mesh.shape['fsdp'] == 8
    assert ('sharding_constraint' in program) == ('remat' in program or 'checkpoint' in program) == added
    assert ("spec=P(None, 'fsdp')" in program) == added, 'the gradient is laid out as the weight'
    assert ('bf16[16,48] = sharding_constraint' in re.sub(r'\b[a-z]+:', '', program)) == added


def same(method, meshes, steps=4):
  """The largest deviations of loss (relative) and parameters (absolute) from one device."""
  batch, differ = batch_of(method), []
  one = Trainer(method, batch=batch)
  start = jax.tree.map(np.asarray, one.init(one.batch))
  state, history = one.run(steps, one.put(start))
  for data, parts in meshes:
    other = Trainer(method, data * parts, batch, fsdp=parts)
    theirs, metrics = other.run(steps, other.put(start))
    assert other.step._cache_size() == 1
    loss = max(abs(a['loss'] - b['loss']) / abs(a['loss']) for a, b in zip(history, metrics, strict=True))
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), state.params, theirs.params)
    differ.append((loss, max(jax.tree.leaves(moved))))
    print(f'{type(method).__name__} {data}x{parts}: loss {differ[-1][0]:.1e}, parameters {differ[-1][1]:.1e}')
  return np.array(differ)


@pytest.mark.slow
def test_split_over_eight_is_one_device(split_all):
  assert same(scanned_mae(), [(1, 8)]).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize('make', [
  functools.partial(scanned_mae, remat='full'), functools.partial(scanned_mae, scan=False, remat='dots'), scanned_clip,
  scanned_dino,
])  # fmt: skip
def test_every_mesh_is_one_device(split_all, make):
  assert same(make(), [(4, 2), (1, 8)]).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize('devices, parts', [(4, 2), (1, 1)])
def test_a_run_goes_on_on_another_mesh(split_all, tmp_path, devices, parts):
  """Saved split over eight devices, restored on four or one: the next losses are those of eight, to 1e-6."""
  method = scanned_mae()
  eight, other = Trainer(method, 8, fsdp=8), Trainer(method, devices, fsdp=parts)
  state, _ = eight.run(2)
  checkpointer = Checkpointer(tmp_path, every_steps=1, keep=1, meta={})
  checkpointer.save(2, state, wait=True)
  where = other.state if parts > 1 else jax.tree.map(lambda _: other.state, state)
  restored, step = checkpointer.restore(sharding.with_sharding(state, where))
  checkpointer.close()
  _, stayed = eight.run(2, state)
  last, moved = other.run(2, restored)
  assert step == 2 and int(last.step) == 4
  np.testing.assert_allclose([m['loss'] for m in moved], [m['loss'] for m in stayed], rtol=1e-6)


def v5e(slices=1, side=4):
  """The devices of slices of side x side TPU v5e chips, in no order, as far as their order asks for them."""
  chips = [
    types.SimpleNamespace(
      id=s * side**2 + y * side + x, platform='tpu', device_kind='TPU v5 lite', coords=(x, y, 0), core_on_chip=0, slice_index=s,
      process_index=s * side + y, client=None,
    )
    for s in range(slices) for y in range(side) for x in range(side)
  ]  # fmt: skip
  return [chips[i * 7 % len(chips)] for i in range(len(chips))]


def test_weights_are_split_inside_a_slice():
  """data crosses slices, slowest first; fsdp never does."""
  for data, parts in ((32, 1), (8, 4), (4, 8), (2, 16)):
    mesh = sharding.order(v5e(2), data, parts, 2)
    assert mesh.shape == (data, parts) and len({d.id for d in mesh.flat}) == 32
    slices = np.vectorize(lambda d: d.slice_index)(mesh)
    np.testing.assert_array_equal(slices, np.repeat([0, 1], data // 2)[:, None] * np.ones((1, parts), int))


def test_neighbours_in_the_mesh_are_neighbours_in_the_torus():
  """Four weights' parts on a row or a column of chips; a 2x8 mesh splits an axis of the 4x4 torus."""
  mesh = sharding.order(v5e(), 4, 4, 1)
  for row in mesh:
    assert min(len({d.coords[axis] for d in row}) for axis in (0, 1)) == 1
  assert sharding.order(v5e(), 2, 8, 1).shape == (2, 8)


def test_slices_can_be_rehearsed_and_are_checked():
  mesh = sharding.make_mesh(4, 2, 2)
  assert mesh.shape == {'data': 4, 'fsdp': 2} and [d.id for d in mesh.devices.flat] == list(range(8))
  assert base_config().mesh.slices == 1
  with pytest.raises(UserError, match='slices=3 does not divide data=8'):
    sharding.make_mesh(slices=3)
  with pytest.raises(UserError, match='slices=4 does not divide data=2.*inside a slice'):
    sharding.make_mesh(fsdp=4, slices=4)
  with pytest.raises(UserError, match='slices=1, and the 32 devices are in 2 slices: set it to 2'):
    sharding.make_mesh(devices=v5e(2))
  with pytest.raises(UserError, match='slices=2, and the 16 devices are in 1 slices'):
    sharding.make_mesh(slices=2, devices=v5e())
  with pytest.raises(UserError, match='fsdp=3 does not divide'):
    sharding.make_mesh(fsdp=3)
