"""How far we are from the libraries that users trust: python -m benchmarks.parity

The largest deviation of each reference value in tests/golden (torchvision, timm, lightly; how they were made:
tests/golden/README.md),
as the largest difference over the largest value; of images, the largest difference on [0, 1]. The tests assert bounds on the
same figures.
"""

import os
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np

from sslax.losses.contrastive import info_nce_queue, nt_xent, supcon
from sslax.losses.distillation import dino, update_center
from sslax.losses.image_text import clip, siglip
from sslax.losses.redundancy import barlow_twins, vicreg
from sslax.losses.similarity import byol, negative_cosine
from sslax.losses.spread import koleo
from sslax.models import import_torch, net
from sslax.models.resnet import ResNet
from sslax.models.vit import ViT
from sslax.ops import geometry, photometric
from sslax.ops.sinkhorn import sinkhorn

TESTS = pathlib.Path(__file__).resolve().parents[1] / 'tests'
DATA = pathlib.Path(os.environ.get('SSLAX_TEST_DATA', TESTS.parents[1] / 'shared' / 'data'))  # where CLIP's vocabulary is
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


LOSSES = {  # reference: (the loss of its arrays, the names of those that have a gradient)
  'nt_xent_t0.1': (lambda r: lambda z1, z2: nt_xent(z1, z2, 0.1), ('z1', 'z2')),
  'nt_xent_t0.5': (lambda r: lambda z1, z2: nt_xent(z1, z2, 0.5), ('z1', 'z2')),
  'moco_t0.2': (lambda r: lambda q, k: info_nce_queue(q, k, r['queue'].T, 0.2), ('q', 'k')),
  'supcon_t0.1': (lambda r: lambda z: supcon(z, r['label'], 0.1), ('z',)),
  'byol': (lambda r: byol, ('p', 'z')),
  'negative_cosine': (lambda r: lambda p: negative_cosine(p, r['z']), ('p',)),
  'barlow_lambda0.005': (lambda r: lambda z1, z2: barlow_twins(z1, z2, 0.005), ('z1', 'z2')),
  'vicreg_25_25_1': (lambda r: vicreg, ('z1', 'z2')),
  'dino': (
    lambda r: lambda s: dino(s, r['teacher'], r['center_before'], r['student_temp'], r['teacher_temp']),
    ('student',),
  ),
  'koleo': (lambda r: koleo, ('x',)),
  'clip': (lambda r: clip, ('image', 'text', 'scale')),
  'siglip': (lambda r: siglip, ('image', 'text', 'scale', 'bias')),
}


def losses():
  for name, (loss, arrays) in LOSSES.items():
    reference = dict(golden(f'loss_{name}'))
    inputs = [reference[key] for key in arrays]
    value, grads = jax.jit(jax.value_and_grad(loss(reference), tuple(range(len(arrays)))))(*inputs)
    yield f'loss_{name}: value', relative(value, reference['loss'])
    for ours, key in zip(grads, arrays, strict=True):
      theirs = reference[f'grad_{key}']
      if name.startswith('supcon'):  # theirs takes unit rows as they are; normalising them removes the part along the row
        theirs = theirs - reference['z'] * (reference['z'] * theirs).sum(axis=1, keepdims=True)
      yield f'loss_{name}: grad_{key}', relative(ours, theirs)
  reference = golden('loss_dino')
  center = update_center(reference['center_before'], reference['teacher'], float(reference['center_momentum']))
  yield 'loss_dino: center', relative(center, reference['center_after'])
  reference = golden('sinkhorn_eps0.05_iter3')
  yield 'sinkhorn_eps0.05_iter3: codes', relative(sinkhorn(reference['scores']), reference['codes'])


