"""Exit codes and the exceptions that carry them. Launchers restart on 42 and 170, and never on 2 or 3."""

import difflib
from collections.abc import Iterable

DONE = 0
USER_ERROR = 2  # flags, config, data, permissions: a restart would end the same way
DIVERGED = 3  # NaN or Inf: a restart would end the same way
INTERRUPTED = 42  # state saved: restart and it goes on
STALLED = 170  # reserved: no progress, or a peer was lost: restart


class UserError(Exception):
  """What is wrong, where, and what to do: shown without a traceback, exit code 2."""


class Diverged(Exception):
  """A loss, gradient or parameter is not finite: exit code 3."""


class Interrupted(Exception):
  """Asked to stop (SIGTERM, SIGINT); the state is saved: exit code 42."""


class BadRecord(ValueError):
  """A record that cannot be used; the message is one line. It is replaced by the next one, counted and listed."""


def suggest(word: str, known: Iterable[str]) -> str:
  """' Did you mean X or Y?' for the nearest of `known`, or ' Known: ...' when none is near."""
  known = sorted(set(known))
  near = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
  if near:
    return f' Did you mean {" or ".join(near)}?'
  return f' Known: {", ".join(known)}.' if known else ''
