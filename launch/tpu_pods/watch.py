"""What `watch` does next, decided from what was seen. Nothing here asks anybody or waits: watcher.py does."""

from __future__ import annotations

import dataclasses
import enum
from typing import NamedTuple

from . import codes
from .pod import ABSENT, ACTIVE, READY
from .training import ENDED, MIXED, NONE, RUNNING, Run

GONE = ('SUSPENDED', 'FAILED', 'PREEMPTED')  # a pod that does not come back
NODE_GONE = ('PREEMPTED', 'TERMINATED', 'STOPPED', ABSENT)
SILENT_LOOKS = 5  # in a row, and then a host that does not answer is given up


class Do(enum.Enum):
  """The next step."""

  CREATE = 'ask Google for the pod'
  TEND = 'look at the run'
  REMAKE = 'delete the pod and make it again; counts as a restart'
  SETUP = 'set up anew: somebody made the pod again'
  BEGIN = 'start the run'
  RESTART = 'start the run again; counts as a restart'
  STOP = 'stop the hosts that have not noticed that others ended'
  WAIT = 'look again later'
  WAIT_BRIEFLY = 'look again soon'
  BUSY = 'end: another run is there'
  FINISH = 'end: done, or nothing that a restart would change'


class Step(NamedTuple):
  do: Do
  reason: str = ''


@dataclasses.dataclass(frozen=True)
class Limits:
  """Set by the user; seconds, 0: none."""

  max_restarts: int = 50
  max_seconds: float = 0  # of this watch
  max_paid_seconds: float = 0  # of all watches of the run, while the pod was ACTIVE
  backoff: float = 30  # before the first restart, then twice as many,
  backoff_max: float = 600  # up to these
  peer: float = 60  # a host may end so much later than the first


@dataclasses.dataclass
class Watch:
  """What is known between two looks. Times in seconds since 1970, None: it is not so.

  Attributes:
    since: this watch began.
    pause: seconds before the next restart.
    restarts: how many there were.
    mine: the run was started, or seen to run, by this watch: what ended before says nothing about the command that it was given.
    running_since, ending_since: all hosts run; only some do.
    silent: looks in a row in which a host did not answer.
  """

  since: float
  pause: float
  restarts: int = 0
  mine: bool = False
  running_since: float | None = None
  ending_since: float | None = None
  silent: int = 0


def over(watch: Watch, limits: Limits, now: float, paid: float) -> str:
  """Which limit of the user ends the run, in order; '': none yet.

  Args:
    paid: seconds for which the pod was ACTIVE.
  """
  if limits.max_seconds and now - watch.since >= limits.max_seconds:
    return f'--max_hours={limits.max_seconds / 3600:g} are over'
  if limits.max_paid_seconds and paid >= limits.max_paid_seconds:
    return f'--max_paid_hours={limits.max_paid_seconds / 3600:g} are used up'
  return ''


def paid_until(now: float, state: str, paid: int, since: int) -> tuple[int, int]:
  """(seconds paid for, the time up to which they are counted or 0) after a look at the pod.

  What passes between two looks at an ACTIVE pod counts, even if nobody watched. In seconds, and not in dollars: no list of prices
  is at hand that would stay true.
  """
  if state != ACTIVE:
    return paid, 0
  return paid + (int(now) - since if since else 0), int(now)


def step_for_pod(state: str, node_state: str = READY) -> Step:
  """
  Args:
    state: of the queued resource.
    node_state: READY, or that of the first node that is not; only asked for when the pod is ACTIVE.
  """
  if state == ABSENT:
    return Step(Do.CREATE)
  if state in GONE:
    return Step(Do.REMAKE, f'the pod is {state}')
  if state != ACTIVE:  # waiting in the queue, in the making, going, no answer
    return Step(Do.WAIT)
  if node_state in NODE_GONE:
    return Step(Do.REMAKE, f'a host is {node_state}')
  return Step(Do.TEND if node_state == READY else Do.WAIT)  # in the making, in repair, no answer


def step_for_run(watch: Watch, limits: Limits, run: Run, run_id: str, now: float) -> Step:
  """After a look at the run on a pod that is there; `watch` learns from it."""
  if run.answers.new:
    return Step(Do.SETUP)
  if run.answers.missing:
    watch.silent += 1
    # No answer from any host: that is rather this machine's network, and the training may be healthy.
    if run.answers.said and watch.silent >= SILENT_LOOKS:
      return Step(Do.REMAKE, f'{run.answers.silent}, five times in a row')
    return Step(Do.WAIT)
  watch.silent = 0
  if run.state in (RUNNING, MIXED) and run.run_id != run_id:
    return Step(Do.BUSY)
  if run.state == NONE or run.state == ENDED and not watch.mine:
    return Step(Do.BEGIN)
  watch.mine = True
  if run.state == RUNNING:
    watch.running_since = watch.running_since or now
    return Step(Do.WAIT)
  if run.state == MIXED:  # some have ended: the others notice, or are stopped
    watch.ending_since = watch.ending_since or now
    return Step(Do.STOP if now - watch.ending_since >= limits.peer else Do.WAIT_BRIEFLY)
  if codes.restartable(run.code):
    return Step(Do.RESTART, f'{run_id} ended with code {run.code}')
  return Step(Do.FINISH)


def begun(watch: Watch, now: float) -> None:
  watch.mine, watch.running_since, watch.ending_since = True, now, None


def pause_before_restart(watch: Watch, limits: Limits, now: float) -> float | None:
  """Counts a restart. Returns the seconds to wait before it; None: there were too many."""
  watch.restarts += 1
  if watch.restarts > limits.max_restarts:
    return None
  # What ran for long was healthy: its end is no reason to hesitate.
  if watch.running_since is not None and now - watch.running_since >= limits.backoff_max:
    watch.pause = limits.backoff
  watch.running_since, watch.ending_since, watch.silent = None, None, 0
  pause, watch.pause = watch.pause, min(2 * watch.pause, limits.backoff_max)
  return pause
