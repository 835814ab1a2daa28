"""Clips from anywhere to frames: mp4, webm and avi by PyAV, arrays, sequences of encoded images.

The packets of a file are listed first, which decodes nothing and tells when each frame is shown; of the frames, those from the
last keyframe before a window to its end are decoded. One exception for whatever is wrong.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sslax.data import decode
from sslax.errors import BadRecord, UserError
from sslax.io import extras

MAX_PACKETS = 2**20  # of one stream: 11 hours at 25 frames per second

# Only these, by their first bytes: FFmpeg has 300 more readers, among them playlists, which open other files and addresses.
_QUICKTIME = (b'ftyp', b'moov', b'mdat', b'wide', b'free', b'skip')


def container_format(data: bytes) -> str:
  """FFmpeg's name of the container that `data` begins like; '': none that is read."""
  if data[4:8] in _QUICKTIME:
    return 'mp4'
  if data.startswith(b'\x1a\x45\xdf\xa3'):
    return 'matroska'
  return 'avi' if data.startswith(b'RIFF') and data[8:12] == b'AVI ' else ''


@contextlib.contextmanager
def container(data: bytes) -> Iterator[Any]:
  """The file opened by PyAV.

  Raises:
    BadRecord: it is none, or so damaged that it has no streams.
    UserError: PyAV is not installed.
  """
  av = extras.need('av', 'video')
  with explained():
    name = container_format(data)
    if not name:
      raise BadRecord(f'no mp4, webm or avi: {len(data)} bytes that begin with {data[:12]!r}')
    file = av.open(io.BytesIO(data), format=name, metadata_errors='ignore')  # metadata need not be UTF-8, and nobody reads it
  with file:
    yield file


@contextlib.contextmanager
def explained() -> Iterator[None]:
  """Turns whatever is raised inside into a BadRecord of one line: decoders raise many kinds of exceptions on damaged data."""
  try:
    yield
  except (BadRecord, UserError):
    raise
  except Exception as error:
    raise BadRecord(f'{type(error).__name__}: {" ".join(str(error).split())[:200]}') from error


@contextlib.contextmanager
def opened(video: Any, *, max_pixels: int, max_frames: int) -> Iterator['Frames | File']:
  """A clip whose length and times are known and whose frames can be read.

  Args:
    video: the bytes of a file, uint8 [T, H, W, 3], a sequence of encoded images, or `Frames`.
    max_pixels: the largest H * W.
    max_frames: how many frames may be decoded for one window.

  Raises:
    BadRecord: it is nothing of these, or damaged; also while frames are read.
    UserError: PyAV is not installed.
  """
  if isinstance(video, (bytes, bytearray, memoryview)):
    with container(bytes(video)) as file:
      with explained():
        clip = File(file, max_pixels, max_frames)
      yield clip
  else:
    yield video if isinstance(video, Frames) else Frames(video, max_pixels=max_pixels)


class Frames:
  """Frames by number, decoded one by one.

  Args:
    items: uint8 [T, H, W, 3], or T encoded images.
    times: [T] seconds since the first one; None: unknown.
    max_pixels: the largest H * W.
  """

  def __init__(self, items: np.ndarray | Sequence[Any], times: np.ndarray | None = None, *, max_pixels: int = 2**31):
    if isinstance(items, np.ndarray) and items.dtype != object and (items.ndim != 4 or items.dtype != np.uint8):
      raise BadRecord(f'an array {list(items.shape)} of {items.dtype}: expected frames [T, H, W, 3] of uint8')
    if not isinstance(items, (np.ndarray, list, tuple)):
      raise BadRecord(f'no video: {type(items).__name__}, expected the bytes of a file, an array or a list of encoded images')
    if not len(items):
      raise BadRecord('a video without frames')
    self.items, self.times, self._max_pixels = items, times, max_pixels

  def __len__(self) -> int:
    return len(self.items)

  def read(self, numbers: np.ndarray) -> Iterator[np.ndarray]:
    """The frames of these numbers, [H, W, 3] uint8 each."""
    for i in numbers:
      yield decode.decode(self.items[i], max_pixels=self._max_pixels)


