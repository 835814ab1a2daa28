"""The steps of launch/tpu with answers from a script: who is asked, how often, in which order, and what follows from silence."""

import dataclasses

import pytest

from launch.tpu_pods import gcloud, hosts, lifecycle, memory, report, setup, snapshot, training, watcher
from launch.tpu_pods.errors import Mistake, Stop
from launch.tpu_pods.options import Options
from launch.tpu_pods.pod import Node, Pod
from launch.tpu_pods.processes import Commands, Output
from launch.tpu_pods.settings import Seconds

OPTIONS = Options(name='pod', zone='us-central1-a', type='v5litepod-8', runtime='r', spot=True)


class Scripted(Commands):
  """Each program ends as a function of its words says: with an Output, a code, or what it prints."""

  def __init__(self, answer, dry_run=False):
    super().__init__(None, dry_run)
    self.answer, self.ran = answer, []

  def ask(self, words, limit):
    self.ran.append((list(words), limit))
    said = self.answer(words)
    return said if isinstance(said, Output) else Output(said) if isinstance(said, int) else Output(0, said)

  def change_aloud(self, words, limit):
    return self.change(words, limit).code

  def verbs(self):
    """Who was asked for what: 'describe pod', 'ssh w1 status'."""
    return [brief(words) for words, _ in self.ran]


def brief(words):
  if 'ssh' in words:
    worker = next(word for word in words if word.startswith('--worker='))[9:]
    command = words[-1].split('worker.sh ')[-1].split()[0]
    return f'ssh {words[words.index("ssh") + 1]} {worker} {command}'
  return ' '.join(words[3:6])


@pytest.fixture
def clock(monkeypatch):
  """Time that only sleeping moves; its sleeps."""
  slept = []
  monkeypatch.setattr('time.sleep', slept.append)
  monkeypatch.setattr('time.time', lambda: 1000 + sum(slept))
  return slept


def make(tmp_path, answer, **given):
  options = dataclasses.replace(OPTIONS, **given)
  kept = memory.Memory(tmp_path, 'pod', options.dry_run)
  return Pod(options, kept, Scripted(answer, options.dry_run), Seconds())


def fleet(pod, *sizes):
  names = ['pod'] if len(sizes) == 1 else [f'pod-{i}' for i in range(len(sizes))]
  nodes = [Node(name, 'READY', ('10.0.0.1',) * size) for name, size in zip(names, sizes, strict=True)]
  return hosts.Fleet(pod, nodes)


# Questions to Google


def test_a_question_is_asked_three_times(tmp_path, clock):
  failed = Output(1, '', 'INTERNAL: later')
  answers = iter([failed, failed, Output(0, 'ACTIVE,pod,v5p-8\n')])
  pod = make(tmp_path, lambda _: next(answers))
  assert gcloud.look(pod.commands, ['gcloud'], 5) == 'ACTIVE,pod,v5p-8' and clock == [1, 2]
  assert {limit for _, limit in pod.commands.ran} == {5}
  with pytest.raises(gcloud.NoAnswer, match='three attempts: INTERNAL: later'):
    gcloud.look(Scripted(lambda _: failed), ['gcloud'], 5)


@pytest.mark.parametrize(
  'said, error',
  [
    ("ERROR: NOT_FOUND: Resource 'x' was not found", gcloud.Absent),
    ('ERROR: PERMISSION_DENIED: no', gcloud.Refused),
    ('You do not currently have an active account selected.', gcloud.Refused),
  ],
)
def test_what_will_not_change_is_asked_once(said, error):
  commands = Scripted(lambda _: Output(1, '', said))
  with pytest.raises(error) as raised:
    gcloud.look(commands, ['gcloud'], 5)
  assert len(commands.ran) == 1 and (error is gcloud.Absent or raised.value.code == 2)


# Life and end


@pytest.mark.parametrize('timeout, code, looks', [('90s', 170, 4), ('', 0, 6)])
def test_waiting_for_a_pod_ends_in_time(tmp_path, clock, timeout, code, looks):
  states = iter(['WAITING_FOR_RESOURCES,pod,'] * 5 + ['ACTIVE,pod,'])
  pod = make(tmp_path, lambda _: next(states), timeout=timeout)
  assert lifecycle.wait_until_active(pod) == code and len(pod.commands.ran) == looks


@pytest.mark.parametrize('refusals, deleted, attempts', [(0, True, 1), (2, True, 3), (3, False, 3)])
def test_a_deletion_is_tried_three_times(tmp_path, clock, capsys, refusals, deleted, attempts):
  codes = iter([1] * refusals + [0])
  pod = make(tmp_path, lambda words: next(codes) if 'delete' in words else 'ACTIVE,pod,')
  pod.memory.write('pod', 'zone=z\n')
  pod.memory.write('setup', 'abc\n')
  assert lifecycle.delete(pod) == (0 if deleted else 1)
  assert pod.commands.verbs() == ['queued-resources describe pod'] + ['queued-resources delete pod'] * attempts
  assert bool(pod.memory.text('pod')) == bool(pod.memory.text('setup')) == (not deleted), 'what is still there is remembered'
  assert deleted or 'still paid for' in capsys.readouterr().err


