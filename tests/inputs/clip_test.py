"""The right frames of every kind of video; one window and one crop for all frames of a row; nothing depends on who decodes."""

import io
import pickle
import struct
import sys

import numpy as np
import pytest
from inputs import media
from PIL import Image

from sslax.data import host, pipeline, video
from sslax.errors import BadRecord, UserError
from sslax.inputs.clip import Clip

FILES = {
  'h264': ('mp4', 'libx264', {'g': 12, 'bf': 2}),
  'mpeg4': ('mp4', 'mpeg4', {'g': 12, 'bf': 2}),
  'vp8': ('webm', 'libvpx', {'g': 12}),
  'vp9': ('webm', 'libvpx-vp9', {'g': 12}),
  'avi': ('avi', 'mpeg4', {'g': 12, 'bf': 2}),
  'avi h264': ('avi', 'libx264', {'g': 12, 'bf': 2}),  # its packets are not in the order of the frames, and say nothing of it
}


def files(name, n=36):
  container, codec, options = FILES[name]
  return media.encode(media.numbered(n), container, codec, **options)


def rng(i):
  return np.random.Generator(np.random.Philox(key=i))


def draw(clip, record, generator=None):
  (array,) = clip.draw(clip.decode({'video': record}), generator).values()
  return array


@pytest.mark.parametrize('name', FILES)
def test_frames_by_their_numbers(name):
  """Each window of each file holds the frames that it should: none is lost where decoders hold frames back, at no keyframe."""
  data, clip, starts = files(name), Clip(frames=5, stride=3, size=32), set()
  for i in range(120):
    found = media.numbers(draw(clip, data, rng(i)))
    assert found == list(range(found[0], found[0] + 13, 3))
    starts.add(found[0])
  assert starts == set(range(36 - 12))  # every place, the first and the last one too
  assert media.numbers(draw(clip, data)) == [11, 14, 17, 20, 23]  # 23 to spare: 11 before, 12 behind
  with video.opened(data, max_pixels=10**6, max_frames=100) as file:
    assert len(file) == 36
    np.testing.assert_allclose(file.times, np.arange(36) / 25, atol=1e-3)
    assert media.numbers(file.read(np.arange(36))) == list(range(36))


def test_only_what_a_window_needs_is_decoded():
  frames = media.numbered(38)
  last = np.full(5, 37)
  for g, fits in ((10, True), (1000, False)):
    data = media.encode(frames, g=g, keyint_min=1, sc_threshold=0)
    with video.opened(data, max_pixels=10**6, max_frames=15) as file:
      if fits:
        assert media.numbers(file.read(last)) == [37] * 5
      else:
        with pytest.raises(BadRecord, match='more than max_frames=15 frames'):
          list(file.read(last))


def test_arrays_and_images():
  frames = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
  clip = Clip(frames=4, stride=2, size=32)

  def png(x):
    out = io.BytesIO()
    Image.fromarray(x).save(out, 'PNG')
    return out.getvalue()

  images = [png(x) for x in frames]
  for record in (frames, images, tuple(images), np.array(images, object)):
    np.testing.assert_array_equal(draw(clip, record), frames[6:14:2])
    np.testing.assert_array_equal(draw(clip, record, rng(1)), draw(clip, frames, rng(1)))
  np.testing.assert_array_equal(draw(Clip(frames=4, stride=2, size=32, fps=5.0), frames), frames[6:14:2])  # no times


@pytest.mark.parametrize('n', [1, 3, 6])
def test_of_a_short_clip_the_last_frame_is_repeated(n):
  clip = Clip(frames=6, stride=2, size=16)
  expected = [min(2 * k, n - 1) for k in range(6)]
  for record in (files('h264', n), np.stack(media.numbered(n))):
    assert media.numbers(draw(clip, record)) == media.numbers(draw(clip, record, rng(0))) == expected
    assert media.numbers(draw(Clip(frames=6, stride=2, size=16, fps=25), record)) == expected


