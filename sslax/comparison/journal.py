"""What one run of a comparison says of itself: how it ended, its figures, and what its seconds went into."""

import json
import pathlib
import time
from typing import Any

from sslax.io import atomic
from sslax.run.faults import read_status

ENDED = ('done', 'diverged')  # not run again; a failed run is: the disk, the memory or the data may be better now


class Journal:
  """workdir/compare.json of one run: how it ended, its figures, seconds over all sessions, when online accuracy was measured.

  A session is one process that trains: `end_killed`, `begin`, `online` as often as it is measured, `end`.
  """

  def __init__(self, workdir: pathlib.Path):
    self.workdir, self.path = workdir, workdir / 'compare.json'
    self.fields: dict[str, Any] = {
      'status': 'not run',
      'reason': '',
      'sessions': [],
      'clock': [],
      'probe_seconds': 0.0,
      'figures': {},  # probe: its one figure
      'more_is_better': {},  # probe: True, False, or None for neither
    }
    try:
      self.fields.update(json.loads(self.path.read_text(encoding='utf-8')))
    except (FileNotFoundError, json.JSONDecodeError):
      pass

  def __getitem__(self, key: str) -> Any:
    return self.fields[key]

  def update(self, **fields: Any) -> None:
    """Sets these and writes the file."""
    self.fields.update(fields)
    atomic.write(self.path, json.dumps(self.fields, indent=1) + '\n')

  def end_killed(self) -> None:
    """A session that was killed ended when status.json was last written.

    ORDER MATTERS: before the next session writes that file.
    """
    sessions, status = self['sessions'], self.workdir / 'status.json'
    if sessions and 'step' not in sessions[-1]:
      killed = status.stat().st_mtime if status.exists() else 0.0
      self.end(max(killed, sessions[-1]['began']))

  def begin(self, start_step: int, compile_seconds: float, began: float) -> None:
    """A session of training starts at `start_step`.

    Args:
      compile_seconds: of the step.
      began: the time from which status.json counts its first_step_seconds.
    """
    self['sessions'].append(
      {'began': began, 'start_step': start_step, 'compile_seconds': round(compile_seconds, 2), 'online_seconds': 0.0}
    )
    # Steps after the last checkpoint are done again, and measured again.
    self.update(status='running', reason='', clock=[[step, t] for step, t in self['clock'] if step <= start_step])

  def end(self, now: float) -> None:
    """The session is over."""
    status, session = read_status(self.workdir), self['sessions'][-1]
    session['seconds'] = round(self._trained(now), 3)
    # All that the loop needs before its first step (restoring, compiling, the first batch) counts as compilation.
    session['compile_seconds'] = max(session['compile_seconds'], status.get('first_step_seconds', 0.0))
    session['step'] = max(session['start_step'], status.get('step', 0))
    self.update()

  def online(self, step: int, began: float) -> None:
    """Online accuracy of `step` was measured from `began` until now: that is not training."""
    self['clock'].append([step, round(sum(s.get('seconds', 0.0) for s in self['sessions']) + self._trained(began), 3)])
    self['sessions'][-1]['online_seconds'] += round(time.time() - began, 3)
    self.update()

  def _trained(self, now):
    """Seconds of the running session without start, compilation and online accuracy."""
    session, first = self['sessions'][-1], read_status(self.workdir).get('first_step_seconds')
    return 0.0 if first is None else max(0.0, now - session['began'] - first - session['online_seconds'])

  def total(self, key: str) -> float:
    """Over all sessions."""
    return sum(session.get(key, 0.0) for session in self['sessions'])

  def spent(self) -> float:
    """Seconds of the run: training, compilation, online accuracy, probes."""
    return sum(self.total(key) for key in ('seconds', 'compile_seconds', 'online_seconds')) + self['probe_seconds']

  def steps(self) -> int:
    """Steps done in the seconds of training, those done twice counted twice."""
    return sum(session['step'] - session['start_step'] for session in self['sessions'] if 'step' in session)
