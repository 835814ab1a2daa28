"""golden/model_audio_mae.npz holds what the official code itself gave in PyTorch 2.13: models_mae.py of facebookresearch/AudioMAE
@ bd60e29 with timm 0.3.2 as patched there, in evaluation mode, for two spectrograms of 64 x 32, patches of 8, networks of width
16 and given noise: masks, every fifth prediction, loss, all gradients. 'global' is its decoder_mode=0; 'local' has two of its
SwinTransformerBlock, where decoder_mode=1 fixes sixteen. Parameters are by the rule of golden/README.md with their paths here as
names; those called tau are 0.3 + 0.2 |x|."""

import dataclasses
import zlib

import jax
import numpy as np
import pytest
from methods.battery import Battery, ShortBattery

from sslax.errors import UserError
from sslax.inputs.waveform import Waveform
from sslax.methods.audio_mae import AudioMAE, Transposed
from sslax.models.decoder import Decoder
from sslax.models.local_decoder import LocalDecoder
from sslax.models.vit import ViT
from sslax.ops import tree
from sslax.ops.masks import from_noise
from sslax.ops.patches import patchify, unpatchify
from sslax.spec import build, spec

SIZES = dict(width=16, heads=2, patch=8)
RATE = 8000
SOUND = Waveform(seconds=0.32, rate=RATE)  # 30 frames


def waves(rows=16, seed=0, n=2560):
  """Chords with a beginning and an end, no two alike, and noise."""
  rng = np.random.default_rng(seed)
  t = np.arange(n) / RATE
  out = 0.02 * rng.standard_normal((rows, n))
  for _ in range(3):
    pitch, start = rng.uniform(100, 3500, (rows, 1)), rng.uniform(0, 0.2, (rows, 1))
    out += rng.uniform(0.05, 0.3, (rows, 1)) * np.sin(2 * np.pi * pitch * t) * ((t > start) & (t < start + 0.15))
  return out.astype(np.float32)


def tiny_audio_mae(**changes):
  local = LocalDecoder(**SIZES, depth=2, mlp_ratio=2.0, window=(2, 2), shift=(1, 0), bias_hidden=8)
  encoder = ViT(**SIZES, depth=1, mlp_ratio=2.0, positions='sincos_mae', weight_init='mae')
  return AudioMAE(**{**dict(encoder=encoder, decoder=local, mels=32, frames=32, waveform=SOUND), **changes})


GLOBAL = Decoder(**SIZES, depth=1, mlp_ratio=2.0, channels=1)


class Sounds:
  def batch(self, seed=0):
    label = np.random.default_rng(seed).integers(0, 4, self.rows).astype(np.int32)
    return {'waveform': waves(self.rows, seed), 'label': label, 'index': np.arange(self.rows, dtype=np.int32)}