def test_frames_by_their_times():
  """30 frames, the first ten at 10 per second, the others at 50 per second: 1 s and 0.4 s."""
  pts = [*range(0, 50, 5), *range(50, 70)]
  data = media.encode(media.numbered(30), pts=pts, rate=50)
  with video.opened(data, max_pixels=10**6, max_frames=100) as file:
    np.testing.assert_allclose(file.times, np.array(pts) / 50, atol=1e-4)
  # 0 to 1.3 s in steps of 0.1 s: to spare are 0.08 s
  expected = [*range(10), 12, 17, 22, 27]
  assert media.numbers(draw(Clip(frames=14, stride=5, size=16, fps=50), data)) == expected
  assert media.numbers(draw(Clip(frames=14, stride=1, size=16, fps=10), data)) == expected
  starts = {media.numbers(draw(Clip(frames=2, stride=1, size=16, fps=10), data, rng(i)))[0] for i in range(200)}
  assert {*range(10)} <= starts <= {*range(25)} and len(starts) > 18  # of slow frames each, of quick ones most
  assert media.numbers(draw(Clip(frames=14, stride=1, size=16), data)) == list(range(8, 22))  # by number


def test_metadata_turn_and_cut():
  x = np.zeros((12, 48, 80, 3), np.uint8)
  x[:, :24, :40] = 240  # bright in the upper left
  data, one = media.encode(list(x)), 1 << 16

  def corners(matrix):
    at = data.index(b'tkhd') + 44
    turned = data[:at] + struct.pack('>9i', *matrix) + data[at + 36 :]
    with video.opened(turned, max_pixels=10**6, max_frames=100) as file:
      (frame,) = file.read(np.array([3]))
    h, w = frame.shape[0] // 2, frame.shape[1] // 2
    return frame.shape[:2], [bool(frame[i : i + h, j : j + w].mean() > 120) for i in (0, h) for j in (0, w)]

  assert corners((one, 0, 0, 0, one, 0, 0, 0, 1 << 30)) == ((48, 80), [True, False, False, False])
  assert corners((0, one, 0, -one, 0, 0, 48 * one, 0, 1 << 30)) == ((80, 48), [False, True, False, False])  # clockwise
  assert corners((-one, 0, 0, 0, -one, 0, 80 * one, 48 * one, 1 << 30)) == ((48, 80), [False, False, False, True])
  assert corners((0, -one, 0, one, 0, 0, 0, 80 * one, 1 << 30)) == ((80, 48), [False, False, True, False])

  data = files('h264')  # an edit list that begins 5 frames later: those before it are decoded and not shown
  at = data.index(b'elst') + 16
  begin = struct.unpack('>i', data[at : at + 4])[0] + 5 * 512
  with video.opened(data[:at] + struct.pack('>i', begin) + data[at + 4 :], max_pixels=10**6, max_frames=100) as file:
    assert media.numbers(file.read(np.arange(len(file))))[:3] == [5, 6, 7] and file.times[0] == 0


def test_one_crop_and_one_flip_for_all_frames_of_a_row():
  frame = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
  still = np.repeat(frame[None], 30, axis=0)
  clip = Clip(frames=8, stride=2, size=24, crop_area=(0.2, 0.8))
  rows = [draw(clip, still, rng(i)) for i in range(40)]
  for row in rows:
    np.testing.assert_array_equal(row, np.repeat(row[:1], 8, axis=0))
  assert len({row[0].tobytes() for row in rows}) == 40  # another box in each
  square = np.repeat(frame[None, :, :40], 30, axis=0)
  whole = lambda flip: [draw(Clip(4, 2, 40, crop_area=(1, 1), crop_ratio=(1, 1), flip=flip), square, rng(i)) for i in range(40)]
  kinds = [bool((row == square[:4]).all()) for row in whole(True)]
  for row, straight in zip(whole(True), kinds, strict=True):
    np.testing.assert_array_equal(row, square[:4] if straight else square[:4, :, ::-1])
  assert 8 < sum(kinds) < 32
  assert all((row == square[:4]).all() for row in whole(False))
  # evaluation: the central square, whatever training does
  np.testing.assert_array_equal(draw(clip, still)[0], host.resize_center_crop(frame, 24, 24))


