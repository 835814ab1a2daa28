"""Features of a whole data set from any method, kept on disk where asked: the other evaluations are functions of them."""

import functools
from collections.abc import Iterable, Sized
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sslax.errors import UserError, suggest
from sslax.method import Method

PyTree = Any


def extract(
  method: Method,
  params: PyTree,
  memory: PyTree,
  batches: Iterable[dict[str, Any]],
  *,
  mesh: Mesh | None = None,
  key: str = 'pooled',
  progress: bool = False,
  total: int | None = None,
) -> dict[str, np.ndarray]:
  """`method.features` of every record, in the order of `batches`, compiled once.

  Args:
    params, memory: the method's state; replicated over `mesh`.
    batches: dicts of arrays: those of the inputs, label [B], index [B], mask [B] (False: padding or a bad record, dropped). mask
      may be missing (all True). All have the first one's B; shorter ones are padded here. With several processes each gives
      its own part of every batch, the same number of batches, and gets the whole result. The method sees neither label nor mask.
    mesh: with axes 'data' and 'fsdp', over which the rows are split; None: one device.
    key: which of the features, [B, ...], by its name in `Features.named`.
    progress: a bar on stderr (process 0).
    total: the number of batches, for the bar; `len(batches)` where that exists.

  Returns:
    {key: [N, ...] float32, 'label': [N] int32, 'index': [N] int32}.

  Raises:
    UserError: no records, a batch that is larger than the first or does not divide over the mesh, or no such key.
  """
  run = _compiled(method, key, mesh)
  if mesh is not None:
    params, memory = jax.device_put((params, memory), NamedSharding(mesh, P()))
  total = len(batches) if total is None and isinstance(batches, Sized) else total
  rows, parts, pending = None, [], None
  for batch in tqdm.tqdm(batches, 'features', total, unit='batch', disable=not progress or jax.process_index() > 0):
    batch = {'mask': np.ones(len(batch['label']), bool)} | {k: np.asarray(v) for k, v in batch.items()}
    rows = rows or len(batch['label'])
    batch = {k: _pad(v, rows) for k, v in batch.items()}
    if mesh is not None:
      batch = _put(batch, mesh)
    dispatched = run(params, memory, batch)
    if pending is not None:  # read the previous batch while the device works on this one
      parts.append(_kept(pending))
    pending = dispatched
  if pending is not None:
    parts.append(_kept(pending))
  if not sum(len(part[1]) for part in parts):
    raise UserError('features: the data gave no usable record: check the URI and the split.')
  return dict(zip((key, 'label', 'index'), (np.concatenate(column) for column in zip(*parts, strict=True)), strict=True))


@functools.lru_cache(maxsize=8)  # a method evaluated again during training is not compiled again
def _compiled(method, key, mesh):
  def run(params, memory, batch):
    out = method.features(params, memory, {k: v for k, v in batch.items() if k not in ('label', 'mask')})
    found = out.named()
    if key not in found:
      raise UserError(f'{type(method).__name__}.features has no {key!r}.{suggest(key, found)}')
    return jnp.float32(found[key]), jnp.int32(batch['label']), jnp.int32(batch['index']), batch['mask']

  return jax.jit(run, out_shardings=None if mesh is None else NamedSharding(mesh, P()))


def _put(batch, mesh):
  axes = tuple(axis for axis in ('data', 'fsdp') if axis in mesh.axis_names)
  ways, rows = int(np.prod([mesh.shape[axis] for axis in axes])), len(batch['label']) * jax.process_count()
  if rows % ways:
    raise UserError(f'features: a batch of {rows} does not divide over {ways} devices: take a multiple of {ways}.')
  sharding = NamedSharding(mesh, P(axes))
  return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def _pad(x, rows):
  if len(x) > rows:
    raise UserError(f'features: a batch of {len(x)} after batches of {rows}: all need one size, or each would compile again.')
  return np.concatenate([x, np.zeros((rows - len(x), *x.shape[1:]), x.dtype)]) if len(x) < rows else x  # mask: 0, not kept


def _kept(outputs):
  *columns, mask = (np.asarray(x) for x in outputs)
  return [column[mask] for column in columns]


@overload
def checked(x: Any, y: None = None, num_classes: int | None = None, name: str = 'features') -> tuple[np.ndarray, None]: ...
@overload
def checked(x: Any, y: Any, num_classes: int | None = None, name: str = 'features') -> tuple[np.ndarray, np.ndarray]: ...
def checked(
  x: Any, y: Any = None, num_classes: int | None = None, name: str = 'features'
) -> tuple[np.ndarray, np.ndarray | None]:
  """(x as float32 [N, D], y as int32 [N]), after what a probe would otherwise get silently wrong.

  Raises:
    UserError: no rows, wrong ranks or lengths, NaN or Inf, labels outside [0, num_classes).
  """
  x = np.asarray(x, np.float32)
  if x.ndim != 2 or not x.size:
    raise UserError(f'{name}: shape {x.shape}; needs [N, D] with at least one row.')
  if not np.isfinite(x).all():
    raise UserError(f'{name}: NaN or Inf in {int((~np.isfinite(x)).any(1).sum())} of {len(x)} rows: the checkpoint has diverged.')
  if y is None:
    return x, None
  y = np.asarray(y)
  if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer):
    raise UserError(f'{name}: labels of shape {y.shape}, {y.dtype}; needs one integer for each of {len(x)} rows.')
  if y.min() < 0 or (num_classes is not None and y.max() >= num_classes):
    raise UserError(f'{name}: labels run from {y.min()} to {y.max()}; needs 0 to {(num_classes or 1) - 1}.')
  return x, y.astype(np.int32)


def l2_normalize(x: np.ndarray) -> np.ndarray:
  """Rows of x [N, D] over their l2 norm; zeros stay zeros."""
  return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def blocks(x: np.ndarray, size: int, fill: float = 0) -> np.ndarray:
  """[N, ...] -> [ceil(N / size), size, ...], padded with `fill` at the end."""
  short = -len(x) % size
  x = np.concatenate([x, np.full((short, *x.shape[1:]), fill, x.dtype)]) if short else x
  return x.reshape(-1, size, *x.shape[1:])
