"""What launch/tpu watch decides, without a gcloud, a clock or a host."""

import pytest

from launch.tpu_pods import codes
from launch.tpu_pods.hosts import Answer, Answers
from launch.tpu_pods.training import summarized
from launch.tpu_pods.watch import (
  Do,
  Limits,
  Watch,
  begun,
  over,
  paid_until,
  pause_before_restart,
  step_for_pod,
  step_for_run,
)  # fmt: skip

LIMITS = Limits(max_restarts=3, backoff=30, backoff_max=100, peer=60)


def fresh(**known):
  return Watch(since=1000, pause=30, **known)


def run(*texts, missing=()):
  """What hosts say, one after the other."""
  said = {f'w{i}': Answer(0, text) for i, text in enumerate(texts)}
  return summarized(Answers(said, dict.fromkeys(missing, 'no answer by ssh')))


# The pod


@pytest.mark.parametrize(
  'state, node, do',
  [
    ('ABSENT', '', Do.CREATE),
    ('WAITING_FOR_RESOURCES', '', Do.WAIT),
    ('PROVISIONING', '', Do.WAIT),
    ('SUSPENDING', '', Do.WAIT),
    ('UNKNOWN', '', Do.WAIT),  # no answer is no reason to delete anything
    ('SUSPENDED', '', Do.REMAKE),
    ('FAILED', '', Do.REMAKE),
    ('PREEMPTED', '', Do.REMAKE),
    ('ACTIVE', 'READY', Do.TEND),
    ('ACTIVE', 'CREATING', Do.WAIT),
    ('ACTIVE', 'REPAIRING', Do.WAIT),
    ('ACTIVE', 'UNKNOWN', Do.WAIT),
    ('ACTIVE', 'PREEMPTED', Do.REMAKE),
    ('ACTIVE', 'TERMINATED', Do.REMAKE),
    ('ACTIVE', 'STOPPED', Do.REMAKE),
    ('ACTIVE', 'ABSENT', Do.REMAKE),
  ],
)
def test_a_pod(state, node, do):
  step = step_for_pod(state, node)
  assert step.do == do
  assert do != Do.REMAKE or step.reason.endswith(node or state)


# The run


@pytest.mark.parametrize(
  'texts, mine, do',
  [
    (['none', 'none'], False, Do.BEGIN),
    (['none', 'none'], True, Do.BEGIN),
    (['running r1 1 joined', 'running r1 1 starting'], False, Do.WAIT),
    (['running r2 1 joined', 'running r2 1 joined'], False, Do.BUSY),
    (['running r2 1 joined', 'ended r2 1 0'], True, Do.BUSY),
    (['running r1 1 joined', 'ended r1 1 42'], True, Do.WAIT_BRIEFLY),
    (['running r1 1 joined', 'none'], False, Do.WAIT_BRIEFLY),
    (['ended r1 1 2', 'ended r1 1 2'], False, Do.BEGIN),  # of an earlier command, or an earlier watch
    (['ended r1 1 0', 'ended r1 1 0'], False, Do.BEGIN),
    (['ended r1 1 0', 'ended r1 1 0'], True, Do.FINISH),
    (['ended r1 1 42', 'ended r1 1 42'], True, Do.RESTART),
    (['ended r1 1 42', 'ended r1 1 0'], True, Do.RESTART),
    (['ended r1 1 170', 'ended r1 1 134'], True, Do.RESTART),
    (['ended r1 1 137', 'ended r1 1 42'], True, Do.RESTART),
    (['ended r1 1 42', 'ended r1 1 1'], True, Do.FINISH),
    (['ended r1 1 2', 'ended r1 1 42'], True, Do.FINISH),
    (['ended r1 1 170', 'ended r1 1 3'], True, Do.FINISH),
  ],
)
def test_a_run(texts, mine, do):
  watch = fresh(mine=mine)
  assert step_for_run(watch, LIMITS, run(*texts), 'r1', 1000).do == do
  if do in (Do.BUSY, Do.BEGIN):
    assert watch.mine == mine and watch.running_since is None, 'it is not this run'


def test_every_exit_code_but_42_170_and_signals_ends_a_run():
  again = [
    code for code in range(256) if step_for_run(fresh(mine=True), LIMITS, run(f'ended r1 1 {code}'), 'r1', 0).do == Do.RESTART
  ]
  assert again == [42, *range(128, 256)]


def test_what_ended_while_this_watch_looked_is_its_own():
  watch = fresh()
  step_for_run(watch, LIMITS, run('running r1 4 joined'), 'r1', 1000)
  assert step_for_run(watch, LIMITS, run('ended r1 4 3'), 'r1', 1030).do == Do.FINISH


