"""Measures what costs time, side by side in one run: python -m benchmarks.run [--only=decode,augment,step,input,start]
[--out=FILE.md]

Every figure is the best of several repetitions, as the machine may be shared; ratios compare figures of the same run. The
photos are the two that scikit-learn ships (427 x 640), so that anybody can repeat it. Figures of record stand in
benchmarks/RESULTS.md.
"""

import io
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
from absl import app, flags
from PIL import Image

from sslax.data import decode, host, pipeline
from sslax.ops.views import RandomViews

ROOT = pathlib.Path(__file__).resolve().parents[1]
PARTS = ('decode', 'augment', 'step', 'input', 'start')
ONLY = flags.DEFINE_list('only', list(PARTS), f'Which of {", ".join(PARTS)}.')
OUT = flags.DEFINE_string('out', '', 'Also write the Markdown here.')


def best(function, repeats=5) -> float:
  """Seconds of the fastest call; the first call is not counted."""
  function()
  times = []
  for _ in range(repeats):
    started = time.perf_counter()
    function()
    times.append(time.perf_counter() - started)
  return min(times)


def photos() -> list[np.ndarray]:
  from sklearn.datasets import load_sample_images

  return load_sample_images().images


def jpeg(image: np.ndarray, quality=90) -> bytes:
  out = io.BytesIO()
  Image.fromarray(image).save(out, 'JPEG', quality=quality)
  return out.getvalue()


def measure_decode():
  """Images a second on one core: decoding alone, and with two random-resized crops (photos) or none (CIFAR size)."""
  large = [jpeg(p) for p in photos()]
  small = [jpeg(host.resize_center_crop(p, 32, 32)) for p in photos()]
  rng = np.random.default_rng(0)

  def crops(data):
    image = decode.decode(data)
    for _ in range(2):
      host.random_resized_crop(rng, image, 224, (0.08, 1.0), (3 / 4, 4 / 3))

  def plain(data):
    image = Image.open(io.BytesIO(data))
    image.convert('RGB')

  rows = []
  for name, data, work, n in (
    ('photo 427x640: Pillow alone', large, plain, 10),
    ('photo 427x640: decode', large, decode.decode, 10),
    ('photo 427x640: decode and two 224 crops', large, crops, 5),
    ('32x32: Pillow alone', small, plain, 500),
    ('32x32: decode', small, decode.decode, 500),
  ):
    seconds = best(lambda data=data, work=work, n=n: [work(d) for d in data for _ in range(n)], 3)
    rows.append((name, len(data) * n / seconds))
  base = {'photo': rows[0][1], '32x32': rows[3][1]}
  return (
    'Decoding on one core',
    ('what', 'images/s', 'against Pillow alone'),
    [(n, f'{r:,.0f}', f'{r / base[n.split(":")[0].split(" ")[0]]:.2f}') for n, r in rows],
  )


def measure_augment():
  """Views a second on device; the ratio is against the random-resized crop and flip alone."""
  rows = []
  rng = np.random.default_rng(0)
  for size, batch in ((32, 256), (224, 16)):
    image = rng.integers(0, 256, (batch, size, size, 3)).astype(np.uint8)
    crop = RandomViews(size=size, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0)
    kinds = {
      'crop and flip': crop,
      '+ jitter and grey': RandomViews(size=size, blur_prob=0.0),
      '+ blur (all of SimCLR)': RandomViews(size=size, blur_kernel=0 if size > 32 else 3),
    }
    first = None
    for name, views in kinds.items():
      run = jax.jit(lambda key, x, views=views: views(key, {'image': x}))
      seconds = best(lambda run=run, image=image: jax.block_until_ready(run(jax.random.key(0), image)))
      rate = 2 * batch / seconds
      first = first or rate
      rows.append((f'{size} px, {name}', f'{rate:,.0f}', f'{rate / first:.2f}'))
  return 'Augmentation on device', ('what', 'views/s', 'against crop and flip'), rows


