"""Videos that a file says are to be shown turned or mirrored: all eight ways, by the matrix in a real mp4."""

import struct

import numpy as np
import pytest
from inputs.media import encode

from sslax.data import video

ONE, W, H = 1 << 16, 64, 48
# (x, y, 1) @ [[a, b, u], [c, d, v], [x, y, w]] is where a pixel is shown; ISO/IEC 14496-12, 8.3.2.
WAYS = {
  'as it is': ((1, 0, 0, 1), lambda x: x),
  'mirrored': ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
  'upside down, mirrored': ((1, 0, 0, -1), lambda x: x[::-1]),
  'half a turn': ((-1, 0, 0, -1), lambda x: x[::-1, ::-1]),
  'a quarter, clockwise': ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
  'a quarter, counter-clockwise': ((0, -1, 1, 0), lambda x: np.rot90(x, 1)),
  'transposed': ((0, 1, 1, 0), lambda x: x.swapaxes(0, 1)),
  'transposed, half a turn': ((0, -1, -1, 0), lambda x: x.swapaxes(0, 1)[::-1, ::-1]),
}


def shown_as(file, a, b, c, d):
  """An mp4 with another matrix in the header of its track."""
  at = file.index(b'tkhd') + 4
  assert file[at] == 0
  at += 4 + 4 * 5 + 8 + 8  # version, times, number and duration; reserved; layer, group, volume
  assert struct.unpack('>9i', file[at : at + 36])[:5] == (ONE, 0, 0, 0, ONE)
  x, y = (-min(0, a * W + c * H) * ONE, -min(0, b * W + d * H) * ONE)
  matrix = struct.pack('>9i', a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, x, y, 1 << 30)
  return file[:at] + matrix + file[at + 36 :]


@pytest.mark.parametrize('way', WAYS)
def test_frames_are_upright(way):
  corners = np.zeros((H, W, 3), np.uint8)
  corners[: H // 2, : W // 2], corners[: H // 2, W // 2 :], corners[H // 2 :, : W // 2] = (
    (200, 30, 30),
    (30, 200, 30),
    (30, 30, 200),
  )
  file = encode([corners] * 3)
  first = lambda data: next(iter(video.opened(data, max_pixels=10**6, max_frames=9).__enter__().read(np.array([0]))))
  matrix, expected = WAYS[way]
  np.testing.assert_array_equal(first(shown_as(file, *matrix)), expected(first(file)))
