"""Plans: costs read from a program, names of topologies, what fits and what would; the compiler for TPUs where there is one."""

import dataclasses
import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from run.trainer import TINY, run
from sslax.run.topology import CHIPS, parse

from sslax.errors import UserError
from sslax.run import cost, planning, sharding
from sslax.spec import _module_of_file

GIB = 2**30


def struct(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def flops(function, *arguments):
  return cost.flops(jax.make_jaxpr(function)(*arguments))


def test_flops_of_products():
  x, w = struct(6, 8), struct(8, 8)
  product = 2 * 6 * 8 * 8
  assert flops(lambda x, w: x @ w, x, w) == product
  assert flops(lambda x, w: jnp.einsum('bij,bjk->bik', x, w), struct(5, 2, 3), struct(5, 3, 4)) == 2 * 5 * 2 * 3 * 4
  assert flops(jax.grad(lambda w, x: jnp.sum((x @ w) ** 2)), w, x) == 2 * product  # forward, and the gradient of w alone
  chain = lambda w, x: jnp.sum(jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=7)[0])
  assert flops(chain, w, x) == 7 * product
  assert flops(jax.grad(chain), w, x) == 7 * 3 * product
  deep = lambda w, x: jnp.sum(jnp.tanh(jnp.tanh(x @ w) @ w) ** 2)
  assert flops(jax.grad(deep), w, x) == 5 * product
  assert flops(jax.value_and_grad(jax.checkpoint(deep)), w, x) == (2 + 5) * product  # both forward products again
  assert flops(lambda w, x: (x @ w, jnp.sum(x))[1], w, x) == 0  # nobody asks for it
  branches = lambda x, w: jax.lax.cond(x.sum() > 0, lambda: x @ w @ w, lambda: x @ w)
  assert flops(branches, x, w) == 2 * product