class TestAudioMAE(Sounds, Battery):
  def make(self):
    return tiny_audio_mae()

  def make_without_batchnorm(self):
    """Nor dropout, which each microbatch draws for itself."""
    return tiny_audio_mae(decoder=tiny_audio_mae().decoder.clone(bias_dropout=0.0))

  @pytest.mark.slow
  def test_features(self, trainer, trained):
    _, last, _ = trained
    batch = self.evaluation_batch()
    out = jax.jit(trainer.method.features)(last.params, {}, batch)
    assert out.grid == (4, 4) and out.stride == (8 * 80, 8) and out.tokens.shape == (16, 4, 4, 16)
    mean = dataclasses.replace(trainer.method, encoder=trainer.method.encoder.clone(pool='mean'))
    pooled = jax.jit(mean.features)(last.params, {}, batch).pooled
    np.testing.assert_allclose(pooled, np.asarray(out.tokens).mean((1, 2)), rtol=1e-4, atol=1e-5)
    later = {'waveform': np.roll(batch['waveform'], 8 * 80, axis=1)}  # by one place of the grid
    moved = np.abs(trainer.method.spectrogram(later['waveform'])[:, 8:24] - trainer.method.spectrogram(batch['waveform'])[:, :16])
    assert moved.max() < 1e-3

  @pytest.mark.slow
  def test_pictures(self, trainer, trained):
    """Time to the right, frequency upwards; what is pasted is the sound where patches were seen, the prediction elsewhere."""
    _, last, _ = trained
    t = np.arange(2560) / RATE
    high = np.where(t < 0.16, 0.3 * np.sin(2 * np.pi * 3000 * t), 0)  # in the first half
    batch = {'waveform': np.float32(np.stack([high, np.zeros(2560)]))}
    out = jax.jit(trainer.method.pictures)(last.params, {}, batch, jax.random.key(0))
    out = {name: np.asarray(out[name]) for name in ('spectrogram', 'masked', 'prediction', 'reconstruction')}
    assert all(x.shape == (2, 32, 32, 3) and x.min() >= 0 and x.max() <= 1 for x in out.values())
    row, column = np.unravel_index(out['spectrogram'][0, :, :30].sum(-1).argmax(), (32, 30))  # the last frame is filled up
    assert row < 8 and column < 16
    assert out['spectrogram'][1, :, :30].max() < 0.1  # silence is black
    removed = jax.jit(trainer.method.draw, static_argnums=1)(jax.random.key(0), 2)
    hidden = np.asarray(removed.masked).reshape(2, 4, 4).repeat(8, 1).repeat(8, 2).swapaxes(1, 2)[:, ::-1, :, None]
    assert hidden.sum() == 2 * 13 * 64
    np.testing.assert_allclose(out['masked'], np.where(hidden, np.float32(0.5), out['spectrogram']), atol=1e-5)
    np.testing.assert_allclose(out['reconstruction'], np.where(hidden, out['prediction'], out['spectrogram']), atol=1e-5)
    views = jax.jit(lambda rng: trainer.method.view_pictures(trainer.method.views(rng, batch)))(jax.random.key(0))
    assert {name: x.shape for name, x in views.items()} == {'spectrogram': (2, 32, 32, 3)}

  @pytest.mark.slow
  def test_the_prediction_in_a_picture_has_the_patch_s_own_mean_and_deviation(self, trainer, trained):
    _, last, _ = trained
    method, wave = trainer.method, waves(2)

    @jax.jit
    def run(params, rng):
      x = method.spectrogram(method.levelled(wave))
      prediction = method.predict(params, x, method.draw(rng, 2), train=False)
      return x, prediction, method.pictures(params, {}, {'waveform': wave}, rng)['prediction']

    x, prediction, drawn = run(last.params, jax.random.key(0))
    pixels = np.asarray(patchify(x, 8))
    expected = np.asarray(prediction) * pixels.std(-1, ddof=1, keepdims=True) + pixels.mean(-1, keepdims=True)
    expected = method.coloured(unpatchify(expected, 8, (32, 32)), x)
    np.testing.assert_allclose(drawn, expected, atol=1e-3)  # the variance has 1e-6 added to it


@pytest.mark.slow
class TestGlobal(Sounds, ShortBattery):
  def make(self):
    return tiny_audio_mae(decoder=GLOBAL, masking='time+frequency', mask_2d=(0.5, 0.5), rms=0.1, norm_pix=False)

  def make_without_batchnorm(self):
    return self.make()


def official(path, shape):
  x = np.random.default_rng([0, zlib.crc32(path.encode())]).standard_normal(shape)
  if path.endswith('/tau'):
    return np.float32(0.3 + 0.2 * np.abs(x))
  return np.float32(path.endswith('scale') + 0.1 * x if len(shape) == 1 else x / np.sqrt(np.prod(shape[:-1])))