def test_kept_clips_give_the_same_rows_and_are_decoded_once(monkeypatch):
  frames = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
  source = media.Memory([{'video': media.encode(list(np.roll(frames, i, axis=0)), g=5)} for i in range(12)])
  plain = Clip(frames=4, stride=2, size=16)
  kept = Clip(frames=4, stride=2, size=16, keep_frames=20)
  assert plain.kept_bytes() is None and kept.kept_bytes() == 20 * 16 * 16 * 3
  decoded = []
  read = video.File.read
  monkeypatch.setattr(video.File, 'read', lambda self, numbers: decoded.append(len(numbers)) or read(self, numbers))
  batches = media.take(source, kept, 9)
  assert set(decoded) == {20} and 12 <= len(decoded) <= 24  # 72 rows; two batches may both miss the same record
  media.same(batches, media.take(source, plain, 9))
  large = Clip(frames=4, stride=2, size=16, keep_frames=20, keep_size=24, crop_area=(0.3, 1.0))
  assert large.decode(source[0]).items.shape == (20, 24, 24, 3) and large.kept_bytes() == 20 * 24 * 24 * 3
  assert Clip(frames=4, keep_frames=19).decode(source[0]) is source[0]['video']  # too long to be kept
  by_time = {'frames': 4, 'stride': 1, 'size': 16, 'fps': 10.0}  # kept with their times
  media.same(media.take(source, Clip(**by_time), 2), media.take(source, Clip(**by_time, keep_frames=20), 2))


@pytest.mark.parametrize('how', [{'threads': 1, 'prefetch': 1}, {'threads': 4}, {'workers': 1}, {'start_step': 2}], ids=str)
@pytest.mark.slow
def test_who_decodes_changes_nothing(how):
  source = media.Memory([{'video': files('h264', 20 + i % 9), 'label': i % 3} for i in range(16)])
  clip = pickle.loads(pickle.dumps(Clip(frames=4, stride=2, size=16, crop_area=(0.3, 1.0))))
  batches = media.take(source, clip, 4)
  assert {key: (x.shape[1:], x.dtype) for key, x in batches[0].items() if key in clip.shapes()} == {
    'clip': ((4, 16, 16, 3), np.uint8)
  }
  media.same(batches[how.get('start_step', 0) :], media.take(source, clip, 4 - how.get('start_step', 0), **how))
  first, bad = media.evaluated(source, clip)
  again, _ = media.evaluated(source, clip, threads=1)
  assert bad == 0
  media.same([first], [again])


def test_real_clips(real_data):
  train = media.of_tar(real_data / 'actions' / 'train-00000.tar', '.mp4', 'video')
  test = media.of_tar(real_data / 'actions' / 'test-00000.tar', '.mp4', 'video')
  clip = Clip(keep_frames=160)
  assert pipeline.probe(train, {'clip': clip}) == '53-146 frames of 64x64 pixels'
  (a, bad), (b, bad_too) = media.evaluated(train, clip), media.evaluated(test, clip)
  assert bad == bad_too == 0 and a['clip'].shape == (48, 16, 64, 64, 3) and b['clip'].shape == (24, 16, 64, 64, 3)
  assert a['clip'].std((1, 2, 3, 4)).min() > 15 and np.abs(np.diff(a['clip'].astype(int), axis=1)).mean((1, 2, 3, 4)).min() > 0.3
  assert media.nearest(clip.baseline(a), a['label'], clip.baseline(b), b['label']) > 0.7
  faces = media.of_tar(real_data / 'talking_faces' / 'test-00000.tar', '.mp4', 'video', stop=16)
  assert pipeline.probe(faces, {'clip': clip}) == '75 frames of 96x48 pixels'
  (batch,) = media.take(faces, Clip(frames=8, stride=1, size=48, crop_area=(0.5, 1.0)), 1)
  assert batch['clip'].shape == (8, 8, 48, 48, 3)


