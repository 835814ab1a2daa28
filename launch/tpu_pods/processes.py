"""Programs are run here, always as a list of words and never through a shell, and each is written down."""

from __future__ import annotations

import pathlib
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO, NamedTuple, Union

from .codes import DONE, TOO_SLOW
from .errors import Mistake
from .quoting import line

Target = Union[IO[bytes], int, None]  # a file, subprocess.PIPE, DEVNULL; None: the person's
KILL_AFTER = 10  # seconds that a program has after SIGTERM


class Output(NamedTuple):
  code: int
  out: str = ''
  err: str = ''

  @property
  def last_words(self) -> str:
    """The last line of what it complained of."""
    return (self.err.strip().splitlines() or [''])[-1]


class Commands:
  """Runs programs.

  Attributes:
    log: the file that gets each line that is run; None: none.
    dry_run: what would change something is printed instead.
  """

  def __init__(self, log: pathlib.Path | None = None, dry_run: bool = False):
    self.log, self.dry_run = log, dry_run

  def ask(self, words: Sequence[str], limit: float) -> Output:
    """Runs what changes nothing.

    Args:
      limit: seconds, after which the code is TOO_SLOW; 0: none.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
      code = self._run(words, limit, out, err)
      return Output(code, _read(out), _read(err))

  def change(self, words: Sequence[str], limit: float) -> Output:
    """Runs what changes something, or prints exactly that under dry_run."""
    if self.dry_run:
      print(line(words), flush=True)
      return Output(DONE)
    return self.ask(words, limit)

  def change_aloud(self, words: Sequence[str], limit: float) -> int:
    """As `change`, and what the program says is for the person."""
    if self.dry_run:
      return self.change(words, limit).code
    return self._run(words, limit, None, None)

  def start(self, words: Sequence[str]) -> subprocess.Popen:
    """A program that is listened to while it runs."""
    self.note(words)
    return _start(words, subprocess.PIPE, subprocess.DEVNULL)

  def note(self, words: Sequence[str]) -> None:
    if self.log:
      with open(self.log, 'a', encoding='utf-8', errors='surrogateescape') as file:
        file.write(line(words) + '\n')

  def _run(self, words: Sequence[str], limit: float, out: Target, err: Target) -> int:
    self.note(words)
    process = _start(words, out, err)
    try:
      code = process.wait(limit or None)
      return code if code >= 0 else 128 - code  # of a signal, as a shell says it
    except subprocess.TimeoutExpired:
      process.terminate()
      try:
        process.wait(KILL_AFTER)
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
      return TOO_SLOW
    except BaseException:  # Ctrl-C, SIGTERM: nothing goes on behind the person's back
      process.terminate()
      raise


def _start(words: Sequence[str], out: Target, err: Target) -> subprocess.Popen:
  try:
    # Ctrl-C reaches it: it stays in this process group. Files, not pipes: an ssh that outlives gcloud would keep a pipe open.
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
  except FileNotFoundError:
    where = {'gcloud': 'https://cloud.google.com/sdk/docs/install'}.get(words[0], 'it must be on the PATH')
    raise Mistake(f'{words[0]} is not installed: {where}') from None


def _read(file: IO[bytes]) -> str:
  file.seek(0)
  return file.read().decode('utf-8', 'surrogateescape')
