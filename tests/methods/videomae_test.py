import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods import tiny
from methods.battery import Battery
from models.import_torch_test import near, weights

from sslax.inputs.clip import Clip
from sslax.methods.videomae import VideoMAE
from sslax.models.decoder import Decoder
from sslax.models.vit import ViT
from sslax.ops import tree
from sslax.ops.masks import from_noise

ENCODER = dict(class_token=False, pool='mean', positions='sincos_line', weight_init='xavier')
DECODER = dict(class_token=False, positions='sincos_line', embed_bias=False)
PATCH = (2, 4, 4)


def tiny_videomae(**changes):
  fields = dict(
    encoder=tiny.vit(patch=PATCH, **ENCODER),
    decoder=Decoder(width=8, depth=1, heads=2, patch=PATCH, **DECODER),
    clip=Clip(frames=4, stride=2, size=16),
  )
  return VideoMAE(**{**fields, **changes})


def tiny_clips(rows, frames=4, size=16, seed=0):
  """Smooth blobs that move: each row has its own, each channel its own contrast."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (rows, 2, 4, 4, 3)).astype(np.float32)
  clip = np.asarray(jax.image.resize(coarse, (rows, frames, size, size, 3), 'linear'))
  return (clip * np.array([1, 0.5, 0.1])).clip(0, 255).astype(np.uint8)


class TestVideoMAE(Battery):
  def make(self):
    return tiny_videomae()

  def batch(self, seed=0):
    labels = np.random.default_rng(seed).integers(0, 4, self.rows).astype(np.int32)
    return {'clip': tiny_clips(self.rows, seed=seed), 'label': labels, 'index': np.arange(self.rows, dtype=np.int32)}

  def make_without_batchnorm(self):
    return tiny_videomae()

  def test_tokens_of_a_grid(self, trainer, trained):
    """One for each tubelet, in its place: of a change in one tubelet its own token knows most; pooled is their mean."""
    _, last, _ = trained
    features = jax.jit(trainer.method.features)
    clip = self.batch()['clip']
    out = features(last.params, {}, {'clip': clip})
    assert out.tokens.shape == (16, 2, 4, 4, 16) and out.stride == PATCH and out.grid == (2, 4, 4)
    np.testing.assert_allclose(out.pooled, out.tokens.mean((1, 2, 3)), rtol=1e-5, atol=1e-6)
    other = clip.copy()
    other[:, 2:, 4:8, 8:12] = 255 - other[:, 2:, 4:8, 8:12]
    moved = np.abs(np.asarray(features(last.params, {}, {'clip': other}).tokens - out.tokens)).sum(-1)
    assert (moved.reshape(16, -1).argmax(1) == np.ravel_multi_index((1, 1, 2), (2, 4, 4))).all()

  def test_pictures(self, trainer, trained):
    """What is pasted is the clip where it is seen, and the prediction with the tubelet's mean and deviation elsewhere."""
    _, last, _ = trained
    method, clip = trainer.method, self.batch()['clip']
    drawn = jax.jit(method.pictures)(last.params, {}, {'clip': clip}, jax.random.key(0))
    assert list(drawn) == ['clip', 'masked', 'prediction', 'reconstruction']
    out = {name: np.asarray(arrays['clip']) for name, arrays in drawn.items()}
    assert all(x.shape == clip.shape and x.dtype == np.uint8 for x in out.values())
    np.testing.assert_array_equal(out['clip'], clip)
    masked = masks_of_pixels(method, jax.random.key(0), 16)
    np.testing.assert_array_equal(out['masked'], np.where(masked, 128, clip))
    np.testing.assert_array_equal(out['reconstruction'], np.where(masked, out['prediction'], clip))
    removed = method.views(jax.random.key(0), {'clip': clip})[1]
    predict = jax.jit(lambda params, clip: method.predict(params, clip, removed, train=False))
    first = np.asarray(predict(last.params, clip))[3, 0].reshape(2, 4, 4, 3)
    pixels = clip[3, :2, :4, :4] / 255
    expected = first * (pixels.std((0, 1, 2), ddof=1) + 1e-6) + pixels.mean((0, 1, 2))
    np.testing.assert_allclose(out['prediction'][3, :2, :4, :4], 255 * expected.clip(0, 1), atol=0.51)
    shown = [method.clip.show(arrays) for arrays in drawn.values()]
    assert all(len(column) == 16 and column[0].shape == (16, 4 * 16, 3) for column in shown)  # filmstrips

  def test_views_for_people(self, trainer):
    method, clip = trainer.method, self.batch()['clip']
    views = method.views(jax.random.key(1), {'clip': clip})
    drawn = jax.jit(method.view_pictures)(views)
    masked = masks_of_pixels(method, jax.random.key(1), 16)
    np.testing.assert_array_equal(drawn['clip']['clip'], clip)
    np.testing.assert_array_equal(drawn['masked']['clip'], np.where(masked, 128, clip))


