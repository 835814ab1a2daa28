"""The list of records that could not be read, and the end of the run when they are too many."""

import json
import os
import pathlib

import numpy as np

from sslax.data import assemble
from sslax.data.sources import Source
from sslax.errors import UserError


class BadRecords:
  """Records that `train_batches` had to replace: counted once each, listed in a file that outlives the process.

  Args:
    source: the source of the batches.
    path: `bad_records.jsonl` in the workdir, one line {index, where, reason} a record; None: no file. With several processes,
      a file for each: nothing locks it.
    max_fraction: of the source's records that may be bad.
    inputs: what is made of a record.

  Raises:
    UserError: the list of an earlier run is above the limit, and its records still cannot be read.
  """

  def __init__(
    self,
    source: Source,
    path: str | os.PathLike | None = None,
    max_fraction: float = 0.01,
    *,
    inputs: assemble.Inputs,
  ):
    self._source, self._max_fraction, self._inputs = source, max_fraction, inputs
    self._path = None if path is None else pathlib.Path(path)
    self._bad = self._listed()
    self.draws = 0  # rows replaced since this object was made
    if self._too_many():  # perhaps they have been repaired since: who still finds the old list would never get started
      self._bad = {i for i in self._bad if self._reason(i) is not None}
      self._check()

  @property
  def count(self) -> int:
    """How many different records are bad."""
    return len(self._bad)

  def update(self, wanted: np.ndarray, index: np.ndarray) -> None:
    """Notes what a batch says: all records from wanted (inclusive) to index (exclusive), cyclically, are bad.

    Args:
      wanted: `[B]` records that were drawn.
      index: `[B]` records that were used.

    Raises:
      UserError: more than max_fraction of the source's records are bad.
    """
    wanted, index = np.asarray(wanted), np.asarray(index)
    n = len(self._source)
    replaced = np.flatnonzero(wanted != index)
    self.draws += len(replaced)
    bad = {(int(w) + k) % n for w, i in zip(wanted[replaced], index[replaced], strict=True) for k in range(int(i - w) % n)}
    new = sorted(bad - self._bad)
    self._bad.update(new)
    if new and self._path is not None:
      self._append(self._path, new)
    self._check()

  def _check(self):
    if self._too_many():
      some = ', '.join(self._source.where(i) for i in sorted(self._bad)[:3])
      raise UserError(
        f'{self._source.name}: {self.count} of {len(self._source)} records cannot be read, more than data.max_bad_fraction '
        f'({self._max_fraction:g}) allows: {f"the list is {self._path}" if self._path else f"{some}, ..."}. '
        'Repair or remove them, or raise data.max_bad_fraction.'
      )

  def _too_many(self):
    return self.count > self._max_fraction * len(self._source)

  def _reason(self, i):
    """Why record i cannot be read; None: it can."""
    try:
      assemble.draw(self._inputs, assemble.load(self._source, i, self._inputs), seed=0)
    except assemble.BAD as error:
      return assemble.one_line(error)
    return None

  def _append(self, path: pathlib.Path, new: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a+b') as file:
      if file.tell():
        file.seek(-1, os.SEEK_END)
        if file.read() != b'\n':  # killed while writing: that line is lost, the next one must not be
          file.write(b'\n')
      for i in new:
        reason = self._reason(i)
        reason = 'can be read now: was the storage away for a moment?' if reason is None else reason
        file.write(json.dumps({'index': i, 'where': self._source.where(i), 'reason': reason}).encode() + b'\n')

  def _listed(self):
    """Records in the file that are still the same records of this source."""
    bad = set()
    if self._path is not None and self._path.exists():
      for line in self._path.read_text(errors='replace').splitlines():
        try:
          entry = json.loads(line)
          i, where = int(entry['index']), entry['where']
        except (ValueError, KeyError, TypeError):  # half a line
          continue
        if 0 <= i < len(self._source) and self._source.where(i) == where:
          bad.add(i)
    return bad