def masked():
  from methods.mae_test import golden_mae
  from models.import_torch_test import mae_state, sincos_table

  from sslax.ops.masks import from_noise

  reference, method = golden('model_mae_hf'), golden_mae()
  x = reference['image'].transpose(0, 2, 3, 1)
  params = import_torch.mae_transformers(
    mae_state(reference), jax.eval_shape(lambda key: method.init(key, x[:, None])[0], jax.random.key(0))
  )
  removed = from_noise(reference['noise'], method.keep(16))
  prediction = jax.jit(lambda p, x: method.predict(p, x, removed, train=False))(params, x)
  yield 'model_mae_hf: loss', relative(method.compare(prediction, x, removed.masked)[0], reference['loss'])
  yield 'model_mae_hf: prediction', relative(prediction, reference['prediction'])
  yield 'model_mae_hf: mask', relative(np.float32(removed.masked), reference['mask'])
  yield 'model_mae_hf: ids_restore', relative(removed.restore, reference['ids_restore'])
  for name, width in (('encoder', 48), ('decoder', 32)):
    yield f'model_mae_hf: {name}_position', relative(sincos_table(width), reference[f'{name}_position'])


def image_text():
  from data.text_test import golden_texts
  from models.import_clip_test import shapes_of, tiny, transformers_state

  from sslax.data import text

  reference, method = golden('model_clip_hf'), tiny()
  params, stats = import_torch.clip_transformers(transformers_state(), *shapes_of(method))
  image, ids = reference['image'].transpose(0, 2, 3, 1), np.int32(reference['ids'])
  out = jax.jit(lambda p, s: method.features(p, {'stats': s}, {'image': image, 'text': ids}))(params, stats)
  scale = jnp.exp(params['logit_scale'])
  yield 'model_clip_hf: image_embed', relative(out.embedding, reference['image_embed'])
  yield 'model_clip_hf: text_embed', relative(out.text_embedding, reference['text_embed'])
  yield (
    'model_clip_hf: logits_per_image',
    relative(scale * out.embedding @ out.text_embedding.T, reference['logits_per_image']),
  )
  yield 'model_clip_hf: loss', relative(clip(out.embedding, out.text_embedding, scale), reference['loss'])
  vocab = DATA / 'clip' / 'bpe_simple_vocab_16e6.txt.gz'
  tokenize = text.make('bpe', 77, str(vocab) if vocab.exists() else '')
  strings = {'clip_tokens': lambda r: map(str, r['texts']), 'clip_tokens_random': golden_texts}
  for name, texts in strings.items():
    ours = np.stack([tokenize(string) for string in texts(golden(name))])
    yield f'{name}: ids of {len(ours)} texts', relative(ours, golden(name)['ids'])


def models():
  from models.import_torch_test import TINY_VIT, shapes_of, timm_state, torchvision_state

  for depth in (18, 50):
    reference, model = golden(f'model_resnet{depth}'), ResNet(depth)
    params, stats = import_torch.resnet(torchvision_state(depth), *shapes_of(model, 64))
    image = reference['image'].transpose(0, 2, 3, 1)
    for train, key in ((False, 'features_eval'), (True, 'features_train')):
      out, new = jax.jit(lambda p, s, x, model=model, train=train: net.apply(model, p, s, x, train=train))(params, stats, image)
      yield f'model_resnet{depth}: {key}', relative(out.pooled, reference[key])
    for key in ('mean', 'var'):
      yield f'model_resnet{depth}: bn1 running {key} after', relative(new['bn1'][key], reference[f'bn1_running_{key}_after'])
  reference, model = golden('model_vit_timm'), ViT(**TINY_VIT)
  params = import_torch.vit(timm_state(), shapes_of(model, 32)[0])
  evaluated = jax.jit(lambda p, x: net.apply(model, p, {}, x, train=False, method='encode_images')[0])  # with the class token
  out = evaluated(params, reference['image'].transpose(0, 2, 3, 1))
  yield 'model_vit_timm: tokens', relative(out.tokens, reference['tokens'])


if __name__ == '__main__':
  print('| reference | largest deviation |\n|---|---|')
  for part in (image_ops, losses, models, masked, image_text):
    for name, deviation in part():
      print(f'| {name} | {deviation:.1e} |', flush=True)
