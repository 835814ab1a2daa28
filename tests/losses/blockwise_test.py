"""Losses in blocks: the values and gradients of the plain forms, on one device and on eight, in a fraction of the memory."""

import dataclasses
import functools
import math
import re

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from losses import corners

from sslax.losses import blockwise, contrastive, image_text
from sslax.method import Method, Output
from sslax.ops.normalize import l2_normalize
from sslax.step import init_state, jit_step

LABEL = np.random.default_rng(2).integers(0, 20, 512)  # some of 48 rows have no positive
QUEUE = np.float32(corners.unit(corners.pairs(50, seed=1)[0]))

# [N, D] twice and two learnt scalars, so that all look the same.
LOSSES = {
  'nt_xent': lambda a, b, t, _, block: contrastive.nt_xent(a, b, t, block),
  'info_nce': lambda a, b, t, _, block: contrastive.info_nce(a, b, t, block),
  'queue': lambda a, b, t, _, block: contrastive.info_nce_queue(a, b, QUEUE, t, block),
  'supcon_out': lambda a, b, t, _, block: contrastive.supcon(a + b, LABEL[: len(a)], t, 'out', block),
  'supcon_in': lambda a, b, t, _, block: contrastive.supcon(a + b, LABEL[: len(a)], t, 'in', block),
  'clip': lambda a, b, t, _, block: image_text.clip(l2_normalize(a), l2_normalize(b), 1 / t, block),
  'siglip': lambda a, b, t, bias, block: image_text.siglip(l2_normalize(a), l2_normalize(b), 1 / t, bias, block),
}


def inputs(rows):
  # Not related: the slope of the temperature would be a small difference of large terms, and as inexact in the plain form.
  return corners.pairs(rows)[0], corners.pairs(rows, seed=1)[0], np.float32(0.1), np.float32(-3)


@functools.cache
def compiled(name, block):
  return jax.jit(jax.value_and_grad(functools.partial(LOSSES[name], block=block), (0, 1, 2, 3)))


def same(ours, plain, tolerance=1e-6):
  """(value, gradients) within `tolerance`, relative to the norm of each."""
  np.testing.assert_allclose(ours[0], plain[0], rtol=tolerance)
  for a, b in zip(ours[1], plain[1], strict=True):
    assert np.linalg.norm(np.asarray(a) - np.asarray(b)) <= tolerance * np.linalg.norm(b)


def on_mesh(shape, f, *arrays):
  """`f` compiled for a mesh with the rows of all matrices over all devices -> (its result, the program's text)."""
  mesh = jax.make_mesh(shape, ('data', 'fsdp'), axis_types=(AxisType.Auto,) * 2)
  rows, whole = NamedSharding(mesh, P(('data', 'fsdp'))), NamedSharding(mesh, P())
  place = lambda x: jax.device_put(x, rows if np.ndim(x) == 2 and len(x) % mesh.size == 0 else whole)
  with jax.set_mesh(mesh):
    program = jax.jit(f).lower(*map(place, arrays)).compile()
    return program(*map(place, arrays)), program.as_text()


@pytest.mark.parametrize('name', LOSSES)
def test_value_and_gradients_of_the_plain_form(name):
  arrays = inputs(48)  # blocks of 14: the last one is padded
  same(compiled(name, 14)(*arrays), compiled(name, 0)(*arrays))


@pytest.mark.slow
@pytest.mark.parametrize('rows', [64, 9, 2])
@pytest.mark.parametrize('name', LOSSES)
def test_rows_that_fill_the_blocks_or_less_than_one(name, rows):
  arrays = inputs(rows)
  ours, plain = compiled(name, 16)(*arrays), compiled(name, 0)(*arrays)
  if rows == 2 and name.startswith('supcon'):
    assert ours[0] == plain[0] == 0 and not any(np.asarray(g).any() for g in ours[1])  # two classes: no positives
  else:
    same(ours, plain, 3e-6 if rows == 2 else 1e-6)


@pytest.mark.parametrize(
  'name, shape, ring',
  [('nt_xent', (2, 4), False), ('nt_xent', (8, 1), True), ('siglip', (2, 4), True)]
  + [
    pytest.param(name, shape, ring, marks=pytest.mark.slow)
    for name in LOSSES
    for shape in ((8, 1), (2, 4))
    for ring in (False, True)
  ],
)
def test_eight_devices_are_one(monkeypatch, name, shape, ring):
  monkeypatch.setattr(blockwise, 'RING_ROWS', 0 if ring else 10**9)
  arrays = inputs(48)
  f = jax.value_and_grad(lambda *x: LOSSES[name](*x, block=5), (0, 1, 2, 3))
  result, text = on_mesh(shape, f, *arrays)
  same(result, compiled(name, 0)(*arrays))
  moves = set(re.findall(r' (all-gather|all-to-all|collective-permute)(?:-start)?\(', text))
  if name.startswith('supcon'):
    moves -= {'all-gather'}  # of the labels, for the number of positives
  expected = set() if name == 'queue' else {'collective-permute'} if ring or name == 'siglip' else {'all-gather'}
  assert moves - expected == set() and (moves == expected or name.startswith('supcon'))


def test_rows_that_do_not_divide_by_the_devices():
  both = lambda block: lambda *x: LOSSES['info_nce'](*x, block=block) + LOSSES['queue'](*x, block=block)
  f = lambda block: jax.value_and_grad(both(block), (0, 1, 2, 3))
  result, _ = on_mesh((8, 1), f(4), *inputs(9))
  same(result, jax.jit(f(0))(*inputs(9)))


