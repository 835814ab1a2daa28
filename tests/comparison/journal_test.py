"""Which seconds of a run are training: over sessions, and over those that were killed."""

import json
import os
import time

import pytest

from sslax.comparison.journal import Journal


def test_seconds_of_a_killed_session_are_kept(tmp_path):
  journal = Journal(tmp_path)
  # It began 100 s ago, came to its first step after 10 s, 5 of them of compilation ...
  journal.begin(0, compile_seconds=5.0, began=time.time() - 100)
  status = tmp_path / 'status.json'
  status.write_text(json.dumps({'step': 30, 'first_step_seconds': 10.0}))
  journal.online(20, time.time() - 60)  # ... measured online accuracy from second 40 to 100 (60 s), and was killed
  os.utime(status, (time.time(), time.time()))
  journal['clock'].append([29, 1e9])
  journal.update()
  journal = Journal(tmp_path)
  journal.end_killed()
  status.write_text(json.dumps({'step': 25}))  # of the next session
  journal.begin(25, compile_seconds=1.0, began=time.time())
  first, second = journal['sessions']
  assert first['seconds'] == pytest.approx(30, abs=1) and (first['step'], first['compile_seconds']) == (30, 10.0)
  assert journal['clock'] == [[20, pytest.approx(30, abs=1)]], 'steps after the checkpoint are done again'
  assert second['start_step'] == 25 and 'step' not in second and second['compile_seconds'] == 1.0
  assert Journal(tmp_path)['sessions'] == journal['sessions'], 'it is on disk'


def test_a_session_that_came_to_no_step(tmp_path):
  journal = Journal(tmp_path)
  journal.end_killed()
  assert journal['sessions'] == []
  journal.begin(7, compile_seconds=5.0, began=time.time() - 9)
  (tmp_path / 'status.json').write_text(json.dumps({'step': 7}))
  journal.end(time.time())
  session = journal['sessions'][0]
  assert (session['seconds'], session['compile_seconds'], session['step'], journal.steps()) == (0.0, 5.0, 7, 0)
  journal.end_killed()
  assert Journal(tmp_path)['sessions'] == [session], 'it has ended'


def test_a_damaged_journal_is_a_new_one(tmp_path):
  (tmp_path / 'compare.json').write_text('{"status": "do')
  assert Journal(tmp_path)['status'] == 'not run' and Journal(tmp_path)['sessions'] == []
