"""Damaged and hostile files: a row of the right shape, or a BadRecord of one line; never a crash, and nothing is left behind."""

import io
import os
import threading

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import media

from sslax.errors import BadRecord
from sslax.inputs.clip import Clip
from sslax.inputs.waveform import Waveform

SOME = settings(max_examples=60, deadline=None, database=None, derandomize=True)


def sound(kind, subtype):
  out = io.BytesIO()
  soundfile.write(out, np.stack([np.sin(np.arange(4000) / 9)] * 2, 1), 8000, format=kind, subtype=subtype)
  return out.getvalue()


TONE = np.float32(np.sin(np.arange(12_000) / 9))[None]
VIDEOS = {
  'mp4': media.encode(media.numbered(20), 'mp4', 'libx264', g=8, bf=2, sound=(TONE, 16_000)),
  'webm': media.encode(media.numbered(20), 'webm', 'libvpx', g=8),
  'avi': media.encode(media.numbered(20), 'avi', 'mpeg4', g=8),
}
SOUNDS = {'wav': sound('WAV', 'PCM_16'), 'flac': sound('FLAC', 'PCM_16'), 'ogg': sound('OGG', 'VORBIS'),
          'mp3': sound('MP3', 'MPEG_LAYER_III'), 'float': sound('WAV', 'FLOAT')}  # fmt: skip

MAGIC = [b'', b'fLaC', b'OggS', b'ID3', b'\xff\xfb', b'RIFF', b'\x1a\x45\xdf\xa3', b'\0\0\0\x18ftypisom', b'RIFF\x24\0\0\0AVI ',
         b'RIFF\x24\0\0\0WAVEfmt ']  # fmt: skip

# (where in the file as a fraction, what): bits that flip, bytes that vanish, bytes that come; then perhaps a cut
DAMAGE = st.tuples(
  st.lists(
    st.tuples(
      st.one_of(st.floats(0, 0.999), st.floats(0, 0.05), st.floats(0.9, 0.999)),
      st.one_of(st.integers(0, 7), st.sampled_from([b'', b'\xff\xff\xff\xff', b'\0\0\0\0', b'\x7f\xff\xff\xff'])),
    ),
    max_size=12,
  ),
  st.one_of(st.just(1.0), st.floats(0, 1)),
)


def damaged(data, damage):
  data = bytearray(data)
  for where, what in damage[0]:
    at = int(where * len(data))
    if isinstance(what, int):
      data[at] ^= 1 << what
    elif what:
      data[at : at + 4] = what
    else:
      del data[at : at + 7]
  return bytes(data[: round(damage[1] * len(data))])


def usable(value, record):
  """Whether a row comes of it; whatever else happens fails the test."""
  try:
    (array,) = value.draw(value.decode(record), np.random.default_rng(0)).values()
  except BadRecord as error:
    assert str(error) and '\n' not in str(error) and len(str(error)) < 400
    return False
  (expected,) = value.shapes().values()
  assert array.shape == expected.shape and array.dtype == expected.dtype
  assert array.dtype == np.uint8 or np.abs(array).max() <= 1  # not NaN
  return True


@pytest.mark.parametrize('name', VIDEOS)
@given(damage=DAMAGE)
@SOME
def test_videos(name, damage):
  for value in (Clip(frames=4, stride=3, size=16), Clip(frames=4, stride=3, size=16, keep_frames=30), Waveform(0.1)):
    usable(value, {'video': damaged(VIDEOS[name], damage)})


@pytest.mark.parametrize('name', SOUNDS)
@given(damage=DAMAGE)
@SOME
def test_sounds(name, damage):
  usable(Waveform(0.1), {'audio': damaged(SOUNDS[name], damage)})


@given(data=st.binary(max_size=300), magic=st.sampled_from(MAGIC))
@SOME
def test_nothing_at_all(data, magic):
  for value in (Clip(frames=2, size=8), Waveform(0.1)):
    usable(value, {'video': magic + data, 'audio': magic + data})


def test_what_is_whole_before_a_cut_is_used():
  """A webm that ends early, and an mp4 whose stream is damaged in the middle: the last good frame stands for the missing ones."""
  clip = Clip(frames=20, stride=1, size=16)
  draw = lambda data: media.numbers(clip.draw(clip.decode({'video': data}), None)['clip'])
  cut = draw(VIDEOS['webm'][: len(VIDEOS['webm']) * 2 // 3])
  last = max(cut)
  assert 3 < last < 19 and cut == [*range(last + 1), *[last] * (19 - last)]
  data = bytearray(VIDEOS['mp4'])
  at = data.index(b'mdat') + 8
  for i in range(at + 900, at + 1000, 7):
    data[i] ^= 255
  assert len(draw(bytes(data))) == 20


def test_a_frame_of_a_hundred_million_pixels_is_not_decoded():
  """Bits in the stream that announce far larger frames than the file does: FFmpeg is told what is plausible."""
  small, large = (media.encode([np.zeros((n, n, 3), np.uint8)] * 3, 'avi', 'mpeg4') for n in (64, 2048))
  grown = bytearray(large)
  # the sizes in the file's headers become those of the small one: 4 bytes each, width and height
  for name, offset in ((b'avih', 8 + 32), (b'strf', 8 + 4)):
    at = grown.index(name) + offset
    grown[at : at + 8] = small[small.index(name) + offset : small.index(name) + offset + 8]
  assert usable(Clip(frames=2, size=8), {'video': large})
  value = Clip(frames=2, size=8, max_pixels=2000 * 2000)
  assert not usable(value, {'video': large}) and not usable(value, {'video': bytes(grown)})


def test_nothing_is_left_behind():
  """Neither threads nor open files nor memory, from whole files and from damaged ones: what 600 more decodings add is noise."""
  resident = lambda: int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20
  rng = np.random.default_rng(0)
  files = [*({'video': data} for data in VIDEOS.values()), *({'audio': data} for data in SOUNDS.values())]
  values = [Clip(frames=4, stride=2, size=16), Waveform(0.1)]

  def decode(n):
    for i in range(n):
      record = files[i % len(files)]
      ((key, data),) = record.items()
      if i % 3 == 0:
        at = int(rng.integers(len(data)))
        data = data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]
      usable(values[key == 'audio'], {key: data})

  decode(300)
  threads, descriptors, memory = threading.active_count(), len(os.listdir('/proc/self/fd')), resident()
  tasks = len(os.listdir('/proc/self/task'))
  decode(600)
  assert threading.active_count() == threads and len(os.listdir('/proc/self/fd')) == descriptors
  assert len(os.listdir('/proc/self/task')) <= tasks
  assert resident() - memory < 20
