"""Sound: 'waveform' [N] float32 in [-1, 1], one channel, a window of a recording."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from sslax.data import sound
from sslax.errors import BadRecord
from sslax.method import Input, Picture
from sslax.ops import mel

BASELINE_MELS = 40
SHOWN_MELS = 64
SHOWN_DB = 80.0  # from the loudest to black
# Black, violet, red, yellow, white, ever brighter: what is louder is lighter.
COLOURS = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float32)

_log_mel = jax.jit(mel.log_mel, static_argnames=('rate', 'definition', 'window', 'hop', 'n_mels', 'fft', 'top_db'))


@dataclasses.dataclass(frozen=True)
class Waveform(Input):
  """What a config says of sound: 'waveform' [round(seconds * rate)] float32 of the field `audio` of a record, or of its `video`.

  That is the bytes of a flac, wav, ogg or mp3 file, samples [N] or [N, channels] with their `rate` beside them, or the bytes of
  an mp4, webm or avi file, of which the first track of sound is taken. Channels are averaged and another rate is converted, of
  the whole recording: a window is exactly a slice of it. Training takes a window at a random place, evaluation the central one;
  what is shorter gets zeros at its end. Empty recordings, and NaN or Inf in one, are bad records.

  Attributes:
    seconds: of the window.
    rate: samples per second.
    max_seconds: longer recordings are bad records: each is decoded whole.
    keep_seconds: about how long a recording is, for decoded ones to be kept in memory where those of the whole set fit (see
      `pipeline.train_batches`); 0: they are decoded anew each time.
  """

  seconds: float = 1.0
  rate: int = 16_000
  max_seconds: float = 600.0
  keep_seconds: float = 0.0

  baseline_name: ClassVar[str] = 'mean spectrum'

  def __post_init__(self) -> None:
    if not 1 <= self.rate <= sound.MAX_RATE:
      raise ValueError(f'rate={self.rate} must be 1 to {sound.MAX_RATE} samples per second')
    if not 0.5 <= self.seconds * self.rate < 2**31:
      raise ValueError(f'seconds={self.seconds} must hold at least one sample at rate={self.rate}')
    if not 0 < self.max_seconds < float('inf'):
      raise ValueError(f'max_seconds={self.max_seconds} must be more than 0')
    if not 0 <= self.keep_seconds <= self.max_seconds:
      raise ValueError(f'keep_seconds={self.keep_seconds} must be 0 to max_seconds={self.max_seconds}')

  def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    return {'waveform': jax.ShapeDtypeStruct((round(self.seconds * self.rate),), np.float32)}

  def decode(self, record: Mapping[str, Any]) -> np.ndarray:
    samples, rate = self._whole(record)
    return np.clip(sound.resample(samples, rate, self.rate), -1, 1)

  def draw(self, decoded: np.ndarray, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
    n = round(self.seconds * self.rate)
    spare = max(0, len(decoded) - n)
    start = spare // 2 if rng is None else int(rng.integers(spare + 1))
    window = decoded[start : start + n]
    return {'waveform': np.pad(window, (0, n - len(window)))}

  def kept_bytes(self) -> int | None:
    return round(4 * self.keep_seconds * self.rate) or None

  def describe(self, records: Sequence[Mapping[str, Any]]) -> str:
    found = [self._whole(record) for record in records]
    seconds, rates = [len(samples) / rate for samples, rate in found], [rate for _, rate in found]
    return f'{_span(seconds, ".1f")} s of sound at {_span(rates, "d")} Hz'

  def baseline(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The mean of the log-mel spectrogram over time, less its mean over the bands, which is the loudness: [N, 40]."""
    waves = np.asarray(arrays['waveform'])
    parts = [self._log_mel(waves[i : i + 64], BASELINE_MELS, top_db=None).mean(1) for i in range(0, len(waves), 64)]
    rows = np.concatenate(parts)
    return rows - rows.mean(1, keepdims=True)

  def show(self, arrays: dict[str, np.ndarray]) -> list[Picture]:
    """Log-mel spectrograms: time to the right, frequency upwards, 10 ms a pixel, black is 80 dB below the loudest."""
    pictures: list[Picture] = []
    for wave in np.asarray(arrays['waveform']):
      (db,) = self._log_mel(wave[None], SHOWN_MELS, top_db=SHOWN_DB)
      loudest = max(db.max(), mel.QUIETEST_DB + SHOWN_DB)  # or silence would be the brightest of all
      level = np.clip((db - loudest) / SHOWN_DB + 1, 0, 1).T[::-1]
      steps = np.linspace(0, 1, len(COLOURS))
      pictures.append(np.stack([np.interp(level, steps, c) for c in COLOURS.T], -1).round().astype(np.uint8))
    return pictures

  def _whole(self, record: Mapping[str, Any]) -> tuple[np.ndarray, int]:
    """A recording at its own rate, one channel."""
    if 'audio' not in record and not isinstance(record.get('video'), bytes):
      raise BadRecord(f'no sound: the record has {", ".join(map(str, record)) or "nothing"}')
    audio = record['audio'] if 'audio' in record else record['video']
    return sound.decode(audio, record.get('rate'), max_seconds=self.max_seconds)

  def _log_mel(self, waves, n_mels, top_db):
    """[B, N] -> [B, frames, n_mels] decibels: windows of 25 ms, every 10 ms, at whatever rate."""
    window, hop = max(2, round(0.025 * self.rate)), max(1, round(0.01 * self.rate))
    how = {'window': window, 'hop': hop, 'fft': 1 << (window - 1).bit_length(), 'n_mels': n_mels, 'top_db': top_db}
    return np.asarray(_log_mel(waves, rate=self.rate, definition='librosa', **how))


def _span(numbers, form):
  low, high = f'{min(numbers):{form}}', f'{max(numbers):{form}}'
  return low if low == high else f'{low}-{high}'
