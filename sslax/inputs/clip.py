"""Clips: 'clip' [T, S, S, 3] uint8, a window of a video."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from sslax.data import host, video
from sslax.errors import BadRecord
from sslax.inputs.image import raw_pixels
from sslax.method import Input, Picture

BASELINE_FRAMES = 4  # of a thumbnail
SHOWN = 8  # frames of a filmstrip, at most


@dataclasses.dataclass(frozen=True)
class Clip(Input):
  """What a config says of clips: 'clip' [frames, size, size, 3] uint8 of the field `video` of a record.

  That is the bytes of an mp4, webm or avi file, an array [T, H, W, 3], or a sequence of encoded images. Training takes a window
  at a random place, evaluation the central one. In a video that is shorter than the window the last frame is repeated. What is
  cut off or damaged is used as far as it decodes; a video of which nothing does is a bad record.

  A window of a file is decoded anew each time it is drawn. Small sets are trained on much faster with `keep_frames`: all frames
  of a clip are then decoded once and kept in memory, where those of the whole set fit (see `pipeline.train_batches`; without
  room for them it costs more than it saves).

  Attributes:
    frames: T.
    stride: the window takes every stride-th frame.
    size: S, pixels.
    fps: frames are taken by their times, as of a video with so many frames per second, of which the window again takes every
      stride-th; 0: by their numbers, whatever their times. Arrays and sequences have no times: by their numbers.
    crop_area: smallest and largest fraction of a frame that random crops cover, one crop for all frames of a row; (): none, the
      shorter side is resized to S and the central square taken, as in evaluation.
    crop_ratio: smallest and largest width / height of these crops.
    flip: whether half of these crops are mirrored, all frames of a row alike.
    keep_frames: clips of at most so many frames are kept in memory; 0: none.
    keep_size: pixels, side of the central squares that are kept, from which crops are cut then; 0: `size`.
    max_pixels: videos with larger frames are bad records.
    max_frames: a video of which more have to be decoded for one window is a bad record: its keyframes are too far apart.
  """

  frames: int = 16
  stride: int = 4
  size: int = 64
  fps: float = 0.0
  crop_area: tuple[float, ...] = ()
  crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
  flip: bool = True
  keep_frames: int = 0
  keep_size: int = 0
  max_pixels: int = 40_000_000
  max_frames: int = 10_000

  baseline_name: ClassVar[str] = 'raw pixels'

  def __post_init__(self) -> None:
    for name in ('frames', 'stride', 'size', 'max_pixels', 'max_frames'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name}={getattr(self, name)} must be at least 1')
    if not 0 <= self.fps < float('inf'):
      raise ValueError(f'fps={self.fps} must be 0, for frames by their numbers, or more')
    if self.crop_area and (len(self.crop_area) != 2 or not 0 < self.crop_area[0] <= self.crop_area[1] <= 1):
      raise ValueError(f'crop_area={self.crop_area} must be two fractions, the smaller one first, or ()')
    if len(self.crop_ratio) != 2 or not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
      raise ValueError(f'crop_ratio={self.crop_ratio} must be two positive numbers, the smaller one first')
    if self.keep_frames < 0:
      raise ValueError(f'keep_frames={self.keep_frames} must be 0 or more')
    if self.keep_size and not (self.keep_frames and self.keep_size >= self.size):
      raise ValueError(f'keep_size={self.keep_size} must be at least size={self.size}, and needs keep_frames')

  def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    return {'clip': jax.ShapeDtypeStruct((self.frames, self.size, self.size, 3), np.uint8)}

  def decode(self, record: Mapping[str, Any]) -> Any:
    """The video as it came, for `draw` decodes only what it needs; or all its frames, where they are to be kept."""
    if 'video' not in record:
      raise BadRecord(f'no video: the record has {", ".join(map(str, record)) or "nothing"}')
    if not self.keep_frames:
      return record['video']
    side = self.keep_size or self.size
    with self._opened(record['video']) as clip:
      if len(clip) > self.keep_frames:
        return record['video']
      squares = [host.resize_center_crop(frame, side, side) for frame in clip.read(np.arange(len(clip)))]
      return video.Frames(np.stack(squares), clip.times)

  def draw(self, decoded: Any, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
    with self._opened(decoded) as clip:
      numbers = self._window(len(clip), clip.times, rng)  # ORDER MATTERS: the window is drawn before the crop
      cut = self._cut(rng)
      different, place = np.unique(numbers, return_inverse=True)  # of a short clip the last one is asked for many times
      return {'clip': np.stack([cut(frame) for frame in clip.read(different)])[place]}

  def kept_bytes(self) -> int | None:
    return 3 * self.keep_frames * (self.keep_size or self.size) ** 2 or None

  def evaluation(self) -> Input:
    return dataclasses.replace(self, keep_frames=0, keep_size=0)  # each record is seen once: only its window is decoded

  def describe(self, records: Sequence[Mapping[str, Any]]) -> str:
    lengths, sizes = [], set()
    for record in records:
      with self._opened(record['video']) as clip:
        height, width, _ = next(clip.read(np.arange(1))).shape
        lengths.append(len(clip))
        sizes.add(f'{width}x{height}')
    some = ', '.join(sorted(sizes)[:3]) + ', ...' * (len(sizes) > 3)
    return f'{_span(lengths)} frames of {some} pixels'

  def baseline(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Thumbnails in space and time, 4 x 16 x 16, the mean of each taken off."""
    clips = np.asarray(arrays['clip'])
    n, t, height, width, _ = clips.shape
    starts = np.arange(min(t, BASELINE_FRAMES)) * t // min(t, BASELINE_FRAMES)
    # Means of quarters, not single frames: on 24 clips of four actions 1-NN is right for .833 of them instead of .750.
    weights = np.zeros((len(starts), t), np.float32)
    for row, first, last in zip(weights, starts, [*starts[1:], t], strict=True):
      row[first:last] = 1 / (last - first)
    out = []
    for i in range(0, n, 16):  # float32 copies of 16 clips at a time, their frames as channels
      pixels = raw_pixels(np.moveaxis(clips[i : i + 16], 1, 3).reshape(-1, height, width, 3 * t))
      out.append(np.einsum('qt,nptc->npqc', weights, pixels.reshape(len(pixels), -1, t, 3)).reshape(len(pixels), -1))
    rows = np.concatenate(out)
    return rows - rows.mean(1, keepdims=True)

  def show(self, arrays: dict[str, np.ndarray]) -> list[Picture]:
    """Filmstrips: frames from the first to the last, side by side."""
    clips = np.asarray(arrays['clip'])
    picked = np.linspace(0, clips.shape[1] - 1, min(clips.shape[1], SHOWN)).round().astype(int)
    return [np.concatenate(list(clip[picked]), axis=1) for clip in clips]

  def _opened(self, clip):
    return video.opened(clip, max_pixels=self.max_pixels, max_frames=self.max_frames)

  def _window(self, n, times, rng):
    """[frames] numbers of frames, ascending, of n that are shown at these times, [n] seconds."""
    if self.fps and times is not None:
      steps = np.arange(self.frames) * self.stride / self.fps
      spare = max(0.0, times[-1] - steps[-1])
      start = spare / 2 if rng is None else rng.uniform(0, spare)
      # The frame that is shown at that time; 0.1 ms on, since k / 25 is not always below what a file says of frame k.
      return np.searchsorted(times, start + steps + 1e-4, 'right') - 1
    spare = max(0, n - 1 - (self.frames - 1) * self.stride)
    start = spare // 2 if rng is None else int(rng.integers(spare + 1))
    return np.minimum(start + self.stride * np.arange(self.frames), n - 1)

  def _cut(self, rng: np.random.Generator | None) -> Callable[[np.ndarray], np.ndarray]:
    """What makes [S, S, 3] of each frame, the same for all of them."""
    if rng is None or not self.crop_area:
      return lambda frame: host.resize_center_crop(frame, self.size, self.size)
    key, mirrored = int(rng.integers(2**63)), self.flip and rng.integers(2) == 1
    smallest, largest = self.crop_area

    def cut(frame):
      same = np.random.Generator(np.random.Philox(key=key))  # one box for all frames
      crop = host.random_resized_crop(same, frame, self.size, (smallest, largest), self.crop_ratio)
      return crop[:, ::-1] if mirrored else crop

    return cut


def _span(numbers):
  low, high = min(numbers), max(numbers)
  return f'{low}' if low == high else f'{low}-{high}'
