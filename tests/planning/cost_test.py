"""What a program costs, read from it: FLOPs and collectives."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sslax.planning import cost
from sslax.run import sharding


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
