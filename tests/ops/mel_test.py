"""Log-mel spectrograms against torchaudio's and librosa's, and what a tone must look like."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslax.ops import mel

CASES = {  # entry of golden/log_mel.npz: waveform, arguments
  'kaldi_audiomae': ('wave16', {'rate': 16_000}),
  'kaldi_22': ('wave22', {'rate': 22_050, 'window': 551, 'hop': 264, 'n_mels': 40, 'f_min': 60, 'f_max': 7000}),
  'librosa_default': ('wave22', {'rate': 22_050, 'definition': 'librosa', 'window': 2048, 'hop': 512}),
  'librosa_16': ('wave16', {'rate': 16_000, 'definition': 'librosa', 'fft': 512, 'n_mels': 64, 'f_min': 50, 'f_max': 7600}),
  'librosa_odd': ('wave22', {'rate': 22_050, 'definition': 'librosa', 'window': 551, 'hop': 220, 'n_mels': 40}),
}


@pytest.mark.parametrize('name', CASES)
def test_as_the_libraries_have_it(golden, name):
  """To 1e-4 of a natural logarithm, or of a decibel."""
  with np.load(golden / 'log_mel.npz') as stored:
    (wave, how), expected = CASES[name], stored[name]
    wave = stored[wave]
  found = np.asarray(jax.jit(lambda x: mel.log_mel(x, **how))(np.stack([wave, wave[::-1]])))
  assert found.dtype == np.float32 and found.shape == (2, *expected.shape)
  np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-4)
  assert np.abs(found[1] - expected).max() > 1  # rows are independent


@pytest.mark.parametrize('definition', mel.DEFINITIONS)
@pytest.mark.slow
def test_gradient(definition):
  """Against differences in float64-like steps; finite where there is silence, which is below every floor."""
  x = np.float32(0.1 * np.random.default_rng(0).standard_normal((2, 800)))
  how = {'rate': 16_000, 'definition': definition, 'n_mels': 20, 'window': 200, 'hop': 100, 'top_db': None}
  weight = np.random.default_rng(1).standard_normal(jax.eval_shape(lambda x: mel.log_mel(x, **how), x).shape, np.float32)
  loss = jax.jit(lambda x: jnp.sum(weight * mel.log_mel(x, **how)) / weight.size)
  gradient = np.asarray(jax.grad(loss)(x))
  step = np.float32(1e-3 * np.random.default_rng(2).standard_normal(x.shape))
  np.testing.assert_allclose(np.sum(gradient * step), (loss(x + step) - loss(x - step)) / 2, rtol=0.02)
  assert np.isfinite(jax.grad(loss)(jnp.zeros_like(x))).all()


@pytest.mark.parametrize('definition', mel.DEFINITIONS)
def test_a_tone_is_where_it_should_be(definition):
  """1000 Hz: the band whose middle is nearest, in all windows inside; 10 times the amplitude is ln 100, or 20 dB, more."""
  t = np.arange(8000) / 16_000
  x = np.stack([0.05 * np.sin(2 * np.pi * 1000 * t), 0.5 * np.sin(2 * np.pi * 1000 * t)]).astype(np.float32)
  log_mel = jax.jit(lambda x: mel.log_mel(x, rate=16_000, definition=definition, n_mels=40, f_min=0, fft=512))
  quiet, loud = np.asarray(log_mel(x))[:, 2:-2]
  filters = mel.mel_filters(16_000, 512, 40, 0, 8000, definition)
  assert set(loud.argmax(-1)) == {int(filters[:, 32].argmax())}  # bin 32 of 512 is 1000 Hz
  np.testing.assert_allclose(loud.max(-1) - quiet.max(-1), np.log(100) if definition == 'kaldi' else 20, atol=1e-3)


def test_filters():
  kaldi, librosa = (mel.mel_filters(16_000, 1024, 40, 100, 7000, name) for name in mel.DEFINITIONS)
  assert kaldi.shape == librosa.shape == (40, 513) and kaldi.dtype == np.float32
  hz = np.arange(513) * 16_000 / 1024
  for filters in (kaldi, librosa):
    assert (filters >= 0).all() and (filters[:, (hz <= 100) | (hz >= 7000)] < 1e-6).all() and (filters.max(1) > 0).all()
  inside = (hz > 150) & (hz < 6500)
  np.testing.assert_allclose(kaldi.sum(0)[inside], 1, atol=1e-5)  # triangles that overlap by half
  np.testing.assert_allclose(librosa[10:].sum(1) * 16_000 / 1024, 1, atol=0.05)  # of area 1


@pytest.mark.slow
def test_shapes_and_mistakes():
  x = np.zeros((3, 1600), np.float16)

  def shape(n, **how):
    out = jax.eval_shape(lambda x: mel.log_mel(x, rate=16_000, **how), x[:, :n])
    assert out.dtype == jnp.float32
    return out.shape

  assert shape(1600) == (3, 8, 128) and shape(400) == (3, 1, 128)
  assert shape(1600, definition='librosa', n_mels=30) == (3, 11, 30) and shape(1, definition='librosa') == (3, 1, 128)
  for definition, floor in (('kaldi', np.log(1.1920929e-07)), ('librosa', -100)):
    silent = jax.jit(lambda x, name=definition: mel.log_mel(x, rate=16_000, definition=name))(x)
    np.testing.assert_allclose(silent, np.full(silent.shape, floor), rtol=1e-6)
  rows = np.arange(20).reshape(2, 10)
  np.testing.assert_array_equal(mel.frames(jnp.asarray(rows), 4, 3), np.stack([rows[:, 3 * k : 3 * k + 4] for k in range(3)], 1))
  for how, message in [
    ({'definition': 'htk'}, "definition='htk'"), ({'window': 2000}, '1600 samples are less than one window of 2000'),
    ({'fft': 256}, 'fft=256'), ({'hop': 0}, 'hop=0'), ({'f_min': 9000}, 'f_min=9000'), ({'f_max': 9000}, 'f_max=9000'),
  ]:  # fmt: skip
    with pytest.raises(ValueError, match=message):
      mel.log_mel(x, rate=16_000, **how)
  with pytest.raises(ValueError, match='expected .B, N., got .1600.'):
    mel.log_mel(x[0], rate=16_000)
