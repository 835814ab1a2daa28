"""Sound from every kind of file, at another rate, and windows that are exact to a sample."""

import io
import pickle
import sys

import numpy as np
import pytest
import soundfile
from inputs import media

from sslax.data import pipeline, sound
from sslax.errors import BadRecord, UserError
from sslax.inputs.waveform import Waveform

RATE = 8000


def chirp(n, rate, low=50.0, high=3000.0, seconds=1.0):
  """A sine whose frequency rises from low to high within `seconds`: sample k of what is defined for all times."""
  t = np.arange(n) / rate
  return 0.5 * np.sin(2 * np.pi * (low * t + (high - low) * t**2 / (2 * seconds)))


def file(samples, rate=RATE, kind='WAV', subtype='PCM_16'):
  out = io.BytesIO()
  soundfile.write(out, samples, rate, format=kind, subtype=subtype)
  return out.getvalue()


def rng(i):
  return np.random.Generator(np.random.Philox(key=i))


def draw(value, record, generator=None):
  (array,) = value.draw(value.decode(record), generator).values()
  return array


@pytest.mark.parametrize(
  'kind, subtype, error',
  [('WAV', 'PCM_16', 4e-5), ('WAV', 'PCM_24', 1e-6), ('WAV', 'FLOAT', 1e-7), ('FLAC', 'PCM_16', 4e-5), ('RF64', 'PCM_16', 4e-5),
   ('OGG', 'VORBIS', 0.03), ('OGG', 'OPUS', 0.06), ('MP3', 'MPEG_LAYER_III', 0.03)],
)  # fmt: skip
def test_files(kind, subtype, error):
  """The samples come back, of lossy files about, and not one later than they were: at 3000 Hz that is 135 degrees."""
  x = chirp(RATE, RATE)
  found = Waveform(1.0, RATE).decode({'audio': file(x, kind=kind, subtype=subtype)})
  assert found.dtype == np.float32
  if kind in ('WAV', 'RF64', 'FLAC'):
    np.testing.assert_allclose(found, x, atol=error)
  else:
    assert RATE <= len(found) < RATE + 1200  # longer at its end
    shifts = [np.abs(found[20 + k : RATE - 20 + k] - x[20:-20]).mean() for k in range(-20, 21)]
    assert np.argmin(shifts) == 20 and min(shifts) < error


def test_channels_are_averaged():
  left, right = chirp(2000, RATE), 0.3 * np.cos(np.arange(2000) / 5)
  both = np.stack([left, right], 1)
  value = Waveform(0.25, RATE)
  for record in (
    {'audio': file(both, subtype='FLOAT')},
    {'audio': both, 'rate': RATE},
    {'audio': np.float32(both), 'rate': RATE},
  ):
    np.testing.assert_allclose(draw(value, record), (left + right) / 2, atol=1e-6)
  three = np.stack([left, right, right], 1)
  np.testing.assert_allclose(draw(value, {'audio': three, 'rate': RATE}), three.mean(1), atol=1e-6)
  np.testing.assert_allclose(draw(value, {'audio': np.int16(both * 32768), 'rate': RATE}), (left + right) / 2, atol=4e-5)
  np.testing.assert_allclose(draw(value, {'audio': left, 'rate': RATE}), left, atol=1e-6)


def test_windows_are_exact_to_a_sample():
  ramp = np.arange(-60, 60, dtype=np.int16)  # each sample says where it is
  value = Waveform(100 / RATE, RATE)
  for record in ({'audio': ramp, 'rate': RATE}, {'audio': file(ramp)}, {'audio': file(ramp, kind='FLAC')}):
    whole = value.decode(record)
    np.testing.assert_array_equal(whole, ramp / 32768)
    starts = set()
    for i in range(300):
      row = draw(value, record, rng(i))
      start = round(float(row[0]) * 32768) + 60
      np.testing.assert_array_equal(row, whole[start : start + 100])
      starts.add(start)
    assert starts == set(range(21))
    np.testing.assert_array_equal(draw(value, record), whole[10:110])
  # where the rate is converted, too: the whole is converted first
  value = Waveform(0.3, 16_000)
  whole = value.decode({'audio': chirp(RATE, RATE), 'rate': RATE})
  np.testing.assert_array_equal(draw(value, {'audio': chirp(RATE, RATE), 'rate': RATE}), whole[5600:10400])


def test_shorter_ones_get_zeros_at_their_end():
  x = chirp(300, RATE)
  for generator in (None, rng(0)):
    row = draw(Waveform(0.1, RATE), {'audio': x, 'rate': RATE}, generator)
    assert row.shape == (800,) and row.dtype == np.float32
    np.testing.assert_allclose(row[:300], x, atol=1e-6)
    assert (row[300:] == 0).all()


