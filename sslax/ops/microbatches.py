"""How many pieces the networks of a step run in: set around the trace of a step, read where a network is applied.

As with the mesh, methods need not be told: `step.jit_step` sets it and `models.net.apply` reads it.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator


@dataclasses.dataclass
class Pieces:
  """What is in force while a step is traced."""

  count: int = 1
  used: bool = False  # whether a network ran in pieces


_current = contextvars.ContextVar('microbatches', default=Pieces())  # noqa: B039 (a count of 1 is never written to)


@contextlib.contextmanager
def running_in(count: int) -> Iterator[Pieces]:
  """Networks that are applied inside run in `count` pieces; yields what notes whether any did."""
  pieces = Pieces(count)
  token = _current.set(pieces)
  try:
    yield pieces
  finally:
    _current.reset(token)


def count() -> int:
  """Pieces that a network runs in here; 1 outside of a step."""
  return _current.get().count


def note_use() -> None:
  """A network runs in pieces."""
  _current.get().used = True
