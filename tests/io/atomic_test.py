"""Files that appear whole or not at all."""

import os
import stat
import threading

import pytest

from sslax.io import atomic, cache, digest
from sslax.io.versions import versions


def test_a_failed_writer_leaves_what_was_there_and_no_litter(tmp_path):
  path = tmp_path / 'x.json'
  atomic.write(path, 'old')
  with pytest.raises(KeyboardInterrupt), atomic.replacing(path) as file:
    file.write(b'half of the ne')
    raise KeyboardInterrupt
  assert path.read_text() == 'old' and os.listdir(tmp_path) == ['x.json']


def test_text_bytes_and_missing_folders(tmp_path):
  atomic.write(tmp_path / 'a' / 'b', 'é')
  atomic.write(tmp_path / 'a' / 'c', b'\0\xff')
  assert (tmp_path / 'a' / 'b').read_bytes() == 'é'.encode() and (tmp_path / 'a' / 'c').read_bytes() == b'\0\xff'


def test_others_may_read_it_as_the_umask_says(tmp_path):
  old = os.umask(0o027)
  try:
    atomic.write(tmp_path / 'x', 'y')
  finally:
    os.umask(old)
  assert stat.S_IMODE((tmp_path / 'x').stat().st_mode) == 0o640


def test_many_writers_never_show_a_mixture(tmp_path):
  path, seen = tmp_path / 'x', set()
  atomic.write(path, '0' * 10_000)
  threads = [threading.Thread(target=lambda i=i: [atomic.write(path, str(i) * 10_000) for _ in range(20)]) for i in range(4)]
  for thread in threads:
    thread.start()
  while any(thread.is_alive() for thread in threads):
    seen.add(path.read_text())
  assert all(len(text) == 10_000 and len(set(text)) == 1 for text in seen)


def test_append_line_after_half_a_line(tmp_path):
  path = tmp_path / 'x.jsonl'
  atomic.append_line(path, '1')
  with path.open('a') as file:
    file.write('{"half')
  atomic.append_line(path, '2')
  assert path.read_text() == '1\n{"half\n2\n'


def test_digest_is_of_the_content():
  assert digest.of_json({'a': 1, 'b': (1, 2)}) == digest.of_json({'b': [1, 2], 'a': 1}) != digest.of_json({'a': 1, 'b': [2, 1]})
  assert digest.of_bytes(b'abc').startswith('ba7816bf')


def test_cache_folder(monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', '/somewhere')
  assert str(cache.folder()) == '/somewhere/sslax'
  monkeypatch.setenv('XDG_CACHE_HOME', '')
  assert str(cache.folder()) == os.path.expanduser('~/.cache/sslax')


def test_versions_need_no_import_of_what_they_name():
  assert {'sslax', 'python', 'jax', 'flax', 'optax', 'orbax-checkpoint'} <= set(versions())