@pytest.mark.parametrize('old, new', [(8000, 16_000), (16_000, 8000), (44_100, 16_000), (48_000, 16_000), (22_050, 44_100)])
def test_another_rate(old, new):
  """A sweep that stays below both halves of the rates, against itself at the new rate; its ends are no sweep: silence follows."""
  high = 0.35 * min(old, new)
  found = Waveform(1.0, new).decode({'audio': chirp(old, old, high=high), 'rate': old})
  assert len(found) == new
  inside = slice(new // 20, -new // 20)
  np.testing.assert_allclose(found[inside], chirp(new, new, high=high)[inside], atol=1e-4)
  # what lies above half the new rate is taken away, not folded back
  tone = np.sin(2 * np.pi * 0.45 * old * np.arange(old) / old)
  if new < old:
    assert np.abs(sound.resample(np.float32(tone), old, new)[inside]).max() < 1e-4


def test_the_sound_of_a_video():
  frames = media.numbered(25, 32, 32)
  x = np.float32(np.stack([chirp(16_000, 16_000), chirp(16_000, 16_000) * 0.5]))
  data = media.encode(frames, sound=(x, 16_000))
  found = Waveform(0.5, 16_000).decode({'video': data})
  assert abs(len(found) - 16_000) < 1100
  middle = slice(2000, 14_000)
  shifts = [np.abs(np.roll(found, -k)[middle] - x.mean(0)[middle]).mean() for k in range(-40, 41)]
  assert np.argmin(shifts) == 40 and min(shifts) < 0.01  # no sample early or late
  np.testing.assert_array_equal(found, Waveform(0.5, 16_000).decode({'audio': data}))
  with pytest.raises(BadRecord, match='no sound in the file'):
    Waveform().decode({'video': media.encode(frames)})


BAD = {
  'no sound: the record has nothing': {},
  'no sound: the record has image': {'image': 1},
  'no flac, wav, ogg or mp3: 0 bytes': {'audio': b''},
  'no flac, wav, ogg or mp3: 7 bytes': {'audio': b'nothing'},
  'without their `rate`': {'audio': np.zeros(9)},
  'expected 1 to 384,000': {'audio': np.zeros(9), 'rate': 0},
  'not one sample': {'audio': np.zeros(0), 'rate': RATE},
  'not one sample of': {'audio': file(np.zeros(0))},
  '1 to 64 channels': {'audio': np.zeros((9, 0)), 'rate': RATE},
  'to 64 channels': {'audio': np.zeros((2, 900)), 'rate': RATE},
  'no sound: ndarray': {'audio': np.zeros((9, 2, 2)), 'rate': RATE},
  'no sound: list': {'audio': [0.0], 'rate': RATE},
  'no sound: ndarray (9,)': {'audio': np.zeros(9, complex), 'rate': RATE},
  'NaN or Inf': {'audio': np.array([0.0, np.nan]), 'rate': RATE},
  'that are NaN or Inf': {'audio': np.array([[0.0, np.inf]]), 'rate': RATE},
  'are NaN or Inf': {'audio': file(np.array([0.0, np.nan]), subtype='FLOAT')},
  'floats must be in': {'audio': np.array([0.0, 3000.0]), 'rate': RATE},
  'longer than max_seconds=2: 2.0 s': {'audio': np.zeros(2 * RATE + 1), 'rate': RATE},
  'longer than max_seconds=2: 9.0 s': {'audio': file(np.zeros(9 * RATE), kind='FLAC')},
}


@pytest.mark.parametrize('message', BAD)
def test_bad_records(message):
  with pytest.raises(BadRecord) as error:
    Waveform(0.1, RATE, max_seconds=2).decode(BAD[message])
  assert message in str(error.value) and '\n' not in str(error.value)


def test_loud_ones_are_clipped():
  row = draw(Waveform(0.01, RATE), {'audio': np.linspace(-1.5, 1.5, 80), 'rate': RATE})
  assert row.min() == -1 and row.max() == 1


@pytest.mark.parametrize('how', [{'threads': 1, 'prefetch': 1}, {'threads': 4}, {'workers': 1}, {'start_step': 2}], ids=str)
def test_who_decodes_changes_nothing(how):
  source = media.Memory([{'audio': file(chirp(900 + 100 * i, RATE)), 'label': i % 3} for i in range(16)])
  value = pickle.loads(pickle.dumps(Waveform(0.1, 16_000)))
  batches = media.take(source, value, 4)
  assert batches[0]['waveform'].shape == (8, 1600) and batches[0]['waveform'].dtype == np.float32
  assert {key: (s.shape, s.dtype) for key, s in value.shapes().items()} == {'waveform': ((1600,), np.float32)}
  media.same(batches[how.get('start_step', 0) :], media.take(source, value, 4 - how.get('start_step', 0), **how))
  media.same([media.evaluated(source, value)[0]], [media.evaluated(source, value, threads=1)[0]])
  kept = Waveform(0.1, 16_000, keep_seconds=0.3)
  assert value.kept_bytes() is None and kept.kept_bytes() == 4 * 4800
  source.reads.clear()
  media.same(batches, media.take(source, kept, 4))
  assert len(source.reads) <= 2 * 16


def test_baseline_and_pictures():
  value = Waveform(0.5, RATE)
  tone = lambda hz: np.float32(0.1 * np.sin(2 * np.pi * hz * np.arange(4000) / RATE))
  waves = np.stack([tone(300), 0.5 * tone(300), tone(2000), np.zeros(4000, np.float32)])
  rows = value.baseline({'waveform': waves})
  assert rows.shape == (4, 40) and rows.dtype == np.float32 and np.isfinite(rows).all()
  np.testing.assert_allclose(rows.mean(1), 0, atol=1e-4)
  assert rows[0].argmax() < rows[2].argmax()
  assert Waveform.baseline_name == 'mean spectrum'
  low, quiet, high, silent = value.show({'waveform': waves})
  assert low.shape == (64, 51, 3) and low.dtype == np.uint8
  brightest = lambda picture: int(picture[:, 20].astype(int).sum(-1).argmax())
  assert brightest(high) < brightest(low) == brightest(quiet)  # frequency goes upwards
  assert (silent == (0, 0, 4)).all()
  for one in (Waveform(1 / RATE, RATE), Waveform(0.01, 50), Waveform(0.02, 44_100)):  # shorter than a window of 25 ms
    waves = np.zeros((2, *one.shapes()['waveform'].shape), np.float32)
    assert one.baseline({'waveform': waves}).shape == (2, 40) and len(one.show({'waveform': waves})) == 2


def test_real_sounds(real_data):
  value = Waveform(0.6, RATE)
  digits = [media.of_tar(real_data / 'spoken_digits' / f'{part}-00000.tar', '.flac', 'audio') for part in ('train', 'test')]
  assert pipeline.probe(digits[0], {'sound': value}) == '0.2-0.9 s of sound at 8000 Hz'
  (a, bad), (b, bad_too) = (media.evaluated(source, value) for source in digits)
  assert bad == bad_too == 0 and len(a['waveform']) == 2000 and len(b['waveform']) == 1000
  assert a['waveform'].std(1).min() > 1e-3
  assert media.nearest(value.baseline(a), a['label'], value.baseline(b), b['label']) > 0.4  # chance .10
  sounds = media.of_tar(real_data / 'environment_sounds' / 'test-00000.tar', '.ogg', 'audio')
  assert pipeline.probe(sounds, {'sound': Waveform()}) == '5.0 s of sound at 16000 Hz'
  assert media.evaluated(sounds, Waveform(2.0))[1] == 0
  faces = media.of_tar(real_data / 'talking_faces' / 'test-00000.tar', '.mp4', 'video', stop=16)
  rows, bad = media.evaluated(faces, Waveform(3.0))
  assert bad == 0 and rows['waveform'].shape == (16, 48_000) and rows['waveform'].std(1).min() > 1e-3


@pytest.mark.parametrize(
  'field, value',
  [('rate', 0), ('rate', 10**6), ('seconds', 0.0), ('seconds', -1.0), ('seconds', float('nan')), ('seconds', 1e9),
   ('max_seconds', 0.0), ('max_seconds', float('inf')), ('keep_seconds', -1.0), ('keep_seconds', 1000.0)],
)  # fmt: skip
def test_impossible_fields_are_told(field, value):
  with pytest.raises(ValueError, match=field):
    Waveform(**{field: value})


@pytest.mark.parametrize('package, extra, record', [
  ('soundfile', 'audio', {'audio': file(np.zeros(9))}), ('soxr', 'audio', {'audio': np.zeros(9), 'rate': 100}),
  ('av', 'video', {'video': b'\0\0\0\x18ftypisom'}),
])  # fmt: skip
def test_without_the_package(monkeypatch, package, extra, record):
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(UserError, match=rf"{package}.*pip install 'sslax\[{extra}\]'"):
    draw(Waveform(), record)
  draw(Waveform(rate=RATE), {'audio': np.zeros(9), 'rate': RATE})  # arrays at their rate need none
