"""Files with a JSON object a line: metrics.jsonl, eval.jsonl."""

import json
import os
import pathlib
from typing import Any

from sslax.errors import UserError


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
  """The records of a .jsonl file. A last line that is torn (its writer was killed, or is writing) is left out.

  Raises:
    UserError: no such file, or a line before the last one that is not a JSON object.
  """
  try:
    lines = pathlib.Path(path).read_bytes().split(b'\n')  # bytes: a torn line may end within a character
  except OSError as e:
    raise UserError(f'Cannot read {path}: {e.strerror}. Has the run written it yet?') from e
  lines = [(n, line) for n, line in enumerate(lines, 1) if line.strip()]
  records = []
  for n, line in lines:
    try:
      record = json.loads(line)
      if not isinstance(record, dict):
        raise ValueError('not an object')
    except ValueError as e:
      if n == lines[-1][0]:
        break
      raise UserError(f'{path}, line {n}: not a JSON object ({e}). Repair or delete that line.') from e
    records.append(record)
  return records