def test_hosts_that_do_not_notice_are_stopped_after_their_time():
  watch, mixed = fresh(mine=True), run('running r1 1 joined', 'ended r1 1 42')
  steps = [step_for_run(watch, LIMITS, mixed, 'r1', now).do for now in (1000, 1005, 1059, 1060, 1065)]
  assert steps == [Do.WAIT_BRIEFLY] * 3 + [Do.STOP] * 2
  begun(watch, 1100)
  assert step_for_run(watch, LIMITS, mixed, 'r1', 1101).do == Do.WAIT_BRIEFLY, 'the next attempt has its own time'


def test_a_silent_host_is_given_up_after_five_looks_in_a_row():
  watch, lost = fresh(mine=True), run('running r1 1 joined', missing=['w1'])
  looks = [lost] * 4 + [run('running r1 1 joined', 'running r1 1 joined')] + [lost] * 5
  steps = [step_for_run(watch, LIMITS, look, 'r1', 1000) for look in looks]
  assert [step.do for step in steps] == [Do.WAIT] * 9 + [Do.REMAKE] and 'w1' in steps[-1].reason


def test_when_nobody_answers_it_is_rather_the_network_here():
  watch = fresh(mine=True)
  assert {step_for_run(watch, LIMITS, run(missing=['w0', 'w1']), 'r1', 1000).do for _ in range(50)} == {Do.WAIT}


def test_a_pod_that_somebody_made_again_is_set_up():
  answers = Answers({'new': Answer(2, 'not set up; launch/tpu setup does it')})
  assert step_for_run(fresh(mine=True), LIMITS, summarized(answers), 'r1', 1000).do == Do.SETUP


# Restarts


def test_pauses_double_up_to_a_limit_and_restarts_are_counted():
  watch = fresh()
  assert [pause_before_restart(watch, LIMITS, 1000) for _ in range(4)] == [30, 60, 100, None]
  assert pause_before_restart(fresh(), Limits(max_restarts=0), 1000) is None


@pytest.mark.parametrize('seconds, pause', [(99, 60), (100, 30), (5000, 30)])
def test_what_ran_for_long_was_healthy(seconds, pause):
  watch = fresh()
  pause_before_restart(watch, LIMITS, 1000)
  begun(watch, 1030)
  assert pause_before_restart(watch, LIMITS, 1030 + seconds) == pause
  assert watch.running_since is None and watch.restarts == 2


def test_what_did_not_run_in_between_was_not_healthy():
  watch = fresh()
  begun(watch, 1000)
  pauses = [pause_before_restart(watch, LIMITS, now) for now in (2000, 9000, 99000)]
  assert pauses == [30, 60, 100]


# Limits of the user


def test_hours():
  limits = Limits(max_seconds=3600, max_paid_seconds=7200)
  assert over(fresh(), limits, 1000 + 3599, paid=7199) == ''
  assert over(fresh(), limits, 1000 + 3600, paid=0) == '--max_hours=1 are over'
  assert over(fresh(), limits, 1000, paid=7200) == '--max_paid_hours=2 are used up'
  assert over(fresh(), Limits(), 1e9, paid=1e9) == '', '0 is no limit'


def test_only_an_active_pod_is_paid_for_and_nobody_need_watch():
  paid = since = 0
  seen = [
    (1000, 'WAITING_FOR_RESOURCES'),
    (2000, 'ACTIVE'),
    (2100.9, 'ACTIVE'),
    (5000, 'ACTIVE'),
    (6000, 'SUSPENDED'),
    (7000, 'ACTIVE'),
  ]
  counted = []
  for now, state in seen:
    paid, since = paid_until(now, state, paid, since)
    counted.append(paid)
  assert counted == [0, 0, 100, 3000, 3000, 3000] and since == 7000


# One code, and one state, for all hosts


@pytest.mark.parametrize(
  'several, one',
  [
    ([], 0), ([0, 0], 0), ([0, 42], 42), ([42, 137], 137), ([137, 170], 170), ([170, 1], 1), ([1, 7], 1), ([7, 1], 7),
    ([1, 3], 3), ([3, 2], 2), ([42, 0, 170, 2, 1, 3, 139], 2),
  ],
)  # fmt: skip
def test_a_crash_is_never_hidden(several, one):
  assert codes.worst(several) == one


@pytest.mark.parametrize(
  'texts, state, code, attempt, joined',
  [
    (['none', 'none'], 'none', 0, 0, 0),
    (['running r1 3 joined', 'running r1 3 starting'], 'running', 0, 3, 1),
    (['running r1 3 joined', 'none'], 'mixed', 0, 3, 1),
    (['running r1 3 joined', 'ended r1 2 42'], 'mixed', 42, 3, 1),
    (['ended r1 2 42', 'ended r1 2 1'], 'ended', 1, 2, 0),
    (['ended r1 2 42', 'none'], 'ended', 42, 2, 0),
  ],
)
def test_one_state_for_all_hosts(texts, state, code, attempt, joined):
  found = run(*texts)
  assert (found.state, found.code, found.attempt, found.joined) == (state, code, attempt, joined)
  assert found.run_id == ('' if state == 'none' else 'r1')
