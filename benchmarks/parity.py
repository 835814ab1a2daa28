"""How far we are from the libraries that users trust: python -m benchmarks.parity

The largest deviation of each reference value in tests/golden (torchvision, timm, lightly; how they were made:
tests/golden/README.md),
as the largest difference over the largest value; of images, the largest difference on [0, 1]. The tests assert bounds on the
same figures.
"""

import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np

from sslax.losses.contrastive import nt_xent
from sslax.models import import_torch, net
from sslax.models.resnet import ResNet
from sslax.models.vit import ViT
from sslax.ops import geometry, photometric

TESTS = pathlib.Path(__file__).resolve().parents[1] / 'tests'
sys.path.insert(0, str(TESTS))
OPS = {
  'brightness': photometric.brightness,
  'contrast': photometric.contrast,
  'saturation': photometric.saturation,
  'hue': photometric.hue,
  'grayscale': photometric.grayscale,
  'solarize': photometric.solarize,
  'hflip': geometry.flip,
}


def golden(name):
  return np.load(TESTS / 'golden' / f'{name}.npz')


def relative(ours, theirs) -> float:
  return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def image_ops():
  reference = dict(golden('image_ops'))
  x = jnp.asarray(reference.pop('image'))
  for name, theirs in reference.items():
    kind, *rest = name.split('_')
    numbers = [float(n) for n in re.findall(r'-?\d+\.?\d*', '_'.join(rest))]
    if kind == 'blur':
      ours = jax.jit(photometric.gaussian_blur, static_argnums=2)(x, numbers[1], int(numbers[0]))
    elif kind == 'crop':
      ours = jax.jit(geometry.crop_and_resize, static_argnums=(2, 3))(x, tuple(numbers[:4]), int(numbers[4]), rest[-1])
    else:
      ours = jax.jit(OPS[kind])(x, *numbers)
    yield f'image_ops: {name}', float(np.abs(np.asarray(ours) - theirs).max())


def losses():
  for t in (0.1, 0.5):
    reference = golden(f'loss_nt_xent_t{t}')
    value, grads = jax.jit(jax.value_and_grad(lambda a, b, t=t: nt_xent(a, b, t), (0, 1)))(reference['z1'], reference['z2'])
    yield f'loss_nt_xent_t{t}: value', relative(value, reference['loss'])
    for ours, key in zip(grads, ('grad_z1', 'grad_z2'), strict=True):
      yield f'loss_nt_xent_t{t}: {key}', relative(ours, reference[key])


def models():
  from models.import_torch_test import TINY_VIT, shapes_of, timm_state, torchvision_state

  for depth in (18, 50):
    reference, model = golden(f'model_resnet{depth}'), ResNet(depth)
    params, stats = import_torch.resnet(torchvision_state(depth), *shapes_of(model, 64))
    image = reference['image'].transpose(0, 2, 3, 1)
    for train, key in ((False, 'features_eval'), (True, 'features_train')):
      out, new = jax.jit(lambda p, s, x, model=model, train=train: net.apply(model, p, s, x, train=train))(params, stats, image)
      yield f'model_resnet{depth}: {key}', relative(out['pooled'], reference[key])
    for key in ('mean', 'var'):
      yield f'model_resnet{depth}: bn1 running {key} after', relative(new['bn1'][key], reference[f'bn1_running_{key}_after'])
  reference, model = golden('model_vit_timm'), ViT(**TINY_VIT)
  params = import_torch.vit(timm_state(), shapes_of(model, 32)[0])
  out, _ = jax.jit(lambda p, x: net.apply(model, p, {}, x, train=False))(params, reference['image'].transpose(0, 2, 3, 1))
  yield 'model_vit_timm: tokens', relative(out['tokens'], reference['tokens'])


if __name__ == '__main__':
  print('| reference | largest deviation |\n|---|---|')
  for part in (image_ops, losses, models):
    for name, deviation in part():
      print(f'| {name} | {deviation:.1e} |', flush=True)
