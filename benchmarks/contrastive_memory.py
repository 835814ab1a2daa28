"""What the contrastive losses need, blockwise, around a ring, plain and optax's: python -m benchmarks.contrastive_memory --help

Value and gradient of NT-Xent (and of SigLIP, for as many pairs) on one and on eight devices: temporary bytes of the compiled
program on a device, for which no data is needed; where a form fits into `--run_gib` and has at most `--run_rows` rows, also the
seconds of a run and how far value and gradient are from the formulas, written out in NumPy and float64. Eight devices are eight
fakes on the same cores, which show memory and values, not speed, and run up to a quarter of the rows.
"""

import os
import time

os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.special
from absl import app, flags
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sslax.losses import blockwise, contrastive, image_text
from sslax.ops import normalize

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
  return lambda a, b, t: image_text.siglip(normalize.l2_normalize(a), normalize.l2_normalize(b), 1 / t, -10.0, block)


def written_out(gradients, a, b, temperature, slab=2048):
  """(loss, its gradients by a, b and the temperature) in float64, so many rows of the matrix of logits at a time.

  Args:
    gradients: of the loss of unit rows x and y: (x, y, temperature, slab) -> (loss, by x, by y, by the temperature).
  """
  norms = [np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (a, b)]
  units = [x / norm for x, norm in zip((a, b), norms, strict=True)]
  loss, *by_units, by_temperature = gradients(*units, temperature, slab)
  through = [(g - u * np.sum(g * u, 1, keepdims=True)) / n for g, u, n in zip(by_units, units, norms, strict=True)]
  return loss, [*through, by_temperature]


def nt_xent_written_out(a, b, temperature, slab):
  z, n = np.concatenate([a, b]), 2 * len(a)
  partner = np.roll(z, len(a), axis=0)
  slabs = [slice(i, i + slab) for i in range(0, n, slab)]
  positives, lse = np.sum(z * partner, 1) / temperature, np.empty(n)

  def logits(rows):
    s = z[rows] @ z.T / temperature
    s[np.arange(len(s)), np.arange(n)[rows]] = -np.inf
    return s

  for rows in slabs:
    lse[rows] = scipy.special.logsumexp(logits(rows), axis=1)
  by_z, by_temperature = -2 * partner, np.sum(positives)
  for rows in slabs:
    s = logits(rows)
    p = np.exp(s - lse[rows, None])
    by_z[rows] += p @ z
    by_z += p.T @ z[rows]
    by_temperature -= np.sum(p * np.where(p > 0, s, 0))
  by_z /= n * temperature
  return np.mean(lse - positives), by_z[: len(a)], by_z[len(a) :], by_temperature / (n * temperature)


def siglip_written_out(a, b, temperature, slab):
  n, loss, by_temperature, by_a, by_b = len(a), 0.0, 0.0, np.zeros_like(a), np.zeros_like(b)
  for start in range(0, n, slab):
    rows = slice(start, start + slab)
    cosines = a[rows] @ b.T
    sign = -np.ones_like(cosines)
    sign[np.arange(len(sign)), np.arange(n)[rows]] = 1
    logits = sign * (cosines / temperature - 10)
    loss += np.sum(np.logaddexp(0, -logits)) / n
    by_cosine = -sign * scipy.special.expit(-logits) / (n * temperature)
    by_a[rows] = by_cosine @ b
    by_b += by_cosine.T @ a[rows]
    by_temperature -= np.sum(by_cosine * cosines) / temperature
  return loss, by_a, by_b, by_temperature


# loss: (arrays for so many rows, its formula, {form: (function, columns from which it takes the ring)})
NEVER = 10**12
LOSSES = {
  'NT-Xent': (
    lambda rows: rows // 2,
    nt_xent_written_out,
    {
      'plain': (nt_xent(0), NEVER),
      'optax': (optax_ntxent, NEVER),
      'blockwise': (nt_xent(blockwise.BLOCK), NEVER),
      'ring': (nt_xent(blockwise.BLOCK), 0),
    },
  ),
  'SigLIP': (lambda rows: rows, siglip_written_out, {'plain': (siglip(0), NEVER), 'ring': (siglip(blockwise.BLOCK), 0)}),
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


def inputs(pairs):
  """Rows of which the pairs are related, and a temperature."""
  rng = np.random.default_rng(0)
  a = rng.standard_normal((pairs, _WIDTH.value), np.float32)
  return a, a + rng.standard_normal((pairs, _WIDTH.value), np.float32), np.float32(0.1)


def run(program, rows, whole, pairs):
  """(seconds, loss, gradients)."""
  a, b, temperature = inputs(pairs)
  arguments = jax.device_put(a, rows), jax.device_put(b, rows), jax.device_put(temperature, whole)
  if pairs <= 2**14:  # larger ones take so long that a first run costs the same
    jax.block_until_ready(program(*arguments))
  start = time.perf_counter()
  loss, grads = jax.block_until_ready(program(*arguments))
  return time.perf_counter() - start, float(loss), [np.asarray(g) for g in grads]


def deviation(ours, reference):
  """Relative, of the value and the largest of the gradients by their norms."""
  gradient = max(np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(ours[1], reference[1], strict=True))
  return abs(ours[0] / reference[0] - 1), gradient


def measure(loss, rows):
  """Prints the lines of the table for all forms and devices."""
  pairs_of, formula, forms = LOSSES[loss]
  pairs = pairs_of(rows)
  reference = written_out(formula, *inputs(pairs)) if rows <= _RUN_ROWS.value else None
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
        cells += [f'{result[0]:.2f}', *(f'{x:.1e}' for x in deviation(result[1:], reference))]
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
