"""text: plain files in pieces, which joined are the files."""

import math

import numpy as np
import pytest
from data.containers import refused
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sslax.data import files
from sslax.data.sources import open_source

MIXED = 'aé€𝄞\n'  # characters of 1, 2, 3 and 4 bytes


def pieces(uri):
  source = open_source(uri)
  return [source[i]['text'] for i in range(len(source))]


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(st.text(st.sampled_from(MIXED) | st.characters(codec='utf-8')) | st.binary(), st.integers(1, 40))
@example(MIXED * 30, 4)
@example('𝄞' * 9, 1)
@example(b'\x80' * 20, 3)
@example(b'a\xc3\xe2\x82', 2)
@example('\ufeffé' * 8, 5)
@pytest.mark.slow
def test_pieces_joined_are_the_file(tmp_path_factory, content, n):
  data = content.encode() if isinstance(content, str) else content
  path = tmp_path_factory.mktemp('text') / 'x.txt'
  path.write_bytes(data)
  if not data:
    refused(f'text:{path}', 'empty')
    return
  found = pieces(f'text:{path}?bytes={n}')
  assert b''.join(found) == data and len(found) == math.ceil(len(data) / n)
  assert all(len(piece) <= n + 3 for piece in found)
  if isinstance(content, str):
    assert ''.join(piece.decode() for piece in found) == content  # no cut goes through a character
    assert n < 4 or all(found)


def test_a_cut_is_where_a_character_begins(tmp_path):
  (tmp_path / 'x.txt').write_bytes('abcé€𝄞z'.encode())  # characters begin at 0 1 2 3 5 8 12
  assert pieces(f'text:{tmp_path}/x.txt?bytes=4') == [b'abc', 'é€'.encode(), '𝄞'.encode(), b'z']
  (tmp_path / 'x.txt').write_bytes(b'abc\xc3\x28\x80\x80\x80\x80\x80\xe2\x82')  # no UTF-8: cut where the multiples are
  assert pieces(f'text:{tmp_path}/x.txt?bytes=4') == [b'abc\xc3', b'\x28\x80\x80\x80', b'\x80\x80\xe2\x82']


def test_files_stand_in_their_order_and_no_piece_holds_two(tmp_path):
  parts = {'b.txt': 'é' * 700, 'a.txt': 'x' * 1024, 'c.txt': '', 'd.txt': 'end'}
  for name, text in parts.items():
    (tmp_path / name).write_bytes(text.encode())
  (tmp_path / 'e.md').write_text('no')
  source = open_source(f'text:{tmp_path}')
  assert [len(source[i]['text']) for i in range(len(source))] == [1024, 1024, 376, 3]
  assert [source.where(i).replace(f'{tmp_path}/', '') for i in range(4)] == [
    'a.txt byte 0',
    'b.txt byte 0',
    'b.txt byte 1024',
    'd.txt byte 0',
  ]
  assert (source.num_classes, source.classes) == (0, ()) and source[0].keys() == {'text'}
  assert pieces(f'text:{tmp_path}/{{b,a}}.txt?bytes=2000') == [parts['b.txt'].encode(), parts['a.txt'].encode()]
  assert (
    pieces(f'text:{tmp_path}/b.txt?bytes=100@[-1:]') == pieces(f'text:{tmp_path}/b.txt@[-1:]?bytes=100') == ['é'.encode() * 50]
  )
  for split in ('train', 'test'):
    (tmp_path / f'{split}-0.txt').write_text(split)
  assert pieces(f'text:{tmp_path}@test') == [b'test']


def test_nothing_but_sizes_is_read_at_the_start_and_a_piece_at_once(tmp_path, monkeypatch):
  (tmp_path / 'x.txt').write_bytes('é'.encode() * 5000)
  reads = []
  read = files.read
  monkeypatch.setattr(files, 'read', lambda path, spans=None: reads.append(spans) or read(path, spans))
  monkeypatch.setattr(files, 'open_binary', None)
  source = open_source(f'text:{tmp_path}/x.txt')
  source.where(9)
  assert len(source) == 10 and reads == []
  assert len(source[5]['text']) == 1024
  assert reads == [[(5 * 1024 - 3, 1024 + 4)]]


def test_a_file_that_has_become_shorter_is_a_bad_record(tmp_path):
  (tmp_path / 'x.txt').write_bytes(b'x' * 4000)
  source = open_source(f'text:{tmp_path}/x.txt')
  (tmp_path / 'x.txt').write_bytes(b'x' * 2000)
  assert source[0]['text'] == b'x' * 1024
  for i in (1, 3):
    with pytest.raises(OSError, match='shorter than 4000'):
      source[i]


@pytest.mark.parametrize('n', ['0', '-1', '1.5', 'x', '1e3', '²', '٣', '9' * 5000])
def test_a_number_of_bytes_that_is_none(tmp_path, n):
  (tmp_path / 'x.txt').write_text('x')
  refused(f'text:{tmp_path}/x.txt?bytes={n}', 'is no number of bytes: write ?bytes=1024')


def test_mistakes(tmp_path):
  (tmp_path / 'x.md').write_text('x')
  refused(f'text:{tmp_path}', 'no .txt files')
  refused(f'text:{tmp_path}/x.md?byte=9', "no option 'byte'. Did you mean bytes?")
  assert pieces(f'text:{tmp_path}/x.md?bytes={10**17}') == [b'x']


def test_real_text(real_data):
  """A language model's file: the tenth part is the tenth part."""
  path = real_data / 'shakespeare' / 'input.txt'
  source = open_source(f'text:{real_data}/shakespeare')
  assert len(source) == math.ceil(path.stat().st_size / 1024) == 1090
  assert b''.join(source[i]['text'] for i in range(1090)) == path.read_bytes()
  parts = [pieces(f'text:{path}?bytes=4096@[{a}:{b}]') for a, b in (('', '90%'), ('90%', ''))]
  assert b''.join(map(b''.join, parts)) == path.read_bytes() and len(parts[0]) == 246
  assert np.mean([len(piece) for piece in parts[0]]) == 4096
