"""Videos and sources for the tests of inputs: frames that say their number, records in memory, members of real tars."""

import io
import tarfile
from collections.abc import Iterable

import av
import numpy as np

from sslax.data import pipeline

STEP = 6  # of brightness from one frame to the next


def numbered(n: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
  """n frames [H, W, 3], of which each is as bright as its number says; up to 38."""
  return [np.full((height, width, 3), 16 + STEP * i, np.uint8) for i in range(n)]


def numbers(clip: Iterable[np.ndarray]) -> list[int]:
  """Which frames of `numbered` the frames of a clip are."""
  return [round((float(frame.mean()) - 16) / STEP) for frame in clip]


def encode(frames, container='mp4', codec='libx264', *, rate=25, pts=None, time_base=None, sound=None, **options) -> bytes:
  """A video file; `pts` of each frame in units of 1 / rate; `sound`: (samples [channels, N] float32, rate) beside it."""
  out = io.BytesIO()
  with av.open(out, 'w', format=container) as file:
    stream = file.add_stream(codec, rate=rate)
    stream.height, stream.width = frames[0].shape[:2]
    stream.bit_rate = 4_000_000  # so that brightness survives
    stream.pix_fmt, stream.options = 'yuv420p', {key: str(value) for key, value in options.items()}
    track = None
    if sound is not None:
      track = file.add_stream('aac', rate=sound[1], layout='stereo' if len(sound[0]) == 2 else 'mono')
    for i, image in enumerate(frames):
      frame = av.VideoFrame.from_ndarray(image, format='rgb24')
      if pts is not None:
        frame.pts = pts[i]
      file.mux(stream.encode(frame))
    file.mux(stream.encode(None))
    if track is not None:
      frame = av.AudioFrame.from_ndarray(sound[0], format='fltp', layout=track.layout.name)
      frame.sample_rate, frame.pts = sound[1], 0
      resampler = av.AudioResampler('fltp', track.layout.name, sound[1], frame_size=1024)
      for part in [*resampler.resample(frame), *resampler.resample(None)]:
        file.mux(track.encode(part))
      file.mux(track.encode(None))
  return out.getvalue()


class Memory:
  """Records by number; counts how often each was read."""

  name, classes = 'memory', ()

  def __init__(self, records):
    self.records, self.reads = records, []
    self.num_classes = 1 + max((record.get('label', -1) for record in records), default=-1)

  def __len__(self):
    return len(self.records)

  def __getitem__(self, i):
    self.reads.append(i)
    return self.records[i]

  def where(self, i):
    return f'memory {i}'


def of_tar(path, suffix, field, stop=None) -> Memory:
  """The members *.suffix of a tar as `field`, with the numbers in *.cls as labels."""
  with tarfile.open(path) as tar:
    members = {member.name: member for member in tar if member.isreg()}
    names = [name for name in members if name.endswith(suffix)][:stop]
    read = lambda name: tar.extractfile(members[name]).read()
    return Memory([{field: read(name), 'label': int(read(name.removesuffix(suffix) + '.cls'))} for name in names])


def take(source, value, n, **how) -> list[dict[str, np.ndarray]]:
  """The first n batches of training."""
  how = {'batch_size': 8, 'seed': 3, 'threads': 2} | how
  with pipeline.train_batches(source, {'x': value}, **how) as batches:
    return [next(batches) for _ in range(n)]


def evaluated(source, value, **how) -> tuple[dict[str, np.ndarray], int]:
  """All rows of evaluation, without padding, and how many records were bad."""
  with pipeline.eval_batches(source, {'x': value}, batch_size=8, **how) as batches:
    rows = list(batches)
    keep = np.concatenate([batch['mask'] for batch in rows])
    return {key: np.concatenate([batch[key] for batch in rows])[keep] for key in rows[0]}, batches.bad


def same(a, b):
  """Two lists of batches are equal, bit for bit."""
  assert len(a) == len(b)
  for x, y in zip(a, b, strict=True):
    assert x.keys() == y.keys()
    for key in x:
      assert x[key].dtype == y[key].dtype
      np.testing.assert_array_equal(x[key], y[key], err_msg=key)


def nearest(train, train_label, test, test_label) -> float:
  """Accuracy of the nearest neighbour by cosine."""
  unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
  return float((train_label[(unit(test) @ unit(train).T).argmax(1)] == test_label).mean())
