"""What the environment says: where things are remembered, and how long is waited for what."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

from .errors import Mistake


@dataclasses.dataclass(frozen=True)
class Seconds:
  """Waits and limits, each a variable of the environment that tests and impatient people set."""

  poll: float = 30  # SSLAX_POLL: between two looks
  backoff: float = 30  # SSLAX_BACKOFF: before the first restart, then twice as many,
  backoff_max: float = 600  # SSLAX_BACKOFF_MAX: up to these
  join: float = 60  # SSLAX_JOIN_SECONDS: `run` names the hosts that have not met the others by then
  peer: float = 60  # SSLAX_PEER_SECONDS: a host may end so much later than the first
  api: float = 120  # SSLAX_API_SECONDS: a question to Google's API
  ssh: float = 300  # SSLAX_SSH_SECONDS: a short command on the hosts
  setup: float = 1800  # SSLAX_SETUP_SECONDS: an environment, a copy

  @classmethod
  def of(cls, environment: Mapping[str, str]) -> Seconds:
    given = {}
    for field in dataclasses.fields(cls):
      plain = field.name in ('poll', 'backoff', 'backoff_max')
      variable = f'SSLAX_{field.name.upper()}' + ('' if plain else '_SECONDS')
      text = environment.get(variable)
      if text:
        try:
          given[field.name] = float(text)
        except ValueError:
          raise Mistake(f'{variable}={text} is no number of seconds') from None
    return cls(**given)


def home(environment: Mapping[str, str]) -> pathlib.Path:
  return pathlib.Path(environment.get('SSLAX_HOME') or pathlib.Path.home() / '.sslax')
