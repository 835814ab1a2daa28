"""How much larger a batch fits with microbatches: python -m benchmarks.microbatches [GiB]

Compiles SimCLR's training step (the `imagenet` preset: ResNet-50, 224 pixels, bfloat16, LARS) from shapes for one CPU device, and
runs nothing: the largest batch whose temporaries, what the compiled step needs beside state and batch, fit the budget. XLA's CPU
compiler computes bfloat16 convolutions in float32: more fits on a TPU, in both rows.
"""

import importlib.util
import pathlib
import sys

import jax

from sslax.run import loop


def config_of(batch_size, microbatches):
  path = pathlib.Path(__file__).resolve().parents[1] / 'configs' / 'simclr.py'
  spec = importlib.util.spec_from_file_location('simclr_config', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config('imagenet')
  config.batch_size, config.microbatches = batch_size, microbatches
  return config


def temporaries(batch_size, microbatches):
  """GiB of the compiled step."""
  run = loop.prepare_shapes(config_of(batch_size, microbatches), 1_281_167)
  return loop.lower(run).compile().memory_analysis().temp_size_in_bytes / 2**30


def largest(budget, microbatches, unit):
  """(the largest batch that fits, its temporaries in GiB): memory is nearly linear in the batch, so a few compilations do.

  Args:
    budget: GiB.
    unit: the batch is a multiple of it.
  """
  sizes = {n: temporaries(n, microbatches) for n in (unit, 2 * unit)}
  for _ in range(4):
    (a, low), (b, high) = sorted(sizes.items())[-2:]
    guess = max(unit, int(b + (budget - high) * (b - a) / (high - low)) // unit * unit)
    if guess in sizes:
      break
    sizes[guess] = temporaries(guess, microbatches)
  return max((n, size) for n, size in sizes.items() if size <= budget)


def main():
  budget = float(sys.argv[1]) if sys.argv[1:] else 8.0
  print(f'jax {jax.__version__}, one {jax.devices()[0].platform} device, temporaries of at most {budget:g} GiB\n')
  print('| microbatches | largest batch | temporaries, GiB | against 1 |')
  print('|---|---|---|---|')
  first = None
  for microbatches, unit in ((1, 4), (32, 32)):
    batch, size = largest(budget, microbatches, unit)
    first = first or batch
    print(f'| {microbatches} | {batch:,} | {size:.2f} | {batch / first:.1f} |', flush=True)


if __name__ == '__main__':
  jax.config.update('jax_platforms', 'cpu')
  main()
