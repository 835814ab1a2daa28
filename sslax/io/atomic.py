"""Files that readers see whole or not at all, whatever happens to the writer."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: str | os.PathLike, *, mode: int = 0o644) -> Iterator[BinaryIO]:
  """A file to write bytes into, which takes the place of `path` at the end of the `with` block.

  An exception inside leaves `path` as it was, and no litter. Several writers may do it at once: the last one stays. The temporary
  file lies in the same folder, because a rename is atomic within a file system only; the folder is made where it is missing.

  Args:
    mode: of the file, before the umask: `tempfile` would keep it from everybody else.

  Raises:
    OSError: the folder cannot be written, or the disk is full.
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.', suffix='.part')
  try:
    with os.fdopen(descriptor, 'wb') as file:
      yield file
    os.chmod(part, mode & ~_umask())
    os.replace(part, path)
  except BaseException:
    with contextlib.suppress(OSError):
      os.unlink(part)
    raise


def write(path: str | os.PathLike, content: str | bytes) -> None:
  """Replaces `path` by a file with this content (text as UTF-8); raises OSError and leaves it as it was where that fails."""
  with replacing(path) as file:
    file.write(content.encode() if isinstance(content, str) else content)


def append_line(path: str | os.PathLike, line: str) -> None:
  """Adds a line to a file of lines and waits until the disk has it; half a line that a killed writer left gets its end first."""
  with open(path, 'a+b') as file:
    if file.tell():
      file.seek(-1, os.SEEK_END)
      if file.read() != b'\n':
        file.write(b'\n')
    file.write(line.encode() + b'\n')
    file.flush()
    os.fsync(file.fileno())


def _umask() -> int:
  """The process's mask. Linux shows it without setting it, which would be seen by other threads for a moment."""
  with contextlib.suppress(OSError, ValueError, StopIteration):
    with open('/proc/self/status', encoding='ascii') as status:
      return int(next(line for line in status if line.startswith('Umask:')).split()[1], 8)
  mask = os.umask(0o022)
  os.umask(mask)
  return mask
