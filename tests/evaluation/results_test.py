"""eval.jsonl and its like: torn lines are left out, wrong ones are told."""

import pytest

from sslax.errors import UserError
from sslax.evaluation.results import read_jsonl


def test_read_jsonl(tmp_path):
  path = tmp_path / 'm.jsonl'
  whole = '{"step": 1, "loss": NaN}\n\n{"step": 2, "name": "é"}\n'.encode()
  path.write_bytes(whole)
  assert [r['step'] for r in read_jsonl(path)] == [1, 2]
  third = '{"step": 3, "name": "é"}'.encode()
  for cut in range(len(third)):
    path.write_bytes(whole + third[:cut])
    assert len(read_jsonl(path)) == 2, third[:cut]
  path.write_bytes(whole + third)  # whole, without its newline
  assert read_jsonl(path)[-1] == {'step': 3, 'name': 'é'}
  path.write_bytes(whole + b'\0' * 64)  # what some file systems leave after a power cut
  assert len(read_jsonl(path)) == 2
  path.write_bytes(b'')
  assert read_jsonl(path) == []
  path.write_bytes(b'{"step": 1}\n{"st\n{"step": 3}\n')
  with pytest.raises(UserError, match='line 2'):
    read_jsonl(path)
  path.write_bytes(b'{"step": 1}\n7\n{"step": 3}\n')
  with pytest.raises(UserError, match='line 2'):
    read_jsonl(path)
  with pytest.raises(UserError, match='Cannot read'):
    read_jsonl(tmp_path / 'none.jsonl')