def masks_of_pixels(method, rng, rows):
  """[B, 4, 16, 16, 1] bool, 1 = removed."""
  masked = np.asarray(method.draw(rng, rows).masked).reshape(rows, 2, 4, 4)
  return masked.repeat(2, 1).repeat(4, 2).repeat(4, 3)[..., None]


# Masks


def test_masks_are_tubes():
  """The same places in all slots, as many as the official code's int(0.9 * 196) of 196; kept and restore say the same."""
  method = tiny_videomae(clip=Clip(frames=8, size=56))  # 4 x 14 x 14
  removed = jax.jit(method.draw, static_argnums=1)(jax.random.key(0), 64)
  masked = np.asarray(removed.masked).reshape(64, 4, 196)
  assert (masked == masked[:, :1]).all(), 'a place is removed in some slots only'
  assert (masked.sum(-1) == 176).all() and removed.kept.shape == (64, 4 * 20)
  kept = np.zeros((64, 784), bool)
  np.put_along_axis(kept, np.asarray(removed.kept), True, 1)
  np.testing.assert_array_equal(kept, ~masked.reshape(64, -1))
  order = np.concatenate([np.asarray(removed.kept), np.full((64, 704), -1)], 1)  # of a kept one, `restore` is its place in `kept`
  found = np.take_along_axis(order, np.asarray(removed.restore), 1)
  np.testing.assert_array_equal(found[kept], np.broadcast_to(np.arange(784), (64, 784))[kept])
  assert (np.sort(removed.restore, 1) == np.arange(784)).all()
  seen = (~masked[:, 0]).mean(0)  # each place is as likely as any other
  assert len(np.unique(masked[:, 0], axis=0)) == 64 and seen.max() < 0.35 and (seen > 0).mean() > 0.9


def test_a_tie_does_not_part_a_tube(monkeypatch):
  """Noise of two values only: the sort must not take one place in the first slots and another in the last."""
  from sslax.methods import videomae

  coarse = lambda rng, rows, grid: jnp.round(jax.random.uniform(rng, (rows, grid[0] * grid[1])))
  monkeypatch.setattr(videomae, 'draw_noise', coarse)
  masked = np.asarray(tiny_videomae(mask_ratio=0.7).draw(jax.random.key(0), 32).masked).reshape(32, 2, 16)
  assert (masked[:, 0] == masked[:, 1]).all() and (masked.sum(-1) == 11).all()


def test_a_row_loses_the_same_in_any_batch():
  method = tiny_videomae()
  many, few = (np.asarray(method.draw(jax.random.key(5), rows).masked) for rows in (32, 4))
  np.testing.assert_array_equal(many[:4], few)


@pytest.mark.parametrize('ratio, side, kept', [(0.9, 14, 20), (0.75, 14, 49), (0.9, 4, 2), (0.29, 10, 72), (0.9, 10, 10)])
def test_places_that_are_seen(ratio, side, kept):
  """h w - int(ratio h w), rounding errors too: 0.29 * 100 is 28.999999999999996, so 28 are removed."""
  assert tiny_videomae(mask_ratio=ratio, clip=Clip(frames=4, size=4 * side)).keep == kept


# The loss


def slow_target(clip, patch, norm_pix):
  """[B, t*h*w, p*3] float64, tubelet by tubelet: engine_for_pretraining.py in loops."""
  (p0, p1, p2), out = patch, []
  for x in np.float64(clip) / 255:
    for i in range(0, x.shape[0], p0):
      for j in range(0, x.shape[1], p1):
        for k in range(0, x.shape[2], p2):
          pixels = x[i : i + p0, j : j + p1, k : k + p2].copy()
          for channel in range(3) if norm_pix else ():
            values = pixels[..., channel]
            mean = values.sum() / values.size
            deviation = (np.square(values - mean).sum() / (values.size - 1)) ** 0.5
            pixels[..., channel] = (values - mean) / (deviation + 1e-6)
          out.append(pixels.reshape(-1))
  return np.stack(out).reshape(len(clip), -1, out[0].size)


