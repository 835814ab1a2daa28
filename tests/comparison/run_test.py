"""All runs one after the other: one that fails, signals, the command that is noted."""

import os
import signal
import sys

import pytest

from sslax.comparison import Comparison, Stop, training
from sslax.errors import Diverged, Interrupted


@pytest.fixture
def no_work(monkeypatch):
  """Nothing is checked, trained or probed."""
  monkeypatch.setattr(training, 'train', lambda *_: None)
  monkeypatch.setattr(training, 'probe', lambda *_: None)
  monkeypatch.setattr(Comparison, 'check', lambda _: None)
  monkeypatch.setattr(Comparison, '_floors', lambda *_: None)


def test_one_failure_is_a_row_and_the_next_call_tries_it_again(make, no_work, monkeypatch, capsys):
  trained = []

  def train(config, workdir, journal, stop):
    trained.append(workdir.parent.name)
    if workdir.parent.name == 'cold' and trained.count('cold') == 1:
      raise RuntimeError('out of memory')
    if workdir.parent.name == 'warm':
      raise Diverged('step 7: loss not finite; last good checkpoint: 5')

  monkeypatch.setattr(training, 'train', train)
  for expected in (['cold', 'warm'], ['cold', 'warm', 'cold']):
    with Stop() as stop:
      job = make()
      job.run(stop)
    assert trained == expected
    assert 'failed: out of memory' in capsys.readouterr().out or expected[-1] == 'cold'
  assert [row.status() for row in job.results.rows()[2:]] == ['done', 'diverged at step 7: loss not finite']


def test_a_signal_ends_at_once_where_nothing_can_be_lost(make, no_work, monkeypatch, capfd):
  class Exit(BaseException):
    pass

  def leave(code):
    raise Exit(code)

  def probe(*_):
    os.kill(os.getpid(), signal.SIGINT)
    pytest.fail('went on')

  monkeypatch.setattr(os, '_exit', leave)
  monkeypatch.setattr(sys, 'argv', ['compare', '--workdir=caf\udce9'])  # a word of a command line need be no UTF-8
  monkeypatch.setattr(training, 'probe', probe)
  with Stop() as stop, pytest.raises(Exit, match='42'):
    make().run(stop)
  told = capfd.readouterr().err
  assert 'SIGINT in run 1 of 2 (cold, seed 0)' in told and r"sslax.compare '--workdir=caf\udce9'" in told
  with Stop('SIGTERM') as stop, pytest.raises(Interrupted, match='SIGTERM in the checks'):  # during the imports
    make().run(stop)


def test_each_command_is_noted_once(make, no_work, monkeypatch):
  for words in (['--workdir=a'], ['--workdir=caf\udce9'], ['--workdir=a']):
    monkeypatch.setattr(sys, 'argv', ['compare', *words])
    with Stop() as stop:
      job = make()
      job.run(stop)
  assert job.results.commands() == ['python -m sslax.compare --workdir=a', "python -m sslax.compare '--workdir=caf\udce9'"]
  assert job.results.commands_file.read_bytes().endswith(b"caf\xe9'\n")
  assert (job.plan.workdir / 'compare.html').exists()


def test_a_dry_run_writes_nothing(make, no_work, capsys):
  with Stop() as stop:
    job = make(seeds=(0, 1), only=('warm',))
    job.run(stop, dry_run=True)
  told = capsys.readouterr().out
  assert 'warm, seed 0: not run\n  warm, seed 1: not run' in told and 'checking 2 run(s) of 1 method(s)' in told
  assert not job.plan.workdir.exists()
