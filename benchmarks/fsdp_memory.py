"""What splitting the weights saves: bytes of a device for MAE's training step on eight devices: python -m benchmarks.fsdp_memory

Compiles the whole step (views, forward, backward, AdamW) from shapes for eight fake CPU devices, and runs nothing. `state` is
what a device holds between steps, its rows of the batch with it; `temporaries` is what the compiled step needs beside it. XLA's
CPU compiler computes bfloat16 products in float32 and has no reduce-scatter: temporaries are more than a TPU needs.
LLVM's optimisation is off: it takes minutes and moves no buffer.
"""

import importlib.util
import os
import pathlib
import time

os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0'

import jax

from sslax.run.prepare import assumed_facts, prepare_shapes

BATCH = 256  # 32 images a device


def config_of(variant, remat):
  path = pathlib.Path(__file__).resolve().parents[1] / 'configs' / 'mae.py'
  spec = importlib.util.spec_from_file_location('mae_config', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config('imagenet')
  config.batch_size = BATCH
  config.method.encoder.variant = variant
  if variant == 'H':
    config.method.encoder.patch = config.method.decoder.patch = 14
  config.method.encoder.remat = config.method.decoder.remat = remat
  return config


def measure(variant, remat, fsdp):
  """(state, temporaries) in GiB of a device, seconds of compilation."""
  config = config_of(variant, remat)
  config.mesh.fsdp = fsdp
  lowered, started = prepare_shapes(config, assumed_facts(config, 1_281_167)).lower(), time.time()
  memory = lowered.compile().memory_analysis()
  return memory.argument_size_in_bytes / 2**30, memory.temp_size_in_bytes / 2**30, time.time() - started


def main():
  print(f'jax {jax.__version__}, {jax.device_count()} devices, batch {BATCH}, bfloat16, scanned blocks\n')
  print('| encoder | remat | weights | state, GiB a device | temporaries | sum | against replicated | compilation, s |')
  print('|---|---|---|---|---|---|---|---|')
  for variant, remat in (('B', 'full'), ('L', 'full'), ('H', 'full'), ('L', 'dots'), ('L', 'none')):
    whole = None
    for fsdp in (1, 8):
      state, temporaries, seconds = measure(variant, remat, fsdp)
      total = state + temporaries
      whole = whole or total
      sizes = f'{state:.2f} | {temporaries:.2f} | {total:.2f} | {total / whole:.2f}'
      kind = 'split over 8' if fsdp > 1 else 'replicated'
      print(f'| ViT-{variant} | {remat} | {kind} | {sizes} | {seconds:.0f} |', flush=True)


if __name__ == '__main__':
  jax.config.update('jax_platforms', 'cpu')
  main()
