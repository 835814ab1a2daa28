"""What is kept of features, by what they depend on."""

import json

import numpy as np
import pytest

from sslax.evaluation import store


def test_cached_makes_once_a_key(tmp_path):
  made = []

  def make():
    made.append(1)
    return {'pooled': np.float32([[1, 2], [3, 4]]), 'label': np.int32([0, len(made)])}

  first = store.cached(tmp_path / 'new', {'step': 1, 'data': 'digits:'}, make)
  again = store.cached(tmp_path / 'new', {'data': 'digits:', 'step': 1}, make)
  assert len(made) == 1 and again.keys() == first.keys()
  for k in first:
    np.testing.assert_array_equal(first[k], again[k])
    assert first[k].dtype == again[k].dtype
  store.cached(tmp_path / 'new', {'step': 2, 'data': 'digits:'}, make)
  assert len(made) == 2 and len(list((tmp_path / 'new').iterdir())) == 2


@pytest.mark.parametrize('damage', ['cut', 'bit', 'empty', 'text', 'foreign'])
def test_cached_makes_again_what_cannot_be_read(tmp_path, damage):
  want = np.arange(1000, dtype=np.float32)
  make = lambda: {'pooled': want}
  store.cached(tmp_path, {'step': 1}, make)
  (file,) = tmp_path.iterdir()
  raw = bytearray(file.read_bytes())
  if damage == 'foreign':  # another key's file under this name
    with open(file, 'wb') as f:
      np.savez(f, __key__=np.array(json.dumps({'step': 9})), pooled=want + 1)
  else:
    middle = bytes(raw[:2000]) + bytes([raw[2000] ^ 1]) + bytes(raw[2001:])
    file.write_bytes({'cut': bytes(raw[:1000]), 'bit': middle, 'empty': b'', 'text': b'hello'}[damage])
  np.testing.assert_array_equal(store.cached(tmp_path, {'step': 1}, make)['pooled'], want)
  np.testing.assert_array_equal(store.cached(tmp_path, {'step': 1}, lambda: pytest.fail('not kept'))['pooled'], want)


def test_cached_leaves_nothing_half_written(tmp_path, monkeypatch):
  def fail(f, **arrays):
    f.write(b'half')
    raise OSError('disk full')

  monkeypatch.setattr(np, 'savez', fail)
  with pytest.raises(OSError, match='disk full'):
    store.cached(tmp_path, {'step': 1}, lambda: {'x': np.ones(3)})
  assert not list(tmp_path.iterdir())


def test_cached_stores_no_objects_and_reads_no_pickles(tmp_path):
  with pytest.raises(TypeError, match='objects'):
    store.cached(tmp_path, {}, lambda: {'x': np.array([{}, 1], object)})
  store.cached(tmp_path, {}, lambda: {'x': np.ones(1)})
  (file,) = tmp_path.iterdir()
  with open(file, 'wb') as f:
    np.savez(f, __key__=np.array('{}'), x=np.array([{}], object))
  np.testing.assert_array_equal(store.cached(tmp_path, {}, lambda: {'x': np.ones(2)})['x'], np.ones(2))
