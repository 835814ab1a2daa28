"""`watch`: looks, does what watch.py decides, and looks again."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import NoReturn

from . import codes, training
from .errors import Mistake, Stop, say
from .hosts import Fleet, verb
from .lifecycle import create_pod, delete_pod
from .options import checked_for_create, checked_for_setup
from .pod import ABSENT, ACTIVE, READY, UNKNOWN, Node, Pod, Resource, look_at, look_at_nodes, need_ours, state_of
from .setup import setup_pod
from .watch import Do, Limits, Watch, begun, over, paid_until, pause_before_restart, step_for_pod, step_for_run

LAST_LINES = 50  # of each host's log are kept when a run failed,
SHOWN_LINES = 5  # and so many for each host are shown


def watch(pod: Pod, rest: Sequence[str]) -> int:
  """The command."""
  plan = training.planned(pod.options, rest)
  pod = dataclasses.replace(pod, options=checked_for_setup(checked_for_create(pod.options)))
  training.check_region(pod, plan.workdir)
  watcher = Watcher(pod, plan)
  while True:
    watcher.turn()
    if pod.dry_run:  # one turn shows what would be done now
      return codes.DONE


class Watcher:
  """
  Attributes:
    state: of the pod, when it was looked at last; what changes is said.
    nodes: of the pod, when it was ACTIVE last.
  """

  def __init__(self, pod: Pod, plan: training.Plan):
    self.pod, self.plan = pod, plan
    options, seconds = pod.options, pod.seconds
    self.limits = Limits(
      max_restarts=options.max_restarts,
      max_seconds=options.max_hours * 3600,
      max_paid_seconds=options.max_paid_hours * 3600,
      backoff=seconds.backoff,
      backoff_max=seconds.backoff_max,
      peer=seconds.peer,
    )
    self.watch = Watch(since=time.time(), pause=seconds.backoff)
    self.state = ''
    self.nodes: list[Node] = []

  def turn(self) -> None:
    """One look, and what follows from it."""
    resource = look_at(self.pod)
    reason = over(self.watch, self.limits, time.time(), self._paid(resource.state))
    if reason:
      self._enough(reason, resource)
    if resource.state != self.state:
      say(f'the pod {self.pod.name} is {resource.state}')
      self.state = resource.state
    if resource.state == ACTIVE:
      need_ours(self.pod, resource)
      self.nodes = look_at_nodes(self.pod)
    step = step_for_pod(resource.state, state_of(self.nodes) if resource.state == ACTIVE else READY)
    if step.do == Do.TEND:
      self._tend(Fleet(self.pod, self.nodes))
    elif step.do == Do.CREATE:
      if not create_pod(self.pod):
        self._again(codes.REFUSED, 'Google refused to make the pod')
    elif step.do == Do.REMAKE:
      need_ours(self.pod, resource)
      self._remake(step.reason)
    else:
      self._sleep(self.pod.seconds.poll)

  def _tend(self, fleet: Fleet) -> None:
    """A pod that is there: set up where it is not, and a look at what runs."""
    if not self.pod.memory.text('setup'):
      code = self._set_up(fleet)
      if code == codes.USER_ERROR:
        self._finish(code)
      if code:
        self._failed(codes.LOST, 'setting up failed')
        return
    run = training.look_at_run(fleet)
    step = step_for_run(self.watch, self.limits, run, self.plan.run_id, time.time())
    if run.answers.missing:
      say(f'no answer from {run.answers.silent}')
    if step.do == Do.WAIT:
      self._sleep(self.pod.seconds.poll)
    elif step.do == Do.WAIT_BRIEFLY:
      self._sleep(min(self.pod.seconds.poll, 5))
    elif step.do == Do.SETUP:
      self.pod.memory.forget('setup')
    elif step.do == Do.BEGIN:
      self._begin(fleet, run.attempt + 1)
    elif step.do == Do.REMAKE:
      self._remake(step.reason)
    elif step.do == Do.BUSY:
      training.need_idle(self.pod, run)
    elif step.do == Do.STOP:
      say('some hosts have ended and others have not noticed:')
      training.kill_run(fleet)
    elif step.do == Do.RESTART:
      self._keep_logs(fleet, run)
      self._again(run.code, step.reason)
      self._begin(fleet, run.attempt + 1)
    else:
      self._report_end(fleet, run)
      self._finish(run.code)

  def _set_up(self, fleet: Fleet) -> int:
    try:
      return setup_pod(fleet)
    except Mistake as mistake:  # the code cannot be sent: an end in order, as for every other code 2
      say(f'error: {mistake}')
      return codes.USER_ERROR

  def _begin(self, fleet: Fleet, attempt: int) -> None:
    code = training.start(fleet, self.plan, attempt)
    if code == codes.USER_ERROR:
      self._finish(code)
    if code:
      self._failed(code, 'starting failed')
    else:
      begun(self.watch, time.time())

  def _failed(self, code: int, reason: str) -> None:
    """As `_again`, unless the pod went away meanwhile: then that is the reason, and is counted once."""
    if look_at(self.pod).state == ACTIVE:
      self._again(code, reason)

  def _again(self, code: int, reason: str) -> None:
    """Waits before a restart; `code` is the end where there were too many."""
    pause = pause_before_restart(self.watch, self.limits, time.time())
    if pause is None:
      say(f'{reason}; --max_restarts={self.limits.max_restarts} are used up')
      self._finish(code)
    say(f'{reason}: restart {self.watch.restarts} in {pause:g} s')
    self._sleep(pause)

  def _remake(self, reason: str) -> None:
    self._again(codes.LOST, reason)
    self.watch.mine = False
    if delete_pod(self.pod):
      create_pod(self.pod)  # what failed is seen at the next look

  def _enough(self, reason: str, resource: Resource) -> NoReturn:
    """A limit of the user ends the run, in order."""
    fleet = Fleet(self.pod, self.nodes)
    mine = self.watch.mine
    if not mine and resource.state == ACTIVE:  # it may have been started by an earlier watch
      need_ours(self.pod, resource)
      fleet = Fleet(self.pod, look_at_nodes(self.pod))
      mine = training.look_at_run(fleet).run_id == self.plan.run_id
    say(f'{reason}: the training is stopped, its state saved')
    if mine:
      training.kill_run(fleet)
    self._finish(codes.INTERRUPTED)

  def _finish(self, code: int) -> NoReturn:
    """The end of the watch, and of the pod if so asked."""
    if not self.pod.options.delete_when_done:
      say(f'the pod {self.pod.name} is still paid for; launch/tpu delete --name={self.pod.name} ends that')
      raise Stop(code)
    resource = look_at(self.pod)
    if resource.state == UNKNOWN:
      say(f'the pod {self.pod.name} may still be there: launch/tpu delete')
    elif resource.state != ABSENT:
      need_ours(self.pod, resource)
      if delete_pod(self.pod):
        say(f'the pod {self.pod.name} is deleted')
    raise Stop(code)

  def _paid(self, state: str) -> int:
    """Seconds that the pod was ACTIVE since the first watch of this run."""
    name = f'paid-{self.plan.run_id}'
    paid, since = map(int, (self.pod.memory.text(name) or '0 0').split())
    if state != UNKNOWN:
      paid, since = paid_until(time.time(), state, paid, since)
      self.pod.memory.write(name, f'{paid} {since}\n')
    return paid

  def _keep_logs(self, fleet: Fleet, run: training.Run) -> str:
    """The last lines of every host, which go with the pod otherwise."""
    lines = [f'{run.run_id} attempt {run.attempt}, code {run.code}, {time.strftime("%Y-%m-%d %H:%M:%S %Z")}\n']
    for node in fleet.nodes:
      command = fleet.ssh(node.name, 'all', verb('current', 'logs', LAST_LINES, 0, ''))
      lines += self.pod.commands.ask(command, self.pod.seconds.ssh).out.splitlines(keepends=True)
    text = ''.join(line for line in lines if not line.startswith('@sslax'))
    self.pod.memory.write('failed.log', text)
    return text

  def _report_end(self, fleet: Fleet, run: training.Run) -> None:
    if run.code == codes.DONE:
      say(f'{self.plan.run_id} is done')
      return
    lines = self._keep_logs(fleet, run).splitlines()
    say(f'{self.plan.run_id} ended with code {run.code}, which a restart would not change:')
    say('\n'.join(lines[-SHOWN_LINES * len(fleet) :]))

  def _sleep(self, seconds: float) -> None:
    if not self.pod.dry_run:
      time.sleep(seconds)
