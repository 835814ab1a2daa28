"""Reductions over all pairs of N rows and M columns that never hold N x M numbers: tile by tile, on one device or over a mesh.

The contrastive losses call this for large batches. Forward, a tile of similarities is reduced into one number a row as soon as it
is made (Milakov & Gimelshein 2018, https://arxiv.org/abs/1805.02867; Rabe & Staats 2021, https://arxiv.org/abs/2112.05682); the
backward pass makes every tile again, so that only the embeddings and those numbers are kept.

The arrays are global. Under a mesh of several devices (`jax.set_mesh` around the tracing, or `sslax.step.jit_step`, which does
it), each device works on its own rows against all columns in a `shard_map` island over all axes of the mesh: it gathers the
embeddings, or, where even those are many, passes the columns around a ring. Rows that do not divide by the devices get no island:
the same tiles under `jit`, correct, but the partitioner decides who computes what.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from sslax.ops.normalize import inner

PyTree = Any
PLAIN_PAIRS = 4096**2  # up to so many pairs the plain form is used: 64 MiB of logits
BLOCK = 1024  # rows and columns of a tile
RING_ROWS = 2**20  # from so many columns on no device holds all of them


class Rows(NamedTuple):
  """One side of the pairs. Padding is -1 everywhere."""

  z: jax.Array  # [N, D] float32
  index: jax.Array  # type: ignore[assignment]  # [N] int32: the place in the global batch; hides tuple.index
  label: jax.Array | None = None  # [N] integer
  target: jax.Array | None = None  # [N] int32: the index of the column that belongs with the row
  norm: tuple[jax.Array, jax.Array] | None = None  # [N] float32 each, their sum is the lse: for the backward pass


Keep = Callable[[Rows, Rows], jax.Array]  # [n] rows, [m] columns -> [n, m] bool: 1 is a pair that counts


class _Plan(NamedTuple):
  block: int
  mesh: jax.sharding.AbstractMesh | None = None  # None: no island
  columns: str = 'here'  # how a device gets all columns: they are 'here', or it has its part: 'gather', 'ring'


def everyone(q: Rows, k: Rows) -> jax.Array:
  return (q.index >= 0)[:, None] & (k.index >= 0)[None]


def others(q: Rows, k: Rows) -> jax.Array:
  """Not a row with itself."""
  return everyone(q, k) & (q.index[:, None] != k.index[None])


def positives(q: Rows, k: Rows) -> jax.Array:
  """Other rows of the same label."""
  assert q.label is not None and k.label is not None, 'positives are told by labels: give log_sum_exp some'
  return others(q, k) & (q.label[:, None] == k.label[None])


def block_size(block: int | None, rows: int, columns: int) -> int:
  """What the losses' argument `block` means: None is chosen by size, 0 is the plain form.

  Raises:
    ValueError: block is negative.
  """
  if block is None:
    return BLOCK if rows * columns > PLAIN_PAIRS else 0
  if block < 0:
    raise ValueError(f'block must be None, 0 (plain) or a number of rows, not {block}')
  return block


def log_sum_exp(
  q: jax.Array,
  k: jax.Array,
  scale: float | jax.Array,
  *,
  block: int,
  keep: Keep = everyone,
  target: jax.Array | None = None,
  label: jax.Array | None = None,
  everywhere: bool = False,
) -> jax.Array:
  """log of the sum over kept columns j of exp(scale q_i.k_j), for each row i; with `target` less scale q_i.k_target.

  The latter is the cross-entropy. Taken off here, from the same tile, it is as exact as in a softmax over a whole row: where the
  pairs are learnt, the difference of the two is small.

  Args:
    q: [N, D].
    k: [M, D]; sharded like `q` over a mesh unless `everywhere`.
    scale: multiplies the inner products.
    block: rows and columns of a tile; N and M need not be multiples.
    keep: which pairs count: `everyone`, `others` or `positives`.
    target: [N] int32 columns, kept ones.
    label: [N] integer, for `positives`; rows and columns are then the same.
    everywhere: every device has the whole of `k` (a queue) and nothing is gathered.

  Returns:
    [N] float32; -1e30 where nothing is kept.
  """
  plan = _plan(block, len(q), len(k), everywhere)
  return _lse(keep, plan, jnp.float32(scale), _rows(q, label)._replace(target=target), _rows(k, label))


def sigmoid_sum(image: jax.Array, text: jax.Array, scale: float | jax.Array, bias: float | jax.Array, *, block: int) -> jax.Array:
  """-sum over all columns j of log sigmoid(y_ij (scale x_i.y_j + bias)), y = 1 for i = j, else -1, for each row i.

  Args:
    image: [N, D].
    text: [N, D].
    scale: multiplies the inner products.
    bias: is added to them.
    block: rows and columns of a tile.

  Returns:
    [N] float32.
  """
  plan = _plan(block, len(image), len(text), ring=True)
  return _sum(_sigmoid_term, plan, (jnp.float32(scale), jnp.float32(bias)), _rows(image), _rows(text))


def nearest(q: jax.Array, k: jax.Array, *, block: int, keep: Keep = everyone) -> jax.Array:
  """The kept column of largest inner product for each row; of equal ones the first. No gradient.

  Args:
    q: [N, D].
    k: [M, D].
    block: rows and columns of a tile.
    keep: which pairs count: `everyone` or `others`.

  Returns:
    [N] int32.
  """

  def update(state, _, q, k):
    best, place = state
    similarity = jnp.where(keep(q, k), inner(q.z, k.z), -jnp.inf)
    first = similarity.argmax(1)
    value, index = similarity.max(1), k.index[first]
    # A ring brings the columns in another order on each device: the smaller index wins, not the earlier.
    better = (value > best) | ((value == best) & (index < place))
    return jnp.where(better, value, best), jnp.where(better, index, place)

  start = jnp.float32(-jnp.inf), jnp.int32(jnp.iinfo(jnp.int32).max)
  q, k = lax.stop_gradient((q, k))
  return _fold(update, start, _plan(block, len(q), len(k)), (), _rows(q), _rows(k))[1]


def _plan(block, rows, columns, everywhere=False, ring=False):
  mesh = jax.sharding.get_abstract_mesh()
  auto = not mesh.empty and all(kind == jax.sharding.AxisType.Auto for kind in mesh.axis_types)
  if not auto or mesh.size == 1 or rows % mesh.size or (columns % mesh.size and not everywhere):
    return _Plan(block)
  return _Plan(block, mesh, 'here' if everywhere else 'ring' if ring or columns >= RING_ROWS else 'gather')


def _rows(z, label=None):
  return Rows(z.astype(jnp.float32), jnp.arange(len(z), dtype=jnp.int32), label)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _lse(keep, plan, scale, q, k):
  return _lse_forward(keep, plan, scale, q, k)[0]


def _lse_forward(keep, plan, scale, q, k):
  def update(state, scale, q, k):
    top, total, own = state
    logits = jnp.where(keep(q, k), scale * inner(q.z, k.z), -jnp.inf)
    new = jnp.maximum(top, logits.max(1))
    total = total * jnp.exp(top - new) + jnp.exp(logits - new[:, None]).sum(1)
    if q.target is not None:
      own += jnp.where(keep(q, k) & (q.target[:, None] == k.index[None]), logits, 0).sum(1)
    return new, total, own

  # -1e30 and not -inf: rows of which a tile keeps nothing would be exp(-inf + inf).
  start = jnp.float32(-1e30), jnp.float32(0), jnp.float32(0)
  top, total, own = _fold(update, start, plan, scale, q, k)
  rest = jnp.log(jnp.maximum(total, jnp.finfo(jnp.float32).tiny))
  return top - own + rest, (scale, q._replace(norm=(top, rest)), k)


def _lse_backward(keep, plan, residuals, g):
  def term(scale, q, k):
    """Its sum has the slope of the result: with the norm given, the exponentials sum to 1 and are the softmax."""
    logits, (top, rest) = scale * inner(q.z, k.z), q.norm
    p = jnp.exp(jnp.where(keep(q, k), logits - top[:, None] - rest[:, None], -jnp.inf))
    return p if q.target is None else p - jnp.where(keep(q, k) & (q.target[:, None] == k.index[None]), logits, 0)

  scale, q, k = residuals
  return _pull(term, plan, scale, q, k, g)


_lse.defvjp(_lse_forward, _lse_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sum(term, plan, shared, q, k):
  """[N] sums over the columns of term(shared, q, k), which is [n, m] for a tile."""
  return _fold(lambda total, *tile: total + term(*tile).sum(1), jnp.float32(0), plan, shared, q, k)


_sum.defvjp(lambda term, plan, *x: (_sum(term, plan, *x), x), lambda term, plan, x, g: _pull(term, plan, x[0], x[1], x[2], g))


def _sigmoid_term(shared, q, k):
  scale, bias = shared
  logits = scale * inner(q.z, k.z) + bias
  terms = -jax.nn.log_sigmoid(jnp.where(q.index[:, None] == k.index[None], logits, -logits))
  return jnp.where(everyone(q, k), terms, 0)


def _fold(update, start, plan, shared, q, k):
  """update(state, shared, q, k) -> state over all tiles; `start` has scalars, the state and the result have [N] for each."""

  def tiles(state, shared, q, k):
    columns = _split(k, plan.block)
    step = lambda rows: lax.scan(lambda state, k: (update(state, shared, rows[1], k), None), rows[0], columns)[0]
    return _join(lax.map(step, _split((state, q), plan.block)), len(q.z))

  def device(shared, q, k):
    shared, k = _varying(plan, shared), _all_columns(plan, k)
    state = _varying(plan, jax.tree.map(lambda x: jnp.full(len(q.z), x), start))
    if plan.columns != 'ring':
      return tiles(state, shared, q, k)
    hop = lambda carry, _: ((tiles(carry[0], shared, q, carry[1]), _pass_on(plan, carry[1])), None)
    return lax.scan(hop, (state, k), length=plan.mesh.size)[0][0]

  return _island(plan, device, 'sqk', 'q')(shared, q, k)


def _pull(term, plan, shared, q, k, g):
  """The cotangents of (shared, q, k) for those of the rows' sums of `term`, [N]: every tile is made again."""

  def tiles(dk, shared, q, k, g):  # adds to dk
    size, dk, columns = len(k.z), _split(dk, plan.block), _split(k, plan.block)
    numbers = jnp.arange(len(dk))

    def row_block(dk, rows):
      q, g = rows

      def tile(carry, column_block):
        j, k = column_block
        row_sums = lambda shared, q_z, k_z: term(shared, q._replace(z=q_z), k._replace(z=k_z)).sum(1)
        dshared, dq, dk_j = jax.vjp(row_sums, shared, q.z, k.z)[1](g)
        return (_add(carry[0], dshared), carry[1] + dq, carry[2].at[j].add(dk_j)), None

      zero = _varying(plan, jax.tree.map(jnp.zeros_like, (shared, q.z)))
      (dshared, dq, dk), _ = lax.scan(tile, (*zero, dk), (numbers, columns))
      return dk, (dshared, dq)

    dk, (dshared, dq) = lax.scan(row_block, dk, _split((q, g), plan.block))
    return jax.tree.map(lambda x: x.sum(0), dshared), _join(dq, len(q.z)), _join(dk, size)

  def device(shared, q, k, g):
    shared, k = _varying(plan, shared), _all_columns(plan, k)
    dk = _varying(plan, jnp.zeros_like(k.z))
    if plan.columns == 'ring':

      def hop(carry, _):
        dshared, dq, dk, k = carry
        more, dq_part, dk = tiles(dk, shared, q, k, g)
        return (_add(dshared, more), dq + dq_part, *_pass_on(plan, (dk, k))), None

      zero = _varying(plan, jax.tree.map(jnp.zeros_like, (shared, q.z)))
      (dshared, dq, dk, _), _ = lax.scan(hop, (*zero, dk, k), length=plan.mesh.size)  # the last hop brings dk home
    else:
      dshared, dq, dk = tiles(dk, shared, q, k, g)
    if plan.mesh is not None:
      axes = plan.mesh.axis_names
      dshared = lax.psum(dshared, axes)
      if plan.columns == 'gather':
        dk = lax.psum_scatter(dk, axes, tiled=True)
      elif plan.columns == 'here':
        dk = lax.psum(dk, axes)
    return dshared, dq, dk

  dshared, dq, dk = _island(plan, device, 'sqkq', 'sqk')(shared, q, k, g)
  none: Any = None  # a place has no cotangent
  return dshared, Rows(dq, none), Rows(dk, none)


