"""eval.jsonl: one line for each probe of each row that was computed, appended and never changed."""

import dataclasses
import json
import pathlib
from typing import Any

from sslax.errors import UserError
from sslax.evals.probe import Score
from sslax.io import atomic


@dataclasses.dataclass(frozen=True)
class Row:
  """A line of eval.jsonl."""

  step: int  # 0 where no checkpoint is meant
  features: str  # 'trained', 'random encoder', 'raw pixels'
  probe: str
  settings: str  # a digest of the probe's settings, the sets and the preprocessing
  weights: str  # a digest of what the features were made with
  scores: tuple[Score, ...]
  seconds: float

  @property
  def values(self) -> dict[str, Any]:
    """The numbers by name; of a probe that draws, {'mean', 'std', ...} each."""
    found: dict[str, Any] = {}
    for score in self.scores:
      if score.spread is None:
        found |= {score.name: score.value, **score.details}
      else:
        found[score.name] = {'mean': score.value, 'std': score.spread, **score.details}
    return found

  def to_json(self) -> str:
    """The line."""
    head = {'step': self.step, 'features': self.features, 'probe': self.probe, 'settings': self.settings}
    rest = {'weights': self.weights, 'values': self.values, 'scores': [score._asdict() for score in self.scores]}
    return json.dumps({**head, **rest, 'seconds': self.seconds}, default=float)


class Results:
  """The lines of a workdir's eval.jsonl; those of earlier versions, which say no scores, are left alone."""

  def __init__(self, workdir: pathlib.Path):
    """
    Raises:
      UserError: a line before the last one is no JSON.
    """  # fmt: skip
    self._path = workdir / 'eval.jsonl'
    lines = read_jsonl(self._path) if self._path.exists() else []
    self.rows = [row for row in map(_row, lines) if row is not None]

  def add(self, row: Row) -> None:
    """Writes a line and waits until the disk has it."""
    atomic.append_line(self._path, row.to_json())
    self.rows.append(row)

  def find(self, features: str, step: int, probe: str, settings: str, weights: str | None) -> Row | None:
    """The newest line of these; `weights` None: whatever they were."""
    wanted = (features, step, probe, settings)
    for row in reversed(self.rows):
      if (row.features, row.step, row.probe, row.settings) == wanted and weights in (None, row.weights):
        return row
    return None


def _row(line: dict[str, Any]) -> Row | None:
  try:
    scores = tuple(Score(**score) for score in line['scores'])
    return Row(line['step'], line['features'], line['probe'], line['settings'], line['weights'], scores, line['seconds'])
  except (KeyError, TypeError):
    return None


def read_jsonl(path: pathlib.Path) -> list[dict[str, Any]]:
  """The records of a .jsonl file. A last line that is torn (its writer was killed, or is writing) is left out.

  Raises:
    UserError: no such file, or a line before the last one that is not a JSON object.
  """
  try:
    lines = pathlib.Path(path).read_bytes().split(b'\n')  # bytes: a torn line may end within a character
  except OSError as e:
    raise UserError(f'Cannot read {path}: {e.strerror}. Has the run written it yet?') from e
  numbered = [(n, line) for n, line in enumerate(lines, 1) if line.strip()]
  records = []
  for n, line in numbered:
    try:
      record = json.loads(line)
      if not isinstance(record, dict):
        raise ValueError('not an object')
    except ValueError as e:
      if n == numbered[-1][0]:
        break
      raise UserError(f'{path}, line {n}: not a JSON object ({e}). Repair or delete that line.') from e
    records.append(record)
  return records
