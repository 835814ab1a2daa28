"""What the contrastive losses need, blockwise, around a ring, plain and optax's: python -m benchmarks.contrastive_memory --help

Value and gradient of NT-Xent (and of SigLIP, for as many pairs) on one and on eight devices: temporary bytes of the compiled
program on a device, for which no data is needed; where a form fits into `--run_gib` and has at most `--run_rows` rows, also the
seconds of a run and how far value and gradient are from the first form that ran at this size, plain if it did. Eight devices are
eight fakes on the same cores, which show memory and values, not speed, and run up to a quarter of the rows.
"""

import os
import time

os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sslax.losses import blockwise, contrastive, image_text

FLAGS = flags.FLAGS
_ROWS = flags.DEFINE_list('rows', ['4096', '16384', '65536', '262144', '1048576'], 'embeddings: two for each image of NT-Xent')
_WIDTH = flags.DEFINE_integer('width', 128, 'D')
_RUN_ROWS = flags.DEFINE_integer('run_rows', 65536, 'larger ones are compiled only')
_RUN_GIB = flags.DEFINE_float('run_gib', 4.0, 'forms that need more memory are compiled only')
DEVICES = (1, 8)
FIT_GIB = 80  # of the largest common accelerators


def optax_ntxent(a, b, temperature):
  z = jnp.stack([a, b], 1).reshape(-1, a.shape[1])
  return optax.losses.ntxent(z, jnp.arange(len(z)) // 2, temperature)


def nt_xent(block):
  return lambda a, b, t: contrastive.nt_xent(a, b, t, block)


def siglip(block):
  return lambda a, b, t: image_text.siglip(contrastive.unit(a), contrastive.unit(b), 1 / t, -10.0, block)


# loss: (arrays for so many rows, {form: (function, columns from which it takes the ring)})
NEVER = 10**12
LOSSES = {
  'NT-Xent': (
    lambda rows: rows // 2,
    {
      'plain': (nt_xent(0), NEVER),
      'optax': (optax_ntxent, NEVER),
      'blockwise': (nt_xent(blockwise.BLOCK), NEVER),
      'ring': (nt_xent(blockwise.BLOCK), 0),
    },
  ),
  'SigLIP': (lambda rows: rows, {'plain': (siglip(0), NEVER), 'ring': (siglip(blockwise.BLOCK), 0)}),
}


def compiled(f, ring_rows, pairs, devices):
  """(program of value and gradients, where its rows live, where its scalars)."""
  blockwise.RING_ROWS = ring_rows
  axes = dict(axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:devices])
  mesh = jax.make_mesh((devices, 1), ('data', 'fsdp'), **axes)
  rows, whole = NamedSharding(mesh, P(('data', 'fsdp'))), NamedSharding(mesh, P())
  matrix = jax.ShapeDtypeStruct((pairs, _WIDTH.value), np.float32, sharding=rows)
  scalar = jax.ShapeDtypeStruct((), np.float32, sharding=whole)
  with jax.set_mesh(mesh):
    step = jax.jit(jax.value_and_grad(f, (0, 1, 2)), out_shardings=(whole, (rows, rows, whole)))
    return step.lower(matrix, matrix, scalar).compile(), rows, whole


def run(program, rows, whole, pairs):
  """(seconds, loss, gradients) on rows of which the pairs are related."""
  rng = np.random.default_rng(0)
  a = rng.standard_normal((pairs, _WIDTH.value), np.float32)
  b = a + rng.standard_normal((pairs, _WIDTH.value), np.float32)
  inputs = jax.device_put(a, rows), jax.device_put(b, rows), jax.device_put(np.float32(0.1), whole)
  if pairs <= 2**14:  # larger ones take so long that a first run costs the same
    jax.block_until_ready(program(*inputs))
  start = time.perf_counter()
  loss, grads = jax.block_until_ready(program(*inputs))
  return time.perf_counter() - start, float(loss), [np.asarray(g) for g in grads]


def deviation(ours, reference):
  """Relative, of the value and the largest of the gradients by their norms."""
  gradient = max(np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(ours[2], reference[2], strict=True))
  return abs(ours[1] / reference[1] - 1), gradient


def measure(loss, rows):
  """Prints the lines of the table for all forms and devices."""
  pairs_of, forms = LOSSES[loss]
  pairs, reference = pairs_of(rows), None
  for devices in DEVICES:
    for form, (f, ring_rows) in forms.items():
      if form == 'ring' and devices == 1:
        if loss == 'NT-Xent':
          continue  # there is nothing to go around
        form = 'blockwise'
      program, *places = compiled(f, ring_rows, pairs, devices)
      gib = program.memory_analysis().temp_size_in_bytes / 2**30
      cells = [loss, f'{rows:,}', str(devices), form, f'{gib * 1024:,.1f}']
      if rows <= _RUN_ROWS.value // (1 if devices == 1 else 4) and gib * devices <= _RUN_GIB.value:
        result = run(program, *places, pairs)
        first, reference = reference is None, reference or result
        apart = ('', '') if first else [f'{x:.1e}' for x in deviation(result, reference)]
        cells += [f'{result[0]:.2f}', *apart]
      else:
        cells += ['not runnable' if gib > FIT_GIB else 'compiled', '', '']
      print('| ' + ' | '.join(cells) + ' |', flush=True)


def main(_):
  print('| loss | rows | devices | form | temporary MiB a device | seconds | value off by | gradient off by |')
  print('|---' * 8 + '|')
  for loss in LOSSES:
    for rows in map(int, _ROWS.value):
      measure(loss, rows)


if __name__ == '__main__':
  jax.config.update('jax_platforms', 'cpu')
  app.run(main)