@pytest.mark.parametrize('norm_pix', [True, False])
def test_the_target_is_the_official_one(norm_pix):
  """Also of tubelets that are nearly flat, where it matters where eps stands; baseline_loss is that of each target's mean."""
  patch = (2, 4, 8)  # no two sides alike
  sizes = dict(decoder=Decoder(width=8, depth=1, heads=2, patch=patch, **DECODER), encoder=tiny.vit(patch=patch, **ENCODER))
  method = tiny_videomae(norm_pix=norm_pix, **sizes)
  clip = tiny_clips(3)
  clip[:, :2, :4, :8] = 77
  clip[:, :2, :4, :8, 0][:, 1, 2, 3] = 78  # one pixel of 64 is another, in one of the channels
  target = slow_target(clip, patch, norm_pix)
  rng = np.random.default_rng(0)
  masked = rng.random(target.shape[:2]) < 0.6
  masked[:, 0] = True
  prediction = rng.standard_normal(target.shape).astype(np.float32)
  loss, metrics = jax.jit(method.compare)(prediction, clip, masked)
  np.testing.assert_allclose(loss, np.square(prediction - target)[masked].mean(), rtol=2e-5)
  each = target.reshape(*target.shape[:2], -1, 3)
  np.testing.assert_allclose(metrics['baseline_loss'], np.square(each - each.mean(2, keepdims=True))[masked].mean(), rtol=2e-5)
  zero, _ = jax.jit(method.compare)(np.float32(target), clip, masked)
  assert zero < 1e-5


def test_what_is_removed_does_not_reach_the_encoder():
  """Pixels of removed tubelets do not change any prediction, visible ones do; the parameters' mean and std are used."""
  method, clip = tiny_videomae(mask_ratio=0.5), tiny_clips(4)
  views = method.views(jax.random.key(2), {'clip': clip})
  params, _ = jax.jit(method.init)(jax.random.key(0), views)
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda p: np.asarray(p) + 0.1 * rng.standard_normal(p.shape, np.float32), params)
  predict = jax.jit(lambda clip: method.predict(params, clip, views[1], train=False))
  pixels, prediction = masks_of_pixels(method, jax.random.key(2), 4), np.asarray(predict(clip))
  np.testing.assert_allclose(predict(np.where(pixels, 255 - clip, clip)), prediction, atol=1e-5)
  assert np.abs(np.asarray(predict(np.where(pixels, clip, 255 - clip))) - prediction).max() > 1e-2
  x = np.asarray(method.normalized(clip))
  np.testing.assert_allclose(x * np.array(method.std) + np.array(method.mean), clip / 255, atol=1e-5)
  assert method.mean == (0.485, 0.456, 0.406) and method.std == (0.229, 0.224, 0.225)


# transformers

STEMS = {
  'encoder/patches/projection': 'videomae.embeddings.patch_embeddings.projection',
  'encoder/norm': 'videomae.layernorm',
  'decoder/embed': 'encoder_to_decoder',
  'decoder/norm': 'decoder.norm',
  'decoder/predict': 'decoder.head',
  'encoder/blocks_': 'videomae.encoder.layer.',
  'decoder/blocks_': 'decoder.decoder_layers.',
}
LAYERS = {
  'norm1': 'layernorm_before',
  'norm2': 'layernorm_after',
  'proj': 'attention.output.dense',
  'fc1': 'intermediate.dense',
  'fc2': 'output.dense',
}


def their_names(path):
  """What transformers calls a parameter of ours; of queries, keys and values three names, '' for the keys' bias, which is 0."""
  if path == 'decoder/mask_token':
    return ['mask_token']
  stem, entry = path.rsplit('/', 1)
  entry = 'bias' if entry == 'bias' else 'weight'
  block = re.fullmatch(r'(\w+/blocks_)(\d+)/(\w+)', stem)
  if not block:
    return [f'{STEMS[stem]}.{entry}']
  where, name = STEMS[block[1]] + block[2], block[3]
  if name != 'qkv':
    return [f'{where}.{LAYERS[name]}.{entry}']
  parts = [f'{where}.attention.attention.{part}.{entry}' for part in ('query', 'key', 'value')]
  return [parts[0], '' if entry == 'bias' else parts[1], parts[2]]


def ours(arrays):
  """A parameter or its gradient as we lay it out, of what transformers has under `their_names`."""
  x = np.concatenate([np.zeros_like(arrays[0]) if x is None else x for x in arrays])
  if x.ndim == 5:
    return x.transpose(2, 3, 4, 1, 0)  # [D, C, t, h, w] -> [t, h, w, C, D]
  return x.T if x.ndim == 2 else x


