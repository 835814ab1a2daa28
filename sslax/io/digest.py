"""Names for content: the same bytes have the same digest, whatever they are called and wherever they lie."""

import hashlib
import json
import pathlib
from collections.abc import Iterable
from typing import Any


def of_bytes(data: bytes | memoryview) -> str:
  """SHA-256, 64 hexadecimal digits."""
  return hashlib.sha256(data).hexdigest()


def of_json(value: Any) -> str:
  """SHA-256 of a value that JSON can hold: the order of keys in a dict does not matter, tuples are lists."""
  return of_bytes(json.dumps(value, sort_keys=True, allow_nan=True).encode())


def of_files(paths: Iterable[pathlib.Path]) -> list[str]:
  """A digest of the content of each file, in an order of their own: [] of none."""
  return sorted({of_bytes(path.read_bytes()) for path in paths})
