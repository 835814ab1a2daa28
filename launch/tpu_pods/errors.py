"""How launch/tpu ends early, and what it says to a person."""

from __future__ import annotations

import sys
from collections.abc import Iterable


class Mistake(Exception):
  """A mistake of the user: what is wrong, where, what to do. Exit code 2, as sslax has it."""


class Stop(Exception):
  """The end, with this exit code; the message is empty where all was said."""

  def __init__(self, code: int, message: str = ''):
    super().__init__(message)
    self.code = code


def say(text: str) -> None:
  """To the person, on stderr: stdout holds answers only."""
  print(text, file=sys.stderr, flush=True)


def suggest(word: str, known: Iterable[str], prefix: str = '') -> str:
  """' Did you mean X or Y?' for the nearest of `known`, or ' Known: ...' when none is near: as sslax.errors has it."""
  import difflib  # here: only who mistypes waits for it

  known = list(known)
  near = difflib.get_close_matches(word, known, n=3)
  if near:
    return f' Did you mean {" or ".join(prefix + name for name in near)}?'
  return f' Known: {", ".join(prefix + name for name in known)}.' if known else ''
