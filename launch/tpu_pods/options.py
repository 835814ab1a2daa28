"""What the flags come to: those that were given, those that the pod remembers, and what is wrong with them."""

from __future__ import annotations

import dataclasses
import pathlib
import re

from .accelerators import accelerator_type, runtime_version
from .errors import Mistake
from .flags import seconds

CAPACITIES = ('spot', 'reserved', 'on_demand')


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of all commands; empty: not given. flags.py says what each means."""

  name: str = ''
  zone: str = ''
  project: str = ''
  dry_run: bool = False
  internal_ip: bool = False
  tunnel_through_iap: bool = False
  type: str = ''
  runtime: str = ''
  slices: int = 1
  spot: bool = False
  reserved: bool = False
  on_demand: bool = False
  service_account: str = ''
  network: str = ''
  subnetwork: str = ''
  timeout: str = ''  # 90s, 30m or 6h
  valid_for: str = ''  # Google forgets a request after it; from timeout
  wait: bool = False
  python: str = ''
  extras: str = ''
  secrets: str = ''
  run_id: str = ''
  workdir: str = ''
  env: str = ''
  allow_cross_region: bool = False
  max_restarts: int = 50
  max_hours: int = 0
  max_paid_hours: int = 0
  delete_when_done: bool = False
  worker: str = ''
  lines: int = 20
  follow: bool = False
  grep: str = ''
  now: bool = False
  grace: int = 30
  bucket: str = ''

  @property
  def capacity(self) -> str:
    """What is paid for, in words."""
    return ', '.join(name.replace('_', ' ') for name in CAPACITIES if getattr(self, name))

  @property
  def region(self) -> str:
    return self.zone.rpartition('-')[0]


def checked_for_create(options: Options) -> Options:
  if not options.type:
    raise Mistake('--type is missing, for example --type=v5litepod-16')
  accelerator = accelerator_type(options.type)
  given = [f'--{name}' for name in CAPACITIES if getattr(options, name)]
  if len(given) > 1:
    raise Mistake(f'take one of {" ".join(given)}')
  if not given:
    raise Mistake('say what to pay for: --spot (cheap, may be taken away; watch brings it back), --reserved or --on_demand')
  return dataclasses.replace(
    options,
    type=accelerator,
    runtime=options.runtime or runtime_version(accelerator),
    valid_for=f'{seconds(options.timeout)}s' if options.timeout else options.valid_for,
  )


def checked_for_setup(options: Options) -> Options:
  secrets = options.secrets
  if secrets:
    path = pathlib.Path(secrets).resolve()
    if not path.is_file():
      raise Mistake(f'--secrets={path}: there is no such file; it holds lines NAME=value')
    if path.stat().st_mode & 0o777 not in (0o400, 0o600):
      raise Mistake(f'--secrets={path} can be read by others: chmod 600 {path}')
    secrets = str(path)
  python, extras = options.python or '3.12', options.extras or 'tpu'
  if not re.fullmatch(r'3\.[0-9]+|/.*', python):
    raise Mistake(f'--python={python} is neither a version (3.12) nor the path of an environment')
  if not re.fullmatch('[a-z0-9,]+', extras):
    raise Mistake(f'--extras={extras}: builds of jax, for example tpu')
  return dataclasses.replace(options, secrets=secrets, python=python, extras=extras)