def _island(plan, f, inputs, outputs):
  """`f` on each device's rows; s is a shared argument, q one of the rows, k of the columns."""
  if plan.mesh is None:
    return f
  rows = P(plan.mesh.axis_names)
  spec = {'s': P(), 'q': rows, 'k': P() if plan.columns == 'here' else rows}
  out_specs = tuple(spec[x] for x in outputs) if len(outputs) > 1 else spec[outputs]
  return jax.shard_map(f, mesh=plan.mesh, in_specs=tuple(spec[x] for x in inputs), out_specs=out_specs)


def _all_columns(plan, k):
  if plan.columns == 'gather':
    return lax.all_gather(k, plan.mesh.axis_names, tiled=True)
  return _varying(plan, k) if plan.columns == 'here' else k


def _pass_on(plan, x):
  n = plan.mesh.size
  return lax.ppermute(x, plan.mesh.axis_names, [(i, (i + 1) % n) for i in range(n)])


def _varying(plan, x):
  """The same on every device, and from here on counted as each device's own: what a loop's state must be."""
  if plan.mesh is None:
    return x
  axes = lambda a: tuple(name for name in plan.mesh.axis_names if name not in jax.typeof(a).manual_axis_type.varying)
  return jax.tree.map(lambda a: lax.pcast(a, axes(a), to='varying') if axes(a) else a, x)


def _split(x, block):
  """[N, ...] -> [ceil(N / block), block, ...], padded with -1."""

  def split(a):
    size = min(block, len(a))
    rest = -len(a) % size
    padded = jnp.pad(a, [(0, rest)] + [(0, 0)] * (a.ndim - 1), constant_values=-1) if rest else a
    return padded.reshape(-1, size, *a.shape[1:])

  return jax.tree.map(split, x)


def _join(x, n):
  return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:n], x)


def _add(a, b):
  return jax.tree.map(jnp.add, a, b)