def test_flops_of_convolutions():
  """A stride halves the work of all three: forward, the gradient of the kernel and that of the image."""

  def convolve(k, x, stride):
    return jnp.sum(jax.lax.conv_general_dilated(x, k, (stride, stride), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')) ** 2)

  k, x = struct(3, 3, 4, 16), struct(2, 8, 8, 4)
  forward = 2 * (2 * 4 * 4 * 16) * 3 * 3 * 4
  assert flops(lambda k, x: convolve(k, x, 2), k, x) == forward
  assert flops(jax.grad(lambda k, x: convolve(k, x, 2)), k, x) == 2 * forward
  assert flops(jax.grad(lambda k, x: convolve(k, x, 2), (0, 1)), k, x) == 3 * forward


def test_flops_are_those_of_xla_where_nothing_loops():
  def network(w, x):
    return jnp.sum(jnp.tanh(x @ w) @ w)

  w, x = struct(256, 256), struct(64, 256)
  xla = jax.jit(jax.grad(network)).lower(w, x).cost_analysis()['flops']
  assert flops(jax.grad(network), w, x) == pytest.approx(xla, rel=0.01)  # XLA counts tanh, too


def test_collectives_in_a_loop_count_as_often_as_they_run():
  mesh = sharding.make_mesh()

  def body(x, _):
    y = jax.lax.all_gather(x, ('data', 'fsdp'), tiled=True)
    return jax.lax.psum_scatter(jnp.tanh(y), ('data', 'fsdp'), tiled=True), None

  def function(x):
    inside = jax.shard_map(
      lambda x: jax.lax.scan(body, x, None, length=5)[0], mesh=mesh, in_specs=P(('data', 'fsdp')), out_specs=P(('data', 'fsdp'))
    )
    return jnp.sum(inside(x))

  x = jax.ShapeDtypeStruct((1024,), jnp.float32, sharding=NamedSharding(mesh, P(('data', 'fsdp'))))
  found = cost.collectives(jax.jit(function).lower(x).compile().as_text())
  assert found['all-gather'] == (5, 5 * 1024 * 4)
  assert found['reduce-scatter'] == (5, 5 * 1024 * 4 // 8)
  assert found['all-reduce'] == (1, 4)


def test_collectives_of_a_tpu():
  """libtpu's text: no trip count, layouts with tiles, collectives started here and done there."""
  hlo = """HloModule jit_step, is_scheduled=true

%cond.1 (arg: (s32[], bf16[8])) -> pred[] {
  %constant.7 = s32[]{:T(128)} constant(12)
  %arg = (s32[]{:T(128)}, bf16[8]{0}) parameter(0)
  ROOT %lt = pred[]{:T(512)} compare(%get-tuple-element.1, %constant.7), direction=LT
}

%body.1 (arg.1: (s32[], bf16[8])) -> (s32[], bf16[8]) {
  %ag = (bf16[2,4]{1,0:T(8,128)(2,1)}, bf16[16,4]{1,0:T(8,128)(2,1)}) all-gather-start(%x), channel_id=1, dimensions={0}
  %agd = bf16[16,4]{1,0:T(8,128)(2,1)} all-gather-done(%ag), metadata={op_name="jit(step)/all_gather"}
  ROOT %t = (s32[]{:T(128)}, bf16[8]{0}) tuple(%a, %b)
}

%fused (p: f32[4]) -> f32[4] {
  ROOT %p2p = f32[4]{0:T(128)} collective-permute(%p), channel_id=5
}

ENTRY %main_spmd (p0: f32[4]) -> f32[4] {
  %w = (s32[]{:T(128)}, bf16[8]{0}) while(%tuple.1), condition=%cond.1, body=%body.1, metadata={op_name="jit(step)/while"}
  %ar = (f32[1,512]{1,0:T(1,128)}, f32[]{:T(128)}, /*index=2*/bf16[4]{0}) all-reduce(%a, %b, %c), channel_id=2, to_apply=%add.1
  ROOT %f = f32[4]{0:T(128)} fusion(%ar), kind=kCustom, calls=%fused
}
"""
  assert cost.collectives(hlo) == {
    'all-gather': (12, 12 * 16 * 4 * 2),
    'all-reduce': (1, 512 * 4 + 4 + 4 * 2),
    'collective-permute': (1, 4 * 4),
  }


def test_names_of_topologies():
  assert parse('local') is None
  two = parse('2*v5e:4x4')
  assert (two.chip, two.shape, two.slices, two.chips) == ('v5e', (4, 4), 2, 32)
  assert two.libtpu == dict(topology_name='v5e:4x4', num_slices=2)
  assert parse('v6e:1x1').libtpu['chips_per_host_bounds'] == (1, 1, 1)  # Colab
  assert parse('v5p:2x2x2').chips == 8 and 'chips_per_host_bounds' not in parse('v5p:2x2x2').libtpu
  assert parse('v4:2x2x1').libtpu['chip_config_name'] == 'megacore'
  assert all(0 < chip.peak < 1e16 and chip.hbm >= 16 for chip in CHIPS.values())


@pytest.mark.parametrize(
  'name, hint', [('v5f:4x4', 'v5e:4x4'), ('v5e-4x4', 'v5e:4x4'), ('v5e:4x4x4', '2 dimensions'), ('v5p:2x2', 'v5p:2x2x'),
                 ('locale', 'local'), ('0*v5e:4x4', 'v5e:4x4'), ('v5e:0x4', 'v5e:'), ('', 'v5e'), ('2*v6f:4x4', 'v6e:4x4')],
)  # fmt: skip
def test_a_misspelt_topology_is_refused_with_what_is_near(name, hint):
  with pytest.raises(ValueError, match='topology|slice') as error:
    parse(name)
  assert hint in str(error.value), error.value


def test_a_misspelt_topology_does_not_wait_for_jax():
  code, output = run('plan', f'--config={TINY}', '--topology=v5e:4x4,v5x:4x4')
  assert code == 2 and 'v5e:4x4' in output and 'Traceback' not in output, output
  code, output = run('plan', '--topology=local,v5e:4x4', f'--config={TINY}')
  assert code == 2 and 'local' in output, output


def test_without_the_compiler_for_tpus(monkeypatch):
  from jax.experimental import topologies

  def missing(*_, **__):
    raise RuntimeError('JAX TPU support not installed; cannot generate TPU topology.')

  monkeypatch.setattr(topologies, 'get_topology_desc', missing)
  for name in ('TPU_SKIP_MDS_QUERY', 'TPU_ACCELERATOR_TYPE', 'TPU_WORKER_HOSTNAMES', 'ALLOW_MULTIPLE_LIBTPU_LOAD'):
    monkeypatch.setenv(name, 'kept')
  with pytest.raises(UserError, match=r'pip install "jax\[tpu\]==' + jax.__version__):
    planning.target(parse('v5e:4x4'))


@pytest.mark.parametrize(
  'message, numbers',
  [
    (
      'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (36.09G) exceeds '
      'available HBM (15.75G).',
      (36.09 * GIB, 15.75 * GIB),
    ),
    ('... the total memory required for HLO temporaries (8.00T) exceeds available HBM (512.00M).', (8 * 1024 * GIB, GIB / 2)),
    (
      'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 18.30G of 15.75G hbm. Exceeded hbm capacity by 2.55G.',
      (18.3 * GIB, 15.75 * GIB),
    ),
    ('INTERNAL: Mosaic failed to compile', None),
  ],
)
def test_running_out_of_memory_is_numbers(message, numbers):
  assert planning.out_of_memory(message) == (numbers and tuple(round(n) for n in numbers))


@pytest.fixture(scope='module')
def config():
  return _module_of_file(str(TINY)).get_config()


@pytest.fixture(scope='module')
def here(config):
  """The tiny step on the eight devices, compiled once."""
  return planning.plan(config, planning.target(None, hbm=GIB), num_examples=1000)


def test_a_plan(here, config):
  parameters = here.state['parameters']
  assert (here.chips, here.batch_size, here.mesh, here.fits) == (8, 32, {'data': 8, 'fsdp': 1}, True)
  assert here.state['optimizer'] >= parameters  # momentum
  assert here.state['input'] == 32 // 8 * (8 * 8 * 3 + 4 + 4)  # uint8 pixels, index and label
  assert here.needed == sum(here.state.values()) + here.temporaries and here.temporaries > 0
  count, size = here.collectives['all-reduce']
  assert count >= 1 and size > parameters  # gradients, and the statistics of BatchNorm
  assert here.flops > 3 * 32 * 2e5
  halved = dataclasses.replace(here, changes={'microbatches': 2})
  assert here.batch_norm and 'BatchNorm' in planning.report(halved)
  assert 'BatchNorm' not in planning.report(dataclasses.replace(halved, batch_norm=False)) + planning.report(here)
  text = planning.report(here)
  for word in ('8 devices', 'parameters', 'optimizer', 'temporaries', 'fits', 'GFLOP an image', 'all-reduce', 'compiled in'):
    assert word in text, text
  assert planning.row(here).count('|') == planning.HEADER.splitlines()[0].count('|')
  json.dumps(dataclasses.asdict(here))


def test_a_plan_that_cannot_be(config):
  where = planning.target(None)
  with pytest.raises(UserError, match='batch_size=12'):
    planning.plan(config, where, 1000, {'batch_size': 12})
  with pytest.raises(UserError, match='fsdp=3'):
    planning.plan(config, where, 1000, {'mesh.fsdp': 3})


def model(config, here, *, per_row, shrinks=('microbatches', 'remat', 'mesh.fsdp'), bend=0.0):
  """A compiler that needs a line of memory, straight or bent, in the rows of a device; with the list of what it was asked."""
  asked = []

  def compile_with(changes):
    asked.append(changes)
    now = planning.changed(config, {k: v for k, v in changes.items() if 'remat' not in k})
    state, rows = 0.5 * GIB, now.batch_size // 8
    if 'mesh.fsdp' in shrinks:
      state /= now.mesh.fsdp
    if 'microbatches' in shrinks:
      rows = rows / now.microbatches
    if 'remat' in shrinks and any('remat' in key for key in changes):
      rows = rows / 4
    needed = int(state + per_row * rows + bend * rows**2)
    return dataclasses.replace(here, changes=changes, batch_size=now.batch_size, needed=needed, fits=needed <= here.hbm)

  return compile_with, asked


@pytest.fixture(scope='module')
def large(config, here):
  config = planning.changed(config, {'batch_size': 8 * 64})
  with config.unlocked():
    config.method.encoder.remat = 'none'
  return config, dataclasses.replace(here, state={'parameters': GIB // 2, 'input': 0})


@pytest.mark.parametrize(
  'per_row, shrinks, changes',
  [
    (GIB // 32, ('microbatches', 'remat', 'mesh.fsdp'), {'microbatches': 4}),
    (GIB // 64, ('microbatches', 'remat', 'mesh.fsdp'), {'microbatches': 2}),
    (GIB // 64, ('remat',), {'method.encoder.remat': 'full'}),
    (GIB // 96, ('mesh.fsdp',), {'mesh.fsdp': 8, 'mesh.data': -1}),
    (GIB // 36, ('remat', 'mesh.fsdp'), {'method.encoder.remat': 'full'}),
    (GIB // 20, ('remat', 'mesh.fsdp'), {'method.encoder.remat': 'full', 'mesh.fsdp': 8, 'mesh.data': -1}),
    (GIB, ('remat', 'mesh.fsdp'), None),
  ],
)
def test_the_advice_is_the_first_that_fits(large, per_row, shrinks, changes):
  config, here = large
  compile_with, asked = model(config, here, per_row=per_row, shrinks=shrinks)
  first = compile_with({})
  assert not first.fits
  found = planning.advise(first, compile_with, config)
  assert (found and found.changes) == changes, asked
  assert len(asked) <= 10
  assert not found or compile_with(found.changes).fits


@pytest.mark.parametrize(
  'per_row, start, bend',
  [(GIB // 32, 64, 0), (GIB // 1000, 1, 0), (GIB // 3, 512, 0), (GIB // 4000, 16, GIB // 4000), (GIB // 2000, 4, -10)],
)
def test_the_largest_batch(large, per_row, start, bend):
  config, here = large
  config = planning.changed(config, {'batch_size': 8 * start})
  compile_with, asked = model(config, here, per_row=per_row, bend=bend)
  found = planning.largest_batch(compile_with({}), compile_with, config)
  best = max(rows for rows in range(10_000) if GIB // 2 + per_row * rows + bend * rows**2 <= GIB)
  assert best - max(1, best // 16) <= found.batch_size // 8 <= best, (found.batch_size, best)
  assert len(asked) <= 8, asked


def test_no_batch_fits(large):
  config, here = large
  compile_with, _ = model(config, here, per_row=GIB)
  assert planning.largest_batch(compile_with({}), compile_with, config) is None
  with pytest.raises(UserError, match='--hbm'):
    planning.largest_batch(dataclasses.replace(here, hbm=None), compile_with, config)


def test_the_binary_plans_for_this_machine(tmp_path):
  """As in the documentation: what does not fit is a result, with numbers."""
  out = tmp_path / 'plans.json'
  code, output = run('plan', f'--config={TINY}', '--noadvise', '--hbm=0.001', f'--json={out}', devices=2)
  assert code == 0 and 'DOES NOT FIT' in output and 'data 2 x fsdp 1' in output, output
  (plan,) = json.loads(out.read_text())
  assert plan['needed'] > plan['hbm'] == round(0.001 * GIB) and plan['chips'] == 2 and plan['topology'] == 'local'


libtpu = pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason="needs pip install 'jax[tpu]'")


@pytest.mark.slow
@libtpu
@pytest.mark.parametrize('topology, devices', [('v6e:1x1', 1), ('2*v5e:2x2', 8), ('v4:2x2x1', 4), ('tpu7x:2x2x1', 8)])
def test_a_slice_that_is_not_here(tmp_path, topology, devices):
  out = tmp_path / 'plans.json'
  code, output = run('plan', f'--config={TINY}', f'--topology={topology}', f'--json={out}', timeout=900)
  assert code == 0 and 'fits' in output and 'E0000' not in output, output
  (plan,) = json.loads(out.read_text())
  assert plan['mesh']['data'] == devices and plan['images_per_second'] > 0
  assert devices == 1 or plan['collectives']['all-reduce'][0] > 0


@pytest.mark.slow
@libtpu
def test_a_slice_that_is_too_small_gets_advice_that_works(tmp_path):
  """A batch that needs more than 15.75 GiB, and what the compiler accepts instead."""
  out = tmp_path / 'plans.json'
  sizes = ('--config.batch_size=16384', '--config.data.image_size=64', '--config.method.augment.size=64')
  code, output = run('plan', f'--config={TINY}', '--topology=v5e:1x1', *sizes, f'--json={out}', timeout=900)
  assert code == 0 and 'DOES NOT FIT' in output and 'sslax.train' in output and '--config.microbatches=' in output, output
  first, found = json.loads(out.read_text())
  assert not first['fits'] and first['needed'] > first['hbm'] == int(15.75 * GIB) > found['needed'] and found['fits']
