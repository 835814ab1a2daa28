"""Exit codes: those of sslax (sslax/errors.py), of ssh, and one for a run of which each process has its own."""

from __future__ import annotations

from collections.abc import Iterable

DONE = 0
REFUSED = 1  # by Google
USER_ERROR = 2
DIVERGED = 3
INTERRUPTED = 42  # the state is saved
TOO_SLOW = 124  # of `ask`: the time limit
LOST = 170  # hosts or answers are missing
SSH_FAILED = 255  # of ssh itself, and not of what it ran


def worst(codes: Iterable[int]) -> int:
  """The exit code of a run of which these are the processes' codes; of equals the first, of none 0.

  A crash is never hidden behind a peer that saved and asks for a restart: 2, then 3, then any other below 128, then 170, then
  signals, 42, 0.
  """
  return max(codes, key=_rank, default=DONE)


def _rank(code: int) -> int:
  ranks = {DONE: 0, INTERRUPTED: 1, LOST: 3, DIVERGED: 5, USER_ERROR: 6}
  return ranks.get(code, 2 if code >= 128 else 4)


def restartable(code: int) -> bool:
  return code == INTERRUPTED or code >= 128
