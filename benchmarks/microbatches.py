"""How much larger a batch fits with microbatches: python -m benchmarks.microbatches

Compiles SimCLR's training step (the `imagenet` preset: ResNet-50, 224 pixels, bfloat16, LARS) from shapes for one CPU device, and
runs nothing: the temporaries, what the compiled step needs beside state and batch, of a batch in one piece, and of larger ones in
32 microbatches. XLA's CPU compiler computes bfloat16 convolutions in float32: a TPU needs less, in all rows. LLVM's optimisation
is off: it takes minutes and moves no buffer.
"""

import importlib.util
import os
import pathlib

os.environ['XLA_FLAGS'] = '--xla_backend_optimization_level=0 ' + os.environ.get('XLA_FLAGS', '')

import jax

from sslax.run.prepare import assumed_facts, prepare_shapes


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
  config = config_of(batch_size, microbatches)
  return prepare_shapes(config, assumed_facts(config, 1_281_167)).lower().compile().memory_analysis().temp_size_in_bytes / 2**30


def main():
  print(f'jax {jax.__version__}, one {jax.devices()[0].platform} device\n')
  print('| batch | microbatches | temporaries, GiB | batch against the first | memory against the first |')
  print('|---|---|---|---|---|')
  first = None
  for batch, microbatches in ((32, 1), (256, 32), (512, 32)):
    size = temporaries(batch, microbatches)
    first = first or size
    print(f'| {batch} | {microbatches} | {size:.2f} | {batch / 32:g} | {size / first:.2f} |', flush=True)


if __name__ == '__main__':
  jax.config.update('jax_platforms', 'cpu')
  main()