def resnet_flops(encoder, head, size: int) -> int:
  """Multiply-adds x 2 of one image's forward pass, from the layers' shapes: convolutions and dense layers only."""
  params = jax.eval_shape(lambda: encoder.init(jax.random.key(0), np.zeros((1, size, size, 3), np.float32), train=False))[
    'params'
  ]
  stages = (
    encoder.stages
    or {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[encoder.depth]
  )
  stem = size if encoder.stem == 'cifar' else size // 2
  total = 2 * stem**2 * int(np.prod(params['conv1']['kernel'].shape))
  side = stem if encoder.stem == 'cifar' else stem // 2
  for s in range(len(stages)):
    for b in range(stages[s]):
      before, side = side, side // 2 if s > 0 and b == 0 else side
      for name, layer in params[f'layer{s + 1}_{b}'].items():
        if 'kernel' not in layer:
          continue
        # conv1 of a bottleneck comes before the stride; everything else is computed at the block's output size.
        at = before if encoder.bottleneck and name == 'conv1' else side
        total += 2 * at**2 * int(np.prod(layer['kernel'].shape))
  width = encoder.num_features
  for n in head.features:
    total, width = total + 2 * width * n, n
  return total


def tiny_run(batch_size: int, preset='cifar10_cpu'):
  """The cifar10_cpu preset on digits (no CIFAR needed): same network, same shapes, real decoding replaced by pixels."""
  from sslax.run.prepare import prepare

  sys.path.insert(0, str(ROOT))
  from configs.simclr import get_config

  config = get_config(preset)
  config.data.train, config.data.test, config.batch_size = 'digits:@all', 'digits:@test', batch_size
  config.num_epochs, config.num_steps = 0.0, 1000
  return prepare(config)


def ready(run):
  """(compiled step, a function that makes a fresh state, a batch on device)."""
  from sslax.run import sharding
  from sslax.step import init_state

  lowered = run.lower()
  init = jax.jit(lambda b: init_state(run.method, run.tx, 0, b), out_shardings=run.state_sharding())
  zeros = {k: np.zeros(a.shape, a.dtype) for k, a in run.abstract_batch.items()}
  batch = sharding.global_batch(zeros, sharding.batch_sharding(run.mesh))
  return lowered, lowered.compile(), lambda: init(batch), batch


def measure_step():
  """The SimCLR step of cifar10_cpu: images/s, and XLA's FLOPs over those of the formula (3 x forward x 2 views)."""
  run = tiny_run(256)
  lowered, compiled, init, batch = ready(run)
  state = init()

  def step():
    nonlocal state
    state, metrics = compiled(state, batch)
    float(metrics['loss'])

  seconds = best(step, 8)
  formula = 3 * 2 * 256 * resnet_flops(run.method.encoder, run.method.head, 32)
  xla = float(lowered.cost_analysis()['flops'])
  views = jax.jit(lambda key, x: run.method.views(key, {'image': x}))
  augment = best(lambda: jax.block_until_ready(views(jax.random.key(0), batch['image'])), 5)
  rows = [
    ('SimCLR cifar10_cpu, batch 256', f'{256 / seconds:,.0f} images/s', f'{formula / seconds / 1e9:.1f} GFLOP/s by the formula'),
    ('of it, making the views', f'{augment / seconds:.2f} of the time', ''),
    ('FLOPs of the step, XLA over formula', f'{xla / formula:.2f}', f'{xla / 1e9:.1f} over {formula / 1e9:.1f} GFLOP'),
  ]
  return 'The training step', ('what', 'figure', ''), rows


def measure_input():
  """Loader alone, step alone, both: the last over the slower of the first two says how well they overlap."""
  run = tiny_run(256)
  _, compiled, init, batch = ready(run)
  from sslax.run import sharding

  rows, n = sharding.batch_sharding(run.mesh), 10
  load = pipeline.train_batches(run.source, run.inputs, batch_size=256, seed=0)
  small = best(lambda: [next(load) for _ in range(n)], 3) / n
  state = init()

  def both(batches):
    nonlocal state
    for _ in range(n):
      data = batches() if batches else batch
      state, metrics = compiled(state, data)
    float(metrics['loss'])

  def loaded():
    data = next(load)
    data.pop('wanted')
    return sharding.global_batch(data, rows)

  alone, together = best(lambda: both(None), 3) / n, best(lambda: both(loaded), 3) / n
  load.close()
  return (
    'Input against step (cifar10_cpu, batch 256)',
    ('what', 'images/s', 'against step alone'),
    [
      (name, f'{256 / s:,.0f}', f'{alone / s:.2f}')
      for name, s in (('loader alone, cached images', small), ('step alone', alone), ('both', together))
    ],
  )


def measure_start():
  """Seconds from the command to the end of one step of the digits preset, in a new process: cold and warm compilation cache."""
  with tempfile.TemporaryDirectory() as folder:
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_COMPILATION_CACHE_DIR': f'{folder}/cache'}
    seconds = []
    for i in range(2):
      started = time.perf_counter()
      command = [sys.executable, '-m', 'sslax.train', f'--config={ROOT}/configs/simclr.py:digits', f'--workdir={folder}/{i}']
      command += [
        '--config.num_epochs=0',
        '--config.num_steps=1',
        '--config.online.every_steps=0',
        '--config.optim.warmup=0 steps',
      ]
      subprocess.run(command, env=env, check=True, capture_output=True)
      seconds.append(time.perf_counter() - started)
  cold, warm = seconds
  return (
    'Time to the first step (digits, new process)',
    ('cache', 'seconds', 'against cold'),
    [('cold', f'{cold:.1f}', '1.00'), ('warm', f'{warm:.1f}', f'{warm / cold:.2f}')],
  )


def markdown(title, columns, rows) -> str:
  lines = [f'### {title}', '', '| ' + ' | '.join(columns) + ' |', '|' + '---|' * len(columns)]
  return '\n'.join(lines + ['| ' + ' | '.join(row) + ' |' for row in rows]) + '\n'


def main(argv):
  unknown = set(ONLY.value) - set(PARTS)
  if unknown or len(argv) > 1:
    print(f'error: {", ".join(unknown) or argv[1]} is none of {", ".join(PARTS)}', file=sys.stderr)
    sys.exit(2)
  device = jax.devices()[0]
  machine = f'{os.cpu_count()} cores ({platform.processor() or platform.machine()}), {device.device_kind} ({device.platform})'
  head = f'{time.strftime("%Y-%m-%d")}, {machine}, jax {jax.__version__}, Python {platform.python_version()}'
  text = [head + '\n']
  print(text[0], flush=True)
  for part in PARTS:
    if part in ONLY.value:
      text.append(markdown(*globals()[f'measure_{part}']()))
      print(text[-1], flush=True)
  if OUT.value:
    pathlib.Path(OUT.value).write_text('\n'.join(text), encoding='utf-8')


if __name__ == '__main__':
  app.run(main)
