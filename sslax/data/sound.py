"""Sound from anywhere to one channel of float32: flac, wav, ogg and mp3 by libsndfile, the sound of videos by PyAV, arrays."""

import contextlib
import io
from typing import Any

import numpy as np

from sslax.data import video
from sslax.errors import BadRecord
from sslax.io import extras

MAX_RATE = 384_000  # Hz; whoever says more is damaged
LOUDEST = 8.0  # lossy codecs overshoot 1 a little; what is louder are integers that nobody scaled
_BLOCK = 2**16  # samples of each channel that are read at once

# Only these, by their first bytes: libsndfile has 20 more readers.
_MAGIC = (b'fLaC', b'RIFF', b'RF64', b'OggS', b'ID3')


def decode(audio: Any, rate: int | None = None, *, max_seconds: float) -> tuple[np.ndarray, int]:
  """The mean of all channels.

  Args:
    audio: the bytes of a flac, wav, ogg or mp3 file, or of an mp4, webm or avi file that has sound; or samples [N] or
      [N, channels], floats in [-1, 1] or int16.
    rate: of samples, Hz.
    max_seconds: longer ones are refused, as soon as this is known.

  Returns:
    [N] float32 in about [-1, 1], and its rate in Hz.

  Raises:
    BadRecord: nothing of these, damaged, empty, or not finite.
    UserError: a package is missing.
  """
  with video.explained():
    if isinstance(audio, (bytes, bytearray, memoryview)):
      audio = bytes(audio)
      read = _of_video if video.container_format(audio) else _of_file
      samples, rate = read(audio, max_seconds)
    else:
      samples = _mono(_of_array(audio))
      if rate is None:
        raise BadRecord('samples without their `rate`')
      _check(len(samples), rate, max_seconds)
    if not len(samples):
      raise BadRecord('not one sample of sound')
    if not np.isfinite(samples).all():
      raise BadRecord('samples that are NaN or Inf')
    if np.abs(samples).max() > LOUDEST:
      raise BadRecord(f'samples up to {np.abs(samples).max():g}: floats must be in [-1, 1]')
    return samples, int(rate)


def resample(samples: np.ndarray, old: int, new: int) -> np.ndarray:
  """[N] float32 at another rate, in place: sample k is at k / rate before and after. Band-limited, without delay (soxr, HQ)."""
  if old == new:
    return samples
  # Of soxr, samplerate, resampy and scipy.signal, soxr is the fastest, librosa's own choice, and frees the interpreter's lock.
  return extras.need('soxr', 'audio').resample(np.ascontiguousarray(samples), old, new, quality='HQ')


def _of_file(data, max_seconds):
  if not data.startswith(_MAGIC) and not (data[:1] == b'\xff' and data[1:2] >= b'\xe0'):  # the latter is mp3 without tags
    raise BadRecord(f'no flac, wav, ogg or mp3: {len(data)} bytes that begin with {data[:12]!r}')
  with extras.need('soundfile', 'audio').SoundFile(io.BytesIO(data)) as file:
    _check(max(file.frames, 0), file.samplerate, max_seconds)
    blocks, n = [], 0
    # In blocks: what a header says of the length need not be true, and is not allocated.
    while len(block := file.read(_BLOCK, dtype='float32', always_2d=True)):
      n += len(block)
      _check(n, file.samplerate, max_seconds)
      blocks.append(_mono(block))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32), file.samplerate


def _of_video(data, max_seconds):
  """The first track of sound, its samples laid end to end, whatever their times."""
  with video.container(data) as file:
    if not file.streams.audio:
      raise BadRecord('no sound in the file')
    stream = file.streams.audio[0]
    codec = stream.codec_context
    if codec is None:
      raise BadRecord('the sound is coded in a way that this build of FFmpeg does not decode')
    codec.thread_type, codec.thread_count = 'NONE', 1
    damage = extras.need('av', 'video').FFmpegError
    blocks, n, rate = [], 0, codec.sample_rate
    with contextlib.suppress(damage):  # of a file that is cut off, what comes before the cut
      for packet in file.demux(stream):
        with contextlib.suppress(damage):  # one damaged packet; those after it may be whole
          for frame in codec.decode(packet):
            if frame.sample_rate != rate:
              raise BadRecord(f'the rate changes from {rate} to {frame.sample_rate} Hz within the file')
            block = frame.to_ndarray()  # [channels, N], or [1, N * channels]
            block = block.T if frame.format.is_planar else block.reshape(-1, frame.layout.nb_channels)
            n += len(block)
            _check(n, rate, max_seconds)
            blocks.append(_mono(_of_array(block)))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32), rate


def _of_array(x):
  """[N, channels] float32 in [-1, 1]; integers are divided by half their range."""
  if not isinstance(x, np.ndarray) or x.ndim not in (1, 2) or x.dtype.kind not in 'fiu':
    raise BadRecord(f'no sound: {type(x).__name__} {np.shape(x)}, expected the bytes of a file, or samples [N] or [N, channels]')
  x = x if x.ndim == 2 else x[:, None]
  if not 1 <= x.shape[1] <= 64:
    raise BadRecord(f'samples [N, channels] = {list(x.shape)}: expected 1 to 64 channels')
  if x.dtype.kind == 'f':
    return x.astype(np.float32)
  half = 2.0 ** (8 * x.dtype.itemsize - 1)
  return ((x - half if x.dtype.kind == 'u' else x) / half).astype(np.float32)


def _mono(x):
  """[N, channels] -> [N]."""
  if x.shape[1] == 1:
    return x[:, 0]
  with np.errstate(over='ignore', invalid='ignore'):  # what is not finite is refused later
    return x.mean(1, dtype=np.float32)


def _check(n, rate, max_seconds):
  if not 1 <= rate <= MAX_RATE:
    raise BadRecord(f'{rate} samples per second: expected 1 to {MAX_RATE:,}')
  if n > max_seconds * rate:
    raise BadRecord(f'longer than max_seconds={max_seconds:g}: {n / rate:.1f} s and perhaps more')
