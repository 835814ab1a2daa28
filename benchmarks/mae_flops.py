"""What masking saves: FLOPs of MAE's training step at mask ratio 0.75 against 0, and of a formula: python -m benchmarks.mae_flops

XLA's count of the unoptimised program of one whole step (views, forward, backward, AdamW); nothing is compiled or run. The ratio
of the encoder alone is what the step comes near as the encoder grows. Formula: a block of width D on T tokens does
24 T D^2 + 4 T^2 D forward, three times that with the backward pass.
"""

import importlib.util
import pathlib

import jax

from sslax.run.prepare import assumed_facts, prepare_shapes

BATCH = 8


def config_of(preset):
  path = pathlib.Path(__file__).resolve().parents[1] / 'configs' / 'mae.py'
  spec = importlib.util.spec_from_file_location('mae_config', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config(preset)
  config.batch_size = BATCH
  for part in (config.method.encoder, config.method.decoder):
    part.scan = False  # XLA counts the body of a loop once
  return config


def step_flops(preset, ratio):
  """FLOPs an image of the whole step."""
  config = config_of(preset)
  config.method.mask_ratio = ratio
  run = prepare_shapes(config, assumed_facts(config, 1_281_167))
  return run.lower().cost_analysis()['flops'] / BATCH, run.method


def formula(method, ratio):
  """FLOPs an image of the matrix products of both networks, forward and backward."""
  patches = (method.augment.size // method.encoder.patch) ** 2
  pixels, (D, depth, _), E = 3 * method.encoder.patch**2, method.encoder.sizes, method.decoder.width
  seen, every = round(patches * (1 - ratio)) + 1, patches + 1
  block = lambda T, width: 24 * T * width**2 + 4 * T**2 * width
  encoder = 2 * patches * pixels * D + depth * block(seen, D)
  decoder = 2 * seen * D * E + method.decoder.depth * block(every, E) + 2 * every * E * pixels
  return 3 * encoder, 3 * decoder


def main():
  print('| preset | mask 0.75, GFLOP an image | mask 0 | ratio | formula: ratio of the step | of the encoder |')
  print('|---|---|---|---|---|---|')
  for preset in ('tiny_imagenet_cpu', 'imagenet', 'imagenet_large'):
    (few, method), (many, _) = step_flops(preset, 0.75), step_flops(preset, 1e-9)
    (a, c), (b, d) = formula(method, 0.75), formula(method, 0.0)
    print(
      f'| {preset} | {few / 1e9:.3f} | {many / 1e9:.3f} | {few / many:.3f} | {(a + c) / (b + d):.3f} | {a / b:.3f} |', flush=True
    )


if __name__ == '__main__':
  jax.config.update('jax_platforms', 'cpu')
  main()
