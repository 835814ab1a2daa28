"""A signal to a comparison: the loop saves first, everything else ends at once."""

import contextlib
import os
import pathlib
import shlex
import sys

from sslax import errors
from sslax.errors import Interrupted
from sslax.run.faults import StopRequest


class Stop(StopRequest):
  """A signal while the loop trains is for the loop, which saves first. At any other time it ends the process at once: files are
  written whole or not at all, so nothing can be lost.

  No exception from the handler: where it falls into a callback of the garbage collector, Python drops it (seen).

  Attributes:
    training: whether the loop trains; whoever calls it says so.
    place: what is being done, for people.
    workdir: of the comparison.
  """

  def __init__(self, early: str = ''):
    """
    Args:
      early: the name of a signal that came before; '': none.
    """
    super().__init__()
    self.signal, self.training, self.place, self.workdir = early, False, 'the checks', pathlib.Path()

  def _handle(self, number, frame):
    super()._handle(number, frame)
    if not self.training:
      with contextlib.suppress(RuntimeError):  # the signal may have come in the middle of a print
        sys.stdout.flush()
      os.write(2, f'\ninterrupted: {self.message()}\n'.encode('utf-8', 'backslashreplace'))
      os._exit(errors.INTERRUPTED)

  def message(self, cause: str = '') -> str:
    """What was interrupted, and how it goes on."""
    return (
      f'{self.signal or cause} in {self.place}; everything done so far is saved in {self.workdir}, and the same command goes on:'
      f'\n  {command()}'
    )

  def check(self) -> None:
    """Raises Interrupted for a signal that came during the imports, or too late for the loop to read it."""
    if self.signal:
      raise Interrupted(self.signal)


def command() -> str:
  """This call of `sslax.compare` as it is typed."""
  return shlex.join(['python', '-m', 'sslax.compare', *sys.argv[1:]])
