"""Log-mel spectrograms on device, in the two definitions that published audio models were trained on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

DEFINITIONS = ('kaldi', 'librosa')
KALDI_FLOOR = 1.1920929e-07  # of a mel band's energy: the epsilon of float32
QUIETEST_DB = -100.0  # of librosa: power_to_db's amin=1e-10


def log_mel(
  waveform: jax.Array,
  *,
  rate: int,
  definition: str = 'kaldi',
  window: int = 400,
  hop: int = 160,
  n_mels: int = 128,
  f_min: float | None = None,
  f_max: float | None = None,
  fft: int = 0,
  preemphasis: float = 0.97,
  top_db: float | None = 80.0,
) -> jax.Array:
  """Energies of mel bands in short windows, as their logarithms.

  'kaldi' is `torchaudio.compliance.kaldi.fbank` with htk_compat=True, use_energy=False, window_type='hanning', dither=0, as
  Audio-MAE calls it (Huang et al. 2022, arXiv:2207.06405; dataset.py): natural logarithms; only windows that lie inside the
  waveform; of each the mean is taken off, then preemphasis, then a symmetric Hann window. 25 and 10 ms are the window and hop of
  the defaults at 16 kHz.

  'librosa' is `librosa.feature.melspectrogram` (its defaults: Slaney's mels and norm, power 2, windows centred on multiples of
  the hop, zeros beyond the ends) and `power_to_db`: decibels, a periodic Hann window. Its own defaults are rate=22050,
  window=2048, hop=512.

  Args:
    waveform: [B, N], any float, in [-1, 1]; computed in float32.
    rate: samples per second.
    definition: 'kaldi' or 'librosa'.
    window: samples; kaldi counts 25 ms as int(rate * 0.025).
    hop: samples from one window to the next.
    n_mels: bands.
    f_min: Hz, lower edge of the first band; None: 20 for kaldi, 0 for librosa.
    f_max: Hz, upper edge of the last band; None: half the rate.
    fft: points of the transform, at least `window`; 0: the next power of two for kaldi, `window` for librosa.
    preemphasis: of kaldi.
    top_db: of librosa: what is further below the row's maximum is raised to it; None: nothing.

  Returns:
    [B, frames, n_mels] float32; frames is 1 + (N - window) // hop for kaldi, 1 + N // hop for librosa.

  Raises:
    ValueError: sizes that do not fit.
  """
  fft = fft or (1 << (window - 1).bit_length() if definition == 'kaldi' else window)
  _check(waveform.shape, definition, window, hop, fft)
  x = waveform.astype(jnp.float32)
  if definition == 'kaldi':
    x = frames(x, window, hop)
    x = x - x.mean(-1, keepdims=True)
    # ORDER MATTERS: the first sample is its own predecessor, in each window anew.
    x = x - preemphasis * jnp.concatenate([x[..., :1], x[..., :-1]], -1)
    x = jnp.pad(x * _hann(window, window - 1)[None, None], ((0, 0), (0, 0), (0, fft - window)))
  else:
    x = frames(jnp.pad(x, ((0, 0), (fft // 2, fft // 2))), fft, hop)
    left = (fft - window) // 2
    x = x * np.pad(_hann(window, window), (left, fft - window - left))[None, None]
  spectrum = jnp.fft.rfft(x, axis=-1)
  power = spectrum.real**2 + spectrum.imag**2  # not abs() ** 2, whose gradient is NaN at 0
  f_min = (20.0 if definition == 'kaldi' else 0.0) if f_min is None else f_min
  filters = mel_filters(rate, fft, n_mels, f_min, rate / 2 if f_max is None else f_max, definition)
  # HIGHEST: a matrix unit would round to bfloat16, which is 3 % of the quietest bands.
  mel = jnp.einsum('btf,mf->btm', power, filters, precision=jax.lax.Precision.HIGHEST)
  if definition == 'kaldi':
    return jnp.log(jnp.maximum(mel, KALDI_FLOOR))
  decibels = 10 * jnp.log10(jnp.maximum(mel, 10 ** (QUIETEST_DB / 10)))
  return decibels if top_db is None else jnp.maximum(decibels, decibels.max((1, 2), keepdims=True) - top_db)


def frames(x: jax.Array, window: int, hop: int) -> jax.Array:
  """[B, N] -> [B, 1 + (N - window) // hop, window]: the windows that lie inside, each one slice and not `window` single reads."""
  starts = hop * jnp.arange(1 + (x.shape[1] - window) // hop)
  return jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(x, start, window, axis=1), out_axes=1)(starts)


@functools.lru_cache(maxsize=16)
def mel_filters(rate: int, fft: int, n_mels: int, f_min: float, f_max: float, definition: str) -> np.ndarray:
  """Triangles that overlap by half, [n_mels, fft // 2 + 1] float32.

  kaldi: triangles in mels, of height 1, and the band at half the rate counts for nothing. librosa: triangles in Hz, of area 1.

  Raises:
    ValueError: frequencies that are no band.
  """
  if not 0 <= f_min < f_max <= rate / 2:
    raise ValueError(f'f_min={f_min:g} and f_max={f_max:g} must be ascending and within 0 to {rate / 2:g}, half the rate')
  hz = np.arange(fft // 2 + 1) * rate / fft
  to_mel, to_hz = (_htk, None) if definition == 'kaldi' else (_slaney, _slaney_hz)
  edges = np.linspace(to_mel(f_min), to_mel(f_max), n_mels + 2)
  edges, places = (edges, to_mel(hz)) if to_hz is None else (to_hz(edges), hz)
  low, mid, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
  filters = np.maximum(0, np.minimum((places - low) / (mid - low), (high - places) / (high - mid)))
  if definition == 'librosa':
    filters *= 2 / (high - low)
  elif fft % 2 == 0:
    filters[:, -1] = 0
  filters = filters.astype(np.float32)
  filters.flags.writeable = False  # it is kept
  return filters


def _htk(hz):
  return 1127 * np.log1p(np.asarray(hz, np.float64) / 700)


def _slaney(hz):
  """Linear below 1000 Hz, logarithmic above: M. Slaney, Auditory Toolbox (1998)."""
  hz = np.asarray(hz, np.float64)
  return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def _slaney_hz(mel):
  return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((np.maximum(mel, 15) - 15) * np.log(6.4) / 27))


def _hann(n, period):
  """[n] float32; period n: periodic, n - 1: symmetric."""
  return np.float32(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / max(1, period)))


def _check(shape, definition, window, hop, fft):
  if definition not in DEFINITIONS:
    raise ValueError(f'definition={definition!r} is neither {" nor ".join(map(repr, DEFINITIONS))}')
  if len(shape) != 2:
    raise ValueError(f'waveform: expected [B, N], got {list(shape)}')
  if window < 2 or hop < 1 or fft < window:
    raise ValueError(f'window={window}, hop={hop}, fft={fft}: expected hop >= 1 and 2 <= window <= fft')
  if definition == 'kaldi' and shape[1] < window:
    raise ValueError(f'waveform: {shape[1]} samples are less than one window of {window}')
