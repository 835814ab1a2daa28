"""What this machine knows of a pod, in $SSLAX_HOME/tpu/NAME: the flags of create and setup, versions, every command that was run.

pod             kept flags, NAME=VALUE a line; a pod is known where it is
setup           the code that was set up last; gone when the pod is made again
lock-HASH.txt   versions of all packages, resolved once for all hosts, and for those that come after a preemption
code/HASH.diff  what a run was made of: the commit, and the edits since
commands.log    every line that was run
paid-RUN        seconds that the pod was ACTIVE for a run, and since when it is
failed.log      the last lines of every host when a run failed
"""

from __future__ import annotations

import os
import pathlib
import re
from typing import Any

from . import flags
from .errors import Mistake, suggest
from .options import CAPACITIES, Options

KEPT = (
  *('zone', 'project', 'type', 'runtime', 'slices', *CAPACITIES, 'service_account', 'network', 'subnetwork', 'valid_for'),
  *('internal_ip', 'tunnel_through_iap', 'python', 'extras', 'secrets'),
)


def known_pods(home: pathlib.Path) -> list[str]:
  return sorted(path.parent.name for path in home.glob('tpu/*/pod'))


def recall(home: pathlib.Path, command: str, given: dict[str, Any]) -> Options:
  """The flags that were given, and those that the pod remembers.

  Raises:
    Mistake: it is not clear which pod is meant, or where it is.
  """
  known = known_pods(home)
  name = given.get('name', '')
  if not name and command == 'create':
    raise Mistake('--name is missing')
  if not name and not known:
    raise Mistake('--name is missing, and no pod was made from this machine')
  if not name and len(known) > 1:
    raise Mistake(f'--name is missing. Known: {", ".join(known)}.')
  name = name or known[0]
  if not re.fullmatch('[a-z]([-a-z0-9]{0,38}[a-z0-9])?', name):
    raise Mistake(f'--name={name} must be lower-case letters, digits and hyphens, at most 40, and begin with a letter')
  file = home / 'tpu' / name / 'pod'
  remembered = {}
  if file.exists():
    remembered = read(file.read_text(encoding='utf-8', errors='surrogateescape'))
  elif command not in ('create', 'watch') and 'zone' not in given:
    hint = suggest(name, known) if known else ''
    raise Mistake(f'this machine has not made a pod {name}; say where it is: --zone=...{hint}')
  options = merged(given, remembered, name)
  if not options.zone:
    raise Mistake('--zone is missing, for example --zone=us-central2-b')
  return options


def merged(given: dict[str, Any], remembered: dict[str, Any], name: str) -> Options:
  if any(capacity in given for capacity in CAPACITIES):  # one of the three replaces the others
    remembered = {key: value for key, value in remembered.items() if key not in CAPACITIES}
  return Options(**{**remembered, **given, 'name': name})


def read(text: str) -> dict[str, Any]:
  """The kept flags of a file; what else it holds is of another version, and left alone."""
  pairs = [line.partition('=')[::2] for line in text.splitlines()]
  return {key: value if key == 'valid_for' else flags.value(key, value) for key, value in pairs if key in KEPT and value}


def written(options: Options) -> str:
  defaults = Options()
  kept = {key: getattr(options, key) for key in KEPT if getattr(options, key) != getattr(defaults, key)}
  return ''.join(f'{key}={1 if value is True else value}\n' for key, value in kept.items())


class Memory:
  """Files of one pod. Under dry_run nothing is written."""

  def __init__(self, home: pathlib.Path, name: str, dry_run: bool):
    self.folder, self.dry_run = home / 'tpu' / name, dry_run
    if not dry_run:
      try:
        self.folder.mkdir(parents=True, exist_ok=True)
      except OSError as error:
        raise Mistake(f'what is known of the pod cannot be kept: {error}. SSLAX_HOME names another place') from None

  def path(self, name: str) -> pathlib.Path:
    return self.folder / name

  def text(self, name: str) -> str:
    """What a file holds; '': there is none."""
    try:
      return self.path(name).read_text(encoding='utf-8', errors='surrogateescape')
    except FileNotFoundError:
      return ''

  def write(self, name: str, text: str) -> None:
    """Whole or not at all."""
    if not self.dry_run:
      path = self.path(name)
      path.parent.mkdir(parents=True, exist_ok=True)
      new = path.with_name(path.name + '.new')
      new.write_text(text, encoding='utf-8', errors='surrogateescape')
      os.replace(new, path)

  def forget(self, name: str) -> None:
    if not self.dry_run and self.path(name).exists():
      self.path(name).unlink()

  def keep(self, options: Options) -> None:
    self.write('pod', written(options))