@pytest.mark.parametrize('name', [pytest.param('global', marks=pytest.mark.slow), 'local'])
def test_it_is_the_official_code(golden, name):
  """Masks, prediction, loss and all gradients, with its positions."""
  reference = np.load(golden / 'model_audio_mae.npz')
  sizes = dict(**SIZES, mlp_ratio=2.0, positions=Transposed())
  decoder = Decoder(**sizes, depth=2, channels=1) if name == 'global' else LocalDecoder(**sizes, depth=2)
  method = tiny_audio_mae(
    encoder=ViT(**sizes, depth=1, weight_init='mae'), decoder=decoder, frames=64, waveform=Waveform(seconds=0.655, rate=RATE)
  )
  x = reference['spectrogram'][..., None]
  params = tree.map_with_path(
    lambda path, s: official(path, s.shape), jax.eval_shape(lambda key: method.init(key, x)[0], jax.random.key(0))
  )

  @jax.jit
  def run(params):
    def loss(params):
      removed = from_noise(reference['noise'], *method.kept)
      prediction = method.predict(params, x, removed, train=False)
      return method.compare(prediction, x, removed.masked)[0], (prediction, removed)

    return jax.value_and_grad(loss, has_aux=True)(params)

  (loss, (prediction, removed)), gradient = run(params)
  np.testing.assert_array_equal(removed.masked, reference[f'{name}/mask'])
  np.testing.assert_allclose(prediction[:, ::5], reference[f'{name}/prediction'], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(loss, reference[f'{name}/loss'], rtol=1e-5)
  gradients = dict(zip(tree.paths(gradient), jax.tree.leaves(gradient), strict=True))
  assert {f'{name}/gradient/{path}' for path in gradients} == {key for key in reference if key.startswith(f'{name}/gradient')}
  for path, g in gradients.items():
    expected = reference[f'{name}/gradient/{path}'].reshape(g.shape)
    # A bias that all scores share has none: 1e-9 there.
    np.testing.assert_allclose(g, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max() + 1e-8, err_msg=path)


def test_the_official_positions(golden):
  """Those of the transposed grid, laid over the patches row by row; not those of the places."""
  table = np.load(golden / 'model_audio_mae.npz')['positions']
  np.testing.assert_allclose(Transposed()((8, 4), 16).reshape(32, 16), table, atol=1e-6)
  assert len(np.unique(table.round(4), axis=0)) == 32


def test_the_spectrogram_is_the_official_one(golden):
  """torchaudio's fbank, cut or filled up with zeros, then normalised; in float64 but for the logarithms."""
  reference = np.load(golden / 'log_mel.npz')
  fbank, wave = np.float64(reference['kaldi_audiomae']), reference['wave16'][None]
  for frames in (64, 32):
    method = tiny_audio_mae(mels=128, frames=frames, waveform=Waveform(seconds=0.5))
    expected = np.concatenate([fbank, np.zeros((64, 128))])[:frames]
    expected = (expected + 4.2677393) / (2 * 4.5689974)
    np.testing.assert_allclose(method.spectrogram(method.levelled(wave + 0.1))[0, ..., 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_roll_and_magnitude():
  """x of row i comes back shifted by any number of samples, times Beta(10, 10) + 0.5; rows draw for themselves."""
  method, rows, n = tiny_audio_mae(), 2000, 64
  x = np.random.default_rng(0).standard_normal((rows, n)).astype(np.float32)
  out = np.asarray(jax.jit(method.disturbed)(jax.random.key(0), x))
  shift = [np.argmax(np.fft.irfft(np.fft.rfft(b) * np.conj(np.fft.rfft(a)))) for a, b in zip(x, out, strict=True)]
  magnitude = np.linalg.norm(out, axis=1) / np.linalg.norm(x, axis=1)
  for row in range(rows):
    np.testing.assert_allclose(out[row], np.roll(x[row], shift[row]) * magnitude[row], rtol=1e-5, atol=1e-6)
  counts = np.bincount(shift, minlength=n)
  assert ((counts - rows / n) ** 2 / (rows / n)).sum() < 103  # chi-square of 63 degrees: 1 in 1,000
  expected = np.sort(np.random.default_rng(1).beta(10, 10, 200_000) + 0.5)
  distance = np.abs(np.searchsorted(expected, np.sort(magnitude)) / len(expected) - (np.arange(rows) + 0.5) / rows).max()
  assert distance < 1.95 / np.sqrt(rows)  # Kolmogorov and Smirnov: 1 in 1,000
  np.testing.assert_array_equal(jax.jit(method.disturbed)(jax.random.key(0), x[:5]), out[:5])
  off = dataclasses.replace(method, roll=False, magnitude=False)
  np.testing.assert_array_equal(off.disturbed(jax.random.key(0), x), x)
  assert off.augmented(jax.random.key(0), {'waveform': x}) is None
  pair = method.augmented(jax.random.key(0), {'waveform': x[:4]})['waveform']
  assert pair.shape == (4, 2, n) and np.abs(pair[:, 0] - pair[:, 1]).max() > 0.1


def test_loudness():
  """rms=0.1: what is quieter or louder by any factor is the same sound; silence stays silent."""
  x = waves(3) + 0.2
  x[2] = 0
  level = tiny_audio_mae(rms=0.1).levelled(x)
  np.testing.assert_allclose(np.sqrt(np.square(level).mean(1)), [0.1, 0.1, 0], rtol=1e-5)
  np.testing.assert_allclose(tiny_audio_mae(rms=0.1).levelled(x / 7), level, atol=1e-6)
  np.testing.assert_allclose(tiny_audio_mae().levelled(x), x - x.mean(1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
  'masking, ratios, times, bands',
  [
    ('random', {}, 0, 0),
    ('time', {'mask_ratio': 0.5}, 2, 4),
    ('frequency', {'mask_ratio': 0.75}, 4, 1),
    ('time+frequency', {'mask_2d': (0.5, 0.25)}, 2, 3),
  ],
)
def test_masks(masking, ratios, times, bands):
  """Exact numbers; whole times or bands where that is asked for; every place as often as any other; row i by itself."""
  method, wanted = tiny_audio_mae(masking=masking, **ratios), times * bands or 3
  draw = jax.jit(method.draw, static_argnums=1)
  removed = jax.tree.map(np.asarray, draw(jax.random.key(0), 2000))
  kept = ~removed.masked.reshape(2000, 4, 4)
  assert (kept.sum((1, 2)) == wanted).all() and removed.kept.shape == (2000, wanted)
  assert np.abs(kept.mean(0) - wanted / 16).max() < 0.05
  if times:
    np.testing.assert_array_equal(kept, kept.any(2, keepdims=True) & kept.any(1, keepdims=True))
    assert (kept.any(2).sum(1) == times).all() and (kept.any(1).sum(1) == bands).all()
  assert np.take_along_axis(kept.reshape(2000, 16), removed.kept, 1).all()
  np.testing.assert_array_equal(draw(jax.random.key(0), 7).masked, removed.masked[:7])


def test_as_many_patches_as_the_recipe_says():
  """Of 64 x 8: int(512 * 0.2), and 19 of 64 times by 5 of 8 bands, as in random_masking and random_masking_2d."""
  full = dict(encoder=ViT(**{**SIZES, 'patch': 16}, depth=1), decoder=LocalDecoder(**{**SIZES, 'patch': 16}, depth=1))
  assert AudioMAE(**full).grid == (64, 8) and AudioMAE(**full).windowing == (400, 160)
  for masking, kept in (('random', (102,)), ('time', (12, 8)), ('frequency', (64, 1)), ('time+frequency', (19, 5))):
    assert AudioMAE(**full, masking=masking).kept == kept


@pytest.mark.parametrize('norm_pix', [True, False])
def test_the_loss_written_out(norm_pix):
  """The mean over removed patches of the mean over their pixels; targets by the sample variance of each patch."""
  method, rng = tiny_audio_mae(norm_pix=norm_pix), np.random.default_rng(0)
  x, prediction = rng.standard_normal((2, 32, 32, 1), np.float32), rng.standard_normal((2, 16, 64), np.float32)
  masked = np.asarray(method.draw(jax.random.key(0), 2).masked)
  errors, variances = [], []
  for row, place in zip(*np.nonzero(masked), strict=True):
    time, band = divmod(place, 4)
    target = np.float64(x[row, 8 * time : 8 * time + 8, 8 * band : 8 * band + 8, 0]).ravel()
    if norm_pix:
      target = (target - target.mean()) / np.sqrt(target.var(ddof=1) + 1e-6)
    errors.append(((prediction[row, place] - target) ** 2).mean())
    variances.append(target.var())
  assert len(errors) == 2 * 13
  loss, metrics = method.compare(prediction, x, masked)
  np.testing.assert_allclose(loss, np.mean(errors), rtol=1e-5)
  np.testing.assert_allclose(metrics['baseline_loss'], np.mean(variances), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('decoder', [GLOBAL, tiny_audio_mae().decoder])
def test_removed_patches_do_not_reach_the_prediction(decoder):
  method = tiny_audio_mae(norm_pix=False, decoder=decoder)
  x = np.asarray(method.spectrogram(waves(4)))
  rng = np.random.default_rng(1)
  params = jax.jit(lambda key: method.init(key, x)[0])(jax.random.key(0))
  params = jax.tree.map(lambda p: np.asarray(p) + 0.1 * rng.standard_normal(p.shape, np.float32), params)
  removed = jax.jit(method.draw, static_argnums=1)(jax.random.key(2), 4)
  predict = jax.jit(lambda x: method.predict(params, x, removed, train=False))
  prediction = np.asarray(predict(x))
  hidden = np.asarray(removed.masked).reshape(4, 4, 4).repeat(8, 1).repeat(8, 2)[..., None]
  np.testing.assert_allclose(predict(np.where(hidden, 1 - x, x)), prediction, atol=1e-5)
  assert np.abs(predict(np.where(hidden, x, 1 - x)) - prediction).max() > 1e-2


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'mask_ratio': 1.0}, 'mask_ratio must be in'), ({'mask_2d': (0.5, 1.0)}, 'mask_2d must be in'),
    ({'mask_ratio': 0.95}, 'leaves no patch of 4 x 4'), ({'masking': 'time'}, 'leaves no patch'),
    ({'masking': 'grid'}, "masking='grid'"),
    ({'mels': 36}, 'mels=36 is no multiple of 8'), ({'frames': 36}, 'frames=36 is no multiple of 8'),
    ({'frames': 1024}, 'gives 30, one every 10 ms'), ({'frames': 8}, 'half to twice'), ({'mels': 0}, 'mels=0'),
    ({'waveform': Waveform(seconds=0.02, rate=RATE)}, 'gives 0'), ({'waveform': Waveform(seconds=0.3, rate=50)}, 'gives 0'),
    ({'std': 0.0}, 'std=0.0'), ({'rms': -0.1}, 'rms=-0.1'),
    ({'decoder': GLOBAL.clone(patch=(8, 4))}, r'decoder.patch=\(8, 4\) must be encoder.patch=\(8, 8\)'),
    ({'decoder': GLOBAL.clone(class_token=False)}, 'decoder.class_token=False'),
    ({'decoder': GLOBAL.clone(channels=3)}, 'decoder.channels=3'),
    ({'decoder': LocalDecoder(**SIZES, window=(3, 2))}, r'decoder.window=\(3, 2\) does not divide 4 x 4'),
    ({'decoder': LocalDecoder(**SIZES, window=(2, 2, 2), shift=(1, 0, 0))}, 'decoder.window'),
    ({'encoder': ViT(**{**SIZES, 'patch': (2, 8, 8)}, depth=1)}, '3 sides'),
  ],
)  # fmt: skip
def test_impossible_values_are_refused(changes, words):
  """When the config is built: before anything is opened or compiled."""
  with pytest.raises(ValueError, match=words):
    tiny_audio_mae(**changes)


def test_a_config_is_refused_where_it_is_read():
  sizes = dict(width=16, heads=2, depth=1, positions=spec(Transposed))
  node = spec(AudioMAE, encoder=spec(ViT, **sizes), decoder=spec(LocalDecoder, **sizes))
  assert build(node).decoder.positions == Transposed()
  node.frames = 1000
  with pytest.raises(UserError, match='config.method: .*AudioMAE refused its arguments: frames=1000 is no multiple of 16'):
    build(node, 'config.method')