def test_it_is_transformers(golden):
  """Loss, prediction, gradients and features of transformers 5.24 VideoMAEForPreTraining with the same weights, clips and masks.

  Made by VideoMAEConfig(image_size=32, patch_size=8, num_frames=4, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
  intermediate_size=96, layer_norm_eps=1e-5, use_mean_pooling=False, decoder_hidden_size=32, decoder_num_hidden_layers=2,
  decoder_num_attention_heads=4, decoder_intermediate_size=64), weights by the rule of golden/README.md, loss.backward(). Its last
  norm has eps 1e-5 whatever the config says, where the official code has 1e-6 everywhere: here all have 1e-5.
  """
  reference = np.load(golden / 'model_videomae_hf.npz')
  clip, masked = reference['clip'], reference['mask']
  sizes = dict(heads=4, depth=2, mlp_ratio=2.0, patch=(2, 8, 8), eps=1e-5)
  method = VideoMAE(
    encoder=ViT(width=48, **sizes, **ENCODER), decoder=Decoder(width=32, **sizes, **DECODER), clip=Clip(frames=4, size=32)
  )
  views = jax.eval_shape(lambda: method.views(jax.random.key(0), {'clip': clip}))
  shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), method.views(jax.random.key(0), {'clip': clip}))[0])
  names = dict(zip(tree.paths(shapes), map(their_names, tree.paths(shapes)), strict=True))
  assert sorted(filter(None, sum(names.values(), []))) == sorted(reference['names']), 'some parameter is left over'

  def of_theirs(path, leaf):
    return ours([weights(name, their_shape(path, leaf)) if name else None for name in names[path]])

  params = tree.map_with_path(of_theirs, shapes)
  removed = from_noise(jnp.float32(masked), 4)  # those that are seen first, as they come
  assert jax.tree.map(lambda a: a.shape, removed) == jax.tree.map(lambda a: a.shape, views[1])
  np.testing.assert_array_equal(removed.masked, masked)

  @jax.jit
  def run(params):
    def loss(params):
      prediction = method.predict(params, clip, removed, train=True)
      return method.compare(prediction, clip, removed.masked)[0], prediction

    return jax.value_and_grad(loss, has_aux=True)(params), method.features(params, {}, {'clip': clip}).tokens

  ((loss, prediction), grads), tokens = run(params)
  near(loss, reference['loss'], 1e-5)
  near(np.asarray(prediction)[masked].reshape(2, 28, 384)[:, ::7], reference['prediction'], 1e-5)
  near(np.asarray(tokens).reshape(2, 32, 48)[:, ::8], reference['tokens'], 1e-5)
  compared = 0
  for path, grad in zip(tree.paths(grads), jax.tree.leaves(grads), strict=True):
    stored = [f'grad/{name}' if name else '' for name in names[path]]
    if all(name in (*reference.files, '') for name in stored):
      near(np.asarray(grad), ours([reference[name] if name else None for name in stored]), 1e-5)
      compared += 1
  assert compared == 11


def their_shape(path, leaf):
  """Of one of the parts of a parameter as transformers has it."""
  if leaf.ndim == 5:
    return (leaf.shape[4], leaf.shape[3], *leaf.shape[:3])
  if '/qkv/' in path:
    return (leaf.shape[-1] // 3, *leaf.shape[:-1])
  return leaf.shape[::-1] if leaf.ndim == 2 else leaf.shape


# What is refused


@pytest.mark.parametrize(
  'changes, word',
  [
    ({'mask_ratio': 1.0}, 'mask_ratio'),
    ({'mask_ratio': 0.0}, 'mask_ratio'),
    ({'mask_ratio': 0.05}, 'removes none of the 4x4'),
    ({'clip': Clip(frames=5, size=16)}, 'clip.frames=5 is no multiple of 2'),
    ({'clip': Clip(frames=4, size=18)}, 'clip.size=18 is no multiple of 4'),
    ({'decoder': Decoder(width=8, depth=1, heads=2, patch=(2, 8, 8), **DECODER)}, 'decoder.patch'),
    ({'decoder': Decoder(width=8, depth=1, heads=2, patch=4, **DECODER)}, 'decoder.patch'),
    ({'decoder': Decoder(width=8, depth=1, heads=2, patch=PATCH, positions='sincos_line')}, 'decoder.class_token'),
    ({'encoder': tiny.vit(patch=(4, 4), **ENCODER)}, '3 axes'),
    ({'std': (0.2, 0.0, 0.2)}, 'std'),
    ({'mean': (0.5, 0.5)}, 'mean'),
  ],
)
def test_impossible_values_are_refused(changes, word):
  with pytest.raises(ValueError, match=re.escape(word)):
    tiny_videomae(**changes)


def test_a_tubelet_of_one_pixel_has_no_deviation():
  one = dict(
    encoder=tiny.vit(patch=1, **ENCODER),
    decoder=Decoder(width=8, depth=1, heads=2, patch=(1, 1, 1), **DECODER),
    clip=Clip(frames=2, size=4),
  )
  with pytest.raises(ValueError, match='norm_pix'):
    tiny_videomae(**one)
  assert dataclasses.replace(tiny_videomae(**one, norm_pix=False)).grid == (2, 4, 4)


def test_the_command_line_refuses_with_2():
  from run.trainer import run

  change = '--config.method.clip.frames=15'
  code, output = run('train', '--config=configs/videomae.py:actions_cpu', change, '--workdir=/nowhere/w')
  assert code == 2 and 'clip.frames=15' in output and 'Traceback' not in output, output