def test_baseline_and_pictures():
  clips = np.random.default_rng(0).integers(0, 256, (3, 8, 32, 32, 3), dtype=np.uint8)
  clip = Clip(frames=8, stride=1, size=32)
  rows = clip.baseline({'clip': clips})
  assert rows.shape == (3, 4 * 16 * 16 * 3) and rows.dtype == np.float32
  thumbs = clips.reshape(3, 4, 2, 16, 2, 16, 2, 3).mean((2, 4, 6)) / 255  # the mean of two frames and of 2 x 2 pixels
  thumbs = np.moveaxis(thumbs, 1, 3)  # what belongs to a place stands together
  np.testing.assert_allclose(
    rows.reshape(3, 256, 4, 3), (thumbs - thumbs.mean((1, 2, 3, 4), keepdims=True)).reshape(3, 256, 4, 3), atol=1e-6
  )
  assert Clip.baseline_name == 'raw pixels'
  assert Clip(frames=2).baseline({'clip': clips[:, :2]}).shape == (3, 2 * 256 * 3)
  assert Clip(frames=7).baseline({'clip': clips[:, :7]}).shape == (3, 4 * 256 * 3)
  pictures = Clip().show({'clip': np.concatenate([clips, clips], 1)})
  assert len(pictures) == 3 and all(p.shape == (32, 8 * 32, 3) and p.dtype == np.uint8 for p in pictures)
  np.testing.assert_array_equal(Clip(frames=2).show({'clip': clips[:, :2]})[0], np.concatenate([clips[0, 0], clips[0, 1]], 1))


@pytest.mark.parametrize(
  'field, value',
  [('frames', 0), ('stride', 0), ('size', 0), ('fps', -1.0), ('fps', float('nan')), ('crop_area', (0.5,)),
   ('crop_area', (0.9, 0.2)), ('crop_area', (0.0, 1.0)), ('crop_ratio', (2.0, 1.0)), ('keep_frames', -1), ('keep_size', 64),
   ('max_pixels', 0), ('max_frames', 0)],
)  # fmt: skip
def test_impossible_fields_are_told(field, value):
  with pytest.raises(ValueError, match=field):
    Clip(**{field: value})


@pytest.mark.parametrize(
  'record, message',
  [({}, 'no video: the record has nothing'), ({'image': 1}, 'no video: the record has image'), ({'video': b''}, 'no mp4'),
   ({'video': b'#EXTM3U\n/etc/passwd'}, 'no mp4, webm or avi'), ({'video': []}, 'without frames'),
   ({'video': 7}, 'no video: int'),
   ({'video': np.zeros((3, 8, 8), np.uint8)}, 'expected frames'), ({'video': np.zeros((3, 8, 8, 3))}, 'expected frames'),
   ({'video': np.zeros((0, 8, 8, 3), np.uint8)}, 'without frames'), ({'video': [b'junk']}, 'no JPEG'),
   ({'video': np.zeros((3, 80, 80, 3), np.uint8)}, '80 x 80 pixels'), ({'video': files('h264', 3)}, '64 x 48 pixels')],
)  # fmt: skip
def test_bad_records(record, message):
  clip = Clip(max_pixels=3000)
  with pytest.raises(BadRecord, match=message) as error:
    clip.draw(clip.decode(record), None)
  assert '\n' not in str(error.value)


def test_without_the_package(monkeypatch):
  monkeypatch.setitem(sys.modules, 'av', None)
  with pytest.raises(UserError, match=r"pip install 'sslax\[video\]'"):
    draw(Clip(), b'\0\0\0\x18ftypisom')
  assert draw(Clip(2, 1, 16), np.zeros((3, 20, 20, 3), np.uint8)).shape == (2, 16, 16, 3)  # arrays need none