@pytest.mark.parametrize('answer, code', [('UNKNOWN', 170), (',,', None)])
def test_what_is_unknown_or_not_ours_is_not_deleted(tmp_path, clock, answer, code):
  pod = make(tmp_path, lambda _: 1 if answer == 'UNKNOWN' else 'ACTIVE,another,v5litepod-8')
  with pytest.raises(Stop if code else Mistake):
    lifecycle.delete(pod)
  assert not any('delete' in words for words, _ in pod.commands.ran)


# All hosts


def test_hosts_are_named_by_slice(tmp_path):
  assert [host.name for host in fleet(make(tmp_path, str), 2).hosts()] == ['w0', 'w1']
  two = fleet(make(tmp_path, str), 2, 1)
  assert [(host.name, host.node, host.number) for host in two.hosts()] == [
    ('s0w0', 'pod-0', 0),
    ('s0w1', 'pod-0', 1),
    ('s1w0', 'pod-1', 0),
  ]
  assert len(two) == 3


@pytest.mark.parametrize(
  'code, asked, missing',
  [(255, 2, 'no answer by ssh'), (124, 2, 'no answer by ssh'), (1, 1, 'code 1: no space left')],
)
def test_who_does_not_answer_is_asked_alone_and_named(tmp_path, code, asked, missing):
  """Three times in all after ssh failed, twice where the command itself ended badly; the others are asked once."""

  def answer(words):
    return Output(code, '@sslax w0 0 none\n' if '--worker=all' in words else '', 'x\nno space left\n')

  pod = make(tmp_path, answer)
  answers = fleet(pod, 2).ask(hosts.verb('current', 'status'), 9)
  assert pod.commands.verbs() == ['ssh pod all status'] + ['ssh pod 1 status'] * asked
  assert answers.said == {'w0': (0, 'none')} and answers.missing == {'w1': missing}


def test_a_late_answer_counts(tmp_path):
  pod = make(tmp_path, lambda words: '@sslax w1 0 none\n' if '--worker=1' in words else Output(255, '@sslax w0 0 none\n'))
  answers = fleet(pod, 2).ask(hosts.verb('current', 'status'), 9)
  assert set(answers.said) == {'w0', 'w1'} and not answers.missing


def test_new_hosts_are_asked_no_more(tmp_path):
  pod = make(tmp_path, lambda _: '@sslax new 2 not set up; launch/tpu setup does it\n')
  answers = fleet(pod, 4).ask(hosts.verb('current', 'status'), 9)
  assert answers.new and len(pod.commands.ran) == 1 and not answers.missing


def test_dry_run_shows_changes_and_asks_questions(tmp_path, capsys):
  pod = make(tmp_path, lambda _: '@sslax w0 0 none\n', dry_run=True)
  one = fleet(pod, 1)
  assert one.change(hosts.verb('current', 'kill', 5), 9).said == {} and pod.commands.ran == []
  assert capsys.readouterr().out.startswith('gcloud compute tpus tpu-vm ssh pod ')
  assert one.ask(hosts.verb('current', 'status'), 9).said and len(pod.commands.ran) == 1


# Runs


def test_a_run_that_cannot_start_everywhere_is_stopped(tmp_path, clock, capsys):
  def answer(words):
    verb = brief(words).split()[-1]
    return Output(255, '@sslax w0 0 started\n') if verb == 'run' else '@sslax w0 0 killed\n@sslax w1 0 nothing was running\n'

  pod = make(tmp_path, answer)
  plan = training.Plan('r1', 'none', '/r', ('--config=a b', '--workdir=/r'))
  assert training.start(fleet(pod, 2), plan, 7) == 170
  assert pod.commands.verbs() == ['ssh pod all run'] + ['ssh pod 1 run'] * 2 + ['ssh pod all kill']
  assert pod.commands.ran[0][0][-1].endswith('worker.sh run r1 7 none --num_processes=2 --config=a\\ b --workdir=/r')
  assert 'w1 (no answer by ssh)' in capsys.readouterr().err


def test_hosts_that_have_not_met_are_named(tmp_path, clock, capsys):
  def answer(words):
    if brief(words).endswith(' run'):
      return '@sslax w0 0 started\n@sslax w1 0 started\n'
    return '@sslax w0 0 running r1 1 joined\n@sslax w1 0 running r1 1 starting\n'

  pod = make(tmp_path, answer)
  assert training.start(fleet(pod, 2), training.Plan('r1', 'none', '/r', ()), 1) == 0
  assert capsys.readouterr().err.endswith('after 60 s these hosts have not met the others yet:\n  w1\n') and sum(clock) == 60


