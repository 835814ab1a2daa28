"""The code that is sent to the hosts: what git tracks, as it is now, under the name of its hash.

A tar and no clone: hosts need neither git nor the key of a private repository, and edits go along.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import pathlib
import subprocess
import tarfile
from typing import NamedTuple

from .errors import Mistake, say

MAX_MIB = 50


class Snapshot(NamedTuple):
  name: str  # a hash: the same code has the same
  tarball: pathlib.Path
  diff: str  # the commit, and the edits since


def pack(project: pathlib.Path, folder: pathlib.Path) -> Snapshot:
  """Writes the tar into `folder`, and says what is left out.

  Raises:
    Mistake: no git repository, or data in it.
  """
  if _git(project, 'rev-parse', '--git-dir').returncode:
    raise Mistake(f'{project} is no git repository: the code that is sent is what git tracks')
  tracked = [os.fsdecode(name) for name in _git(project, 'ls-files', '-z').stdout.split(b'\0') if name]
  plain = folder / 'code.tar'
  _write_tar(plain, project, [name for name in tracked if (project / name).exists()])
  size = plain.stat().st_size // 2**20
  if size > MAX_MIB:
    raise Mistake(f'git tracks {size} MiB here, more than {MAX_MIB}: data does not belong into the code that each host gets')
  data = plain.read_bytes()
  name = hashlib.sha256(data).hexdigest()[:12]
  tarball = folder / f'code-{name}.tar.gz'
  tarball.write_bytes(gzip.compress(data, mtime=0))
  untracked = os.fsdecode(_git(project, 'ls-files', '--others', '--exclude-standard').stdout).splitlines()
  if untracked:
    say(f'not sent, for git does not track it: {" ".join(untracked[:5])}' + (' ...' if len(untracked) > 5 else ''))
  said = _git(project, 'rev-parse', 'HEAD').stdout + _git(project, 'diff', 'HEAD').stdout
  return Snapshot(name, tarball, said.decode('utf-8', 'surrogateescape'))


def _write_tar(path, project, names):
  """The same bytes for the same files, whoever has them and whenever they were written."""
  with tarfile.open(path, 'w', format=tarfile.GNU_FORMAT) as tar:
    for name in names:
      info = tar.gettarinfo(project / name, name)
      info.uid = info.gid = info.mtime = 0
      info.uname = info.gname = ''
      if info.isreg():
        with open(project / name, 'rb') as file:
          tar.addfile(info, file)
      else:
        tar.addfile(info)


def _git(project, *words):
  try:
    return subprocess.run(['git', '-C', project, *words], stdin=subprocess.DEVNULL, capture_output=True)
  except FileNotFoundError:
    raise Mistake('git is not installed: the code that is sent is what git tracks') from None
