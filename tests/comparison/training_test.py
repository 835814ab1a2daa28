"""One run: what the clock tells the journal, and when a signal is for the loop."""

import json
import time
import types

import pytest
from run.trainer import status

from sslax.comparison import Stop, training
from sslax.comparison.journal import Journal
from sslax.errors import Interrupted


class Online:
  """As `OnlineKNN`: due every second step, and 0.05 s long."""

  def __init__(self):
    self.calls = []

  def begin(self, session):
    self.calls.append('begin')

  def due(self, step):
    return step % 2 == 0

  def dispatched(self, step, state):
    self.calls.append(step)
    time.sleep(0.05)
    return {'knn': 0.1 * step}

  def close(self):
    self.calls.append('close')


def test_the_clock_counts_online_accuracy_apart(tmp_path):
  journal, stop, online = Journal(tmp_path), Stop(), Online()
  clock = training.Clock(journal, stop, [online])
  (tmp_path / 'status.json').write_text(json.dumps({'step': 3, 'first_step_seconds': 0.01}))
  assert not stop.training
  started = time.perf_counter()
  clock.begin(types.SimpleNamespace(start=1, compile_seconds=2.0))
  assert stop.training, 'a signal is for the loop from here on'
  assert [clock.dispatched(step, {'a': 1.0}) for step in (2, 3, 4)] == [{'knn': 0.2}, {}, {'knn': 0.4}]
  clock.close()
  passed = time.perf_counter() - started
  (session,) = Journal(tmp_path)['sessions']
  assert online.calls == ['begin', 2, 4, 'close']
  assert session['start_step'] == 1 and session['step'] == 3 and session['compile_seconds'] == 2.0
  assert session['online_seconds'] >= 0.1
  assert session['seconds'] + session['online_seconds'] <= passed + 0.02, 'what is online was counted twice'
  (first, at), (second, later) = journal['clock']
  assert (first, second) == (2, 4) and 0 <= at <= later < 0.05, 'seconds of training alone'


def test_the_clock_of_a_run_that_never_began(tmp_path):
  clock = training.Clock(Journal(tmp_path), Stop(), [online := Online()])
  clock.close()
  assert not (tmp_path / 'compare.json').exists() and online.calls == ['close']


@pytest.mark.slow
def test_a_run_is_interrupted_gone_on_with_and_finished(make, tmp_path):
  job = make(shared__online__every_steps=0)
  config, journal = job.plan.resolve('cold', 0), Journal(tmp_path)
  with Stop() as stop:
    stop.agreed = lambda step: step == 10
    with pytest.raises(Interrupted):
      training.train(config, tmp_path, journal, stop)
    assert not stop.training
    (first,) = Journal(tmp_path)['sessions']
    assert (first['start_step'], first['step']) == (0, 10) and journal['status'] == 'running'
    assert journal['batch_size'] == 32 and 0 < journal['encoder_parameters'] < journal['parameters']
    assert first['seconds'] > 0 and first['compile_seconds'] == status(tmp_path)['first_step_seconds'] > 0
    del stop.agreed
    journal.begin(10, compile_seconds=1.0, began=time.time() - 50)  # a session that is killed after one more step
    (tmp_path / 'status.json').write_text(json.dumps({'step': 11, 'first_step_seconds': 20.0}))
    began = time.time()
    training.train(config, tmp_path, journal, stop)
    took = time.time() - began
    sessions = Journal(tmp_path)['sessions']
    assert sessions[0] == first and [(s['start_step'], s['step']) for s in sessions] == [(0, 10), (10, 11), (10, 40)]
    assert sessions[1]['seconds'] == pytest.approx(30, abs=1), 'until status.json was last written'
    assert 0 < sessions[2]['seconds'] + sessions[2]['compile_seconds'] <= took and status(tmp_path)['reason'] == 'done'
    assert journal.steps() == 41, 'one was done twice'
    training.train(config, tmp_path, journal, stop)
  assert Journal(tmp_path)['sessions'] == sessions, 'it has ended: nothing is done'