def test_killing_waits_for_the_save(tmp_path):
  pod = make(tmp_path, lambda _: '@sslax w0 0 ended in order, code 42\n')
  training.kill_run(fleet(pod, 1), 45)
  ((words, limit),) = pod.commands.ran
  assert words[-1].endswith('worker.sh kill 45') and limit == 300 + 45


@pytest.mark.parametrize(
  'worker, sizes, asked',
  [
    ('', (2, 2), [('pod-0', 'all'), ('pod-1', 'all')]),
    ('1', (2,), [('pod', 1)]),
    ('w1', (2,), [('pod', 1)]),
    ('s1w0', (2, 2), [('pod-1', 0)]),
    ('0', (2, 2), [('pod-0', 0), ('pod-1', 0)]),
  ],
)
def test_whose_logs(tmp_path, worker, sizes, asked):
  assert report._asked(fleet(make(tmp_path, str), *sizes), worker) == asked


def test_no_such_host(tmp_path):
  with pytest.raises(Mistake, match='no host of pod: w0, w1'):
    report._asked(fleet(make(tmp_path, str), 2), 'w2')


# Setup


def test_setup_goes_in_order_and_is_written_down_last(tmp_path, monkeypatch, clock):
  """The first host is met alone, for gcloud makes its key then; code before environment; a lock is resolved once, on one host."""
  monkeypatch.setattr(snapshot, 'pack', lambda *_: packed(tmp_path))

  def answer(words):
    what = brief(words)
    if what.endswith('lock'):
      return 'noise\n@lock jax==0.10.2\n@lock numpy==2.0\n@sslax w0 0 resolved\n'
    worker = what.split()[2] if 'ssh' in words else ''
    return ''.join(f'@sslax w{i} 0 jax 0.10.2\n' for i in (range(2) if worker == 'all' else [worker]))

  pod = make(tmp_path, answer, python='3.12', extras='tpu', secrets=str(tmp_path / 'secrets'))
  assert setup.setup_pod(fleet(pod, 2)) == 0
  assert pod.memory.text('setup') == 'abc\n' and pod.memory.text('code/abc.diff') == 'commit'
  steps = pod.commands.verbs()
  assert steps[:2] == ['ssh pod 0 --command=mkdir', 'ssh pod 1 --command=mkdir']
  (lock,) = pod.memory.folder.glob('lock-*.txt')
  assert steps[2:] == [
    f'tpu-vm scp {tmp_path}/code.tar.gz', 'ssh pod all --command=set', 'ssh pod all --command=install',
    f'tpu-vm scp {tmp_path}/secrets', 'ssh pod 0 lock', f'tpu-vm scp {lock}', 'ssh pod all setup',
  ]  # fmt: skip
  assert lock.read_text() == 'jax==0.10.2\nnumpy==2.0\n'
  pod.commands.ran.clear()
  assert setup.setup_pod(fleet(pod, 2)) == 0 and 'ssh pod 0 lock' not in pod.commands.verbs()


def packed(folder):
  (folder / 'code.tar.gz').write_bytes(b'x' * 1025)
  return snapshot.Snapshot('abc', folder / 'code.tar.gz', 'commit')


# The end of a watch


@pytest.mark.parametrize('asked', [False, True])
@pytest.mark.parametrize('code', [0, 2, 42, 170])
def test_a_watch_deletes_the_pod_where_it_was_asked_to(tmp_path, clock, asked, code):
  pod = make(tmp_path, lambda words: 0 if 'delete' in words else 'ACTIVE,pod,v5litepod-8', delete_when_done=asked)
  with pytest.raises(Stop) as stop:
    watcher.Watcher(pod, training.Plan('r1', 'none', '/r', ()))._finish(code)
  assert (
    stop.value.code == code and pod.commands.verbs() == ['queued-resources describe pod', 'queued-resources delete pod'] * asked
  )


def test_code_that_cannot_be_sent_ends_a_watch_in_order(tmp_path, clock, monkeypatch, capsys):
  def refuse(*_):
    raise Mistake('git tracks 99 MiB')

  monkeypatch.setattr(snapshot, 'pack', refuse)
  answers = {'tpu-vm': 'READY,10.0.0.1', 'queued-resources': 'ACTIVE,pod,v5litepod-8'}
  pod = make(tmp_path, lambda words: 0 if 'delete' in words else answers[words[3]], delete_when_done=True)
  with pytest.raises(Stop) as stop:
    watcher.Watcher(pod, training.Plan('r1', 'none', '/r', ())).turn()
  assert stop.value.code == 2 and pod.commands.verbs()[-1] == 'queued-resources delete pod'
  assert 'error: git tracks 99 MiB' in capsys.readouterr().err