class File:
  """The frames of an open file, numbered in the order in which they are shown."""

  def __init__(self, file: Any, max_pixels: int, max_frames: int):
    av = extras.need('av', 'video')
    if not file.streams.video:
      raise BadRecord('no video in the file')
    stream = file.streams.video[0]
    codec = stream.codec_context
    if codec is None:
      raise BadRecord('the video is coded in a way that this build of FFmpeg does not decode')
    # One thread: the pipeline decodes as many records at once as there are cores, and threads of its own
    # make a decoder dearer: 17 % and 28 % more CPU for clips of 3 s at 64 x 64 and 96 x 48 pixels.
    codec.thread_type, codec.thread_count = 'NONE', 1
    self._max_pixels, self._max_frames, self._errors = max_pixels, max_frames, av.FFmpegError
    self._check_size(stream.width, stream.height)
    # A few flipped bits inside the stream announce frames of 8000 x 8000 pixels: those much larger than the file says are not
    # decoded. A million more, since decoders count the edges of their buffers.
    codec.options = {'max_pixels': str(2 * stream.width * stream.height + 2**20)}
    self._codec, self._converter = codec, av.video.reformatter.VideoReformatter()
    self._packets = _packets(file, stream)
    # A discarded one is decoded for the sake of the others and never shown: an edit list cuts it off.
    shown = [packet.pts for packet in self._packets if not packet.is_discard]
    if not shown:
      raise BadRecord('a video without frames')
    # An AVI does not say when a frame is shown, only when its packet is due: frames are counted, from the beginning of the file.
    self._counted = file.format.name == 'avi' or None in shown
    seconds = 1 / float(stream.average_rate or 25) if self._counted else float(stream.time_base)
    self._shown = np.arange(len(shown)) if self._counted else np.unique(np.array(shown, np.int64))
    self.times = (self._shown.astype(np.float64) - float(self._shown[0])) * seconds

  def __len__(self) -> int:
    return len(self._shown)

  def read(self, numbers: np.ndarray) -> Iterator[np.ndarray]:
    """The frames of these numbers, ascending, [H, W, 3] uint8 each, turned as the file says; once only.

    Where one cannot be decoded the frame before it stands in its place, and the next one where there is none before it.

    Raises:
      BadRecord: not one of them can be decoded.
    """
    with explained():  # what the reader of the frames raises is not raised in here
      yield from self._read(self._shown[numbers].tolist())

  def _read(self, wanted):
    done, last = 0, None
    for count, frame in enumerate(self._decoded(wanted[0])):
      if count >= self._max_frames:
        raise BadRecord(f'more than max_frames={self._max_frames} frames have to be decoded for a window')
      at = count if self._counted else frame.pts
      while done < len(wanted) and (at is None or at >= wanted[done]):
        yield self._pixels(frame if last is None or at in (None, wanted[done]) else last)
        done += 1
      if done == len(wanted):
        return
      last = frame
    if last is None:
      raise BadRecord(f'not one frame can be decoded of {len(self)}')
    for _ in wanted[done:]:
      yield self._pixels(last)

  def _decoded(self, first):
    """Frames in the order in which they are shown, from a keyframe at or before the time `first` to the end."""
    start = 0
    if not self._counted:  # of several keyframes the last one that is early enough
      starts = [i for i, packet in enumerate(self._packets) if packet.is_keyframe and packet.pts <= first]
      start = starts[-1] if starts else 0
    for packet in [*self._packets[start:], None]:  # None: what the decoder holds back
      try:
        frames = self._codec.decode(packet)
      except self._errors:  # one damaged packet; those after it may be whole
        continue
      yield from frames

  def _pixels(self, frame):
    self._check_size(frame.width, frame.height)
    # One converter for all frames: setting it up costs more than 64 x 64 pixels. One thread, as above.
    image = self._converter.reformat(frame, format='rgb24', threads=1).to_ndarray()
    matrix = frame.side_data.get('DISPLAYMATRIX')
    return image if matrix is None else upright(image, np.frombuffer(matrix, np.int32))

  def _check_size(self, width, height):
    if width < 1 or height < 1 or width * height > self._max_pixels:
      raise BadRecord(f'{width} x {height} pixels: expected 1 to {self._max_pixels:,} in all')


def upright(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
  """[H, W, 3], or [W, H, 3], turned and mirrored as a file says that it is to be shown.

  Args:
    matrix: [9], row by row, of (x, y, 1) @ matrix; only which axis goes where, and in which direction, is looked at.
  """
  a, b, _, c, d, *_ = matrix.tolist()
  across, down = (a, d)
  if abs(b) + abs(c) > abs(a) + abs(d):  # what was a row is a column
    image, across, down = image.swapaxes(0, 1), c, b
  return image[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def _packets(file, stream):
  """All packets of a stream in the order of the file; of one that is cut off, those before the cut."""
  packets = []
  with contextlib.suppress(extras.need('av', 'video').FFmpegError):
    for packet in file.demux(stream):
      if packet.size:
        packets.append(packet)
      if len(packets) > MAX_PACKETS:
        raise BadRecord(f'more than {MAX_PACKETS:,} packets')
  return packets