@pytest.mark.parametrize('ring', [False, True])
def test_the_nearest_row_is_that_of_argmax(monkeypatch, ring):
  monkeypatch.setattr(blockwise, 'RING_ROWS', 0 if ring else 10**9)
  q, k = np.random.default_rng(0).integers(-1, 2, (2, 64, 3)).astype(np.float32)  # many equal products: the first counts
  both = lambda q, k: (blockwise.nearest(q, k, block=5), blockwise.nearest(q, q, block=5, keep=blockwise.others))
  expected = (q @ k.T).argmax(1), (q @ q.T - 99 * np.eye(64)).argmax(1)
  for found in (jax.jit(both)(q, k), on_mesh((2, 4), both, q, k)[0]):
    np.testing.assert_array_equal(found, expected)


def test_accuracies_of_the_plain_form():
  a, b = corners.pairs(45)
  f = lambda block: (
    lambda a, b: (
      contrastive.contrastive_accuracy(a, b, block),
      *image_text.matching_accuracy(a, a + 3 * b, block).values(),
    )
  )
  ours, plain = jax.jit(f(16))(a, b), jax.jit(f(0))(a, b)
  assert ours == plain and all(0 < x < 1 for x in plain)
  assert not jax.jit(jax.grad(contrastive.contrastive_accuracy), static_argnums=2)(a, b, 16).any()


def test_learnt_pairs_keep_their_digits():
  """Where rows find their pairs, lse and positive are large and nearly equal: they must not be rounded one by one."""
  a = corners.pairs(48)[0]
  logits = (corners.unit(np.float64(a)) @ corners.unit(np.float64(a)).T) / np.float64(np.float32(0.03))
  exact = -np.diag(corners.log_softmax(logits)).mean()
  loss, _ = compiled('info_nce', 14)(a, a, np.float32(0.03), np.float32(0))
  assert 1e-5 < exact < 1e-4 and abs(loss - exact) < 4e-8


@pytest.mark.slow
@pytest.mark.parametrize('case', corners.CASES)
def test_finite_at_the_edges(case):
  def all_of_them(a, b, t):
    return sum(loss(a, b, t, -3.0, 3) for name, loss in LOSSES.items())

  for temperature in (0.01, 0.5):
    corners.finite(all_of_them, *corners.awkward(case), np.float32(temperature))


def test_large_batches_are_chosen_by_size_and_hold_no_square():
  """Rows x rows numbers, whatever their shape, are nowhere in the compiled gradient; nor is the memory for a part of them."""
  shape, scalar = jax.ShapeDtypeStruct((4096, 8), np.float32), jax.ShapeDtypeStruct((), np.float32)

  def sizes_and_bytes(block):
    f = lambda a, b, t: contrastive.nt_xent(a, b, t, block) + contrastive.contrastive_accuracy(a, b, block)
    program = jax.jit(jax.grad(f, (0, 1, 2))).lower(shape, shape, scalar).compile()
    shapes = re.findall(r'(?:f32|s32|pred)\[([\d,]+)\]', program.as_text())
    return max(math.prod(map(int, s.split(','))) for s in shapes), program.memory_analysis().temp_size_in_bytes

  (plain, plain_bytes), (ours, our_bytes) = sizes_and_bytes(0), sizes_and_bytes(None)
  assert plain == 8192**2 and plain_bytes >= 4 * 8192**2
  assert ours == blockwise.BLOCK**2 and our_bytes < plain_bytes / 8


def test_what_block_means():
  assert blockwise.block_size(None, 4096, 4096) == 0 and blockwise.block_size(None, 4096, 4097) == blockwise.BLOCK
  assert blockwise.block_size(0, 10**6, 10**6) == 0 and blockwise.block_size(7, 2, 2) == 7
  with pytest.raises(ValueError, match='not -1'):
    contrastive.nt_xent(*corners.pairs(), 0.1, -1)


@dataclasses.dataclass(frozen=True)
class Linear(Method):
  """The least method whose batch is coupled."""

  def init(self, rng, views):
    return {'encoder': jax.random.normal(rng, (16, 4))}, {}

  def loss(self, params, memory, views, rng, step):
    a, b = views['pair'][:, 0] @ params['encoder'], views['pair'][:, 1] @ params['encoder']
    return contrastive.nt_xent(a, b, 0.5, block=3), Output(memory, {})

  def features(self, params, memory, batch):
    return {}


@pytest.mark.slow
def test_the_step_has_its_mesh_in_context():
  batch, states, programs = {'pair': np.stack(corners.pairs(32), 1)}, [], []
  for devices in (1, 8):
    shape = (2, 4) if devices == 8 else (1, 1)
    mesh = jax.make_mesh(shape, ('data', 'fsdp'), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:devices])
    rows, whole = NamedSharding(mesh, P(('data', 'fsdp'))), NamedSharding(mesh, P())
    state = jax.jit(functools.partial(init_state, Linear(), optax.sgd(0.1), 0), out_shardings=whole)(batch)
    step = jit_step(Linear(), optax.sgd(0.1), 0, whole, rows)
    placed = jax.device_put(batch, rows)
    programs.append(step.trace(state, placed).jaxpr)
    state, metrics = step(state, placed)
    states.append((metrics['loss'], [state.params['encoder']]))
  assert 'shard_map' not in str(programs[0]) and 'shard_map' in str(programs[1])
  same(states[1], states[0])
