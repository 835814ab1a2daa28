"""launch/tpu watch against a gcloud that keeps pods in folders: what it restarts, what it ends, and what it deletes."""

import re

import pytest
from launch.pod import RUN


def watch(box, *args, type='v5e-4', **more):
  pod = ('--name=pod', '--zone=us-central1-a', f'--type={type}', '--spot', f'--python={box.python}')
  return box.tpu('watch', *pod, *args, *RUN, **more)


@pytest.mark.slow
def test_five_preemptions(box):
  """Each is recovered, nothing is left over, and the neighbours without our label are not touched."""
  box.cloud.add('pod-2', 'ACTIVE', {})
  box.cloud.add('pod2', 'SUSPENDED', {'sslax': 'other'})
  box.plan('0')
  box.plan(*['preempt'] * 5, '0', host=0)
  code, output = watch(box, '--delete_when_done')
  assert code == 0 and 'r1 is done' in output, output
  assert re.findall(r'restart (\d) in (\d+) s', output) == [(str(i + 1), str(30 * 2**i)) for i in range(5)]
  assert box.count('create') == box.count('delete') == 6
  assert set(box.cloud.resources) == {'pod-2', 'pod2'}
  assert not [call for call in box.cloud.calls if {'pod-2', 'pod2'} & set(call)]


CODES = {  # what the hosts' processes end with, one after the other: (host 0, host 1, code of watch, how often it ran)
  'saved': (['42', '0'], ['42', '0'], 0, 2),
  'stalled': (['170', '0'], ['134', '0'], 0, 2),
  'user error beside a peer that saved': (['2'], ['42'], 2, 1),
  'crash beside a peer that saved': (['42'], ['1'], 1, 1),
  'diverged': (['3'], ['hang'], 3, 1),
}


@pytest.mark.parametrize('case', CODES)
@pytest.mark.slow
def test_watch_by_exit_code(case, box):
  first, second, expected, runs = CODES[case]
  box.plan(*first, host=0)
  box.plan(*second, host=1)
  box.cloud.birth = ['WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE']
  code, output = watch(box, type='v5e-8', SSLAX_PEER_SECONDS='10')
  assert code == expected, output
  assert (box.host(0) / 'runs/r1/attempt').read_text() == str(runs)
  if expected:
    assert f'w0 the last line before {first[0]}' in output
  assert 'paid for' in output and box.count('delete') == 0


@pytest.mark.slow
def test_watch_ends_at_its_limits(box):
  box.plan(*['42'] * 9)
  code, output = watch(box, '--max_restarts=2')
  assert code == 42 and 'used up' in output and output.count('restart ') == 2, output
  box.plan('hang')
  box.plan('hang', host=0)
  code, output = watch(box, '--max_hours=1', '--delete_when_done', SSLAX_POLL='1200')
  assert code == 42 and 'are over' in output and 'ended in order, code 42' in output, output
  assert box.cloud.resources == {}


@pytest.mark.slow
def test_watch_ends_when_the_paid_hours_are_used_up(box):
  """Hours in the queue are not paid for; those of an earlier watch are, and what it left running is stopped."""
  box.cloud.birth = ['WAITING_FOR_RESOURCES'] * 4 + ['ACTIVE']
  code, output = watch(box, '--max_paid_hours=3', '--max_hours=4', SSLAX_POLL='1200')
  assert code == 42 and 'max_hours=4 are over' in output, output
  box.ok('run', *RUN)
  code, output = watch(box, '--max_paid_hours=2', '--delete_when_done')
  assert code == 42 and 'max_paid_hours=2 are used up' in output and 'ended in order, code 42' in output, output
  assert box.cloud.resources == {}


@pytest.mark.slow
def test_watch_outlives_what_google_does(box):
  """Creation refused once, deletion once, a predecessor that failed: all in one life."""
  box.cloud.add('pod', 'FAILED', {'sslax': 'pod'})
  box.faults({'kind': 'refuse delete', 'times': 1}, {'kind': 'refuse create', 'times': 2})
  box.plan('0')
  code, output = watch(box)
  assert code == 0 and output.count('Quota') == 2 and output.count('restart ') == 2, output
