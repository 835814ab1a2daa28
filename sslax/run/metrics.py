"""metrics.jsonl (every logged step once, also after a resume), TensorBoard events where tensorboardX is installed."""

import json
import pathlib
import sys

import jax


class MetricWriter:
  """Appends one line a logged step. Process 0 writes; the others only pass through.

  Wall-clock figures do not belong here: an interrupted and an uninterrupted run write the same bytes.
  """

  def __init__(self, workdir: pathlib.Path, start_step: int):
    """Lines after `start_step` (written by a run that died later than its last checkpoint) are dropped."""
    self.path = workdir / 'metrics.jsonl'
    self._file = self._events = None
    if jax.process_index() != 0:
      return
    kept = []
    if self.path.exists():
      for line in self.path.read_text(encoding='utf-8').splitlines():
        try:
          if json.loads(line)['step'] <= start_step:
            kept.append(line + '\n')
        except (json.JSONDecodeError, KeyError):
          break  # torn by a kill in the middle of a write: nothing good follows
    temporary = self.path.with_suffix('.tmp')
    temporary.write_text(''.join(kept), encoding='utf-8')
    temporary.replace(self.path)
    self._file = self.path.open('a', encoding='utf-8')
    try:
      import tensorboardX
    except ImportError:
      print("no TensorBoard events: pip install 'sslax[eval]'", file=sys.stderr)
      return
    self._events = tensorboardX.SummaryWriter(str(workdir / 'tensorboard'), purge_step=start_step + 1)

  def write(self, step: int, values: dict[str, float]) -> None:
    if self._file is None:
      return
    self._file.write(json.dumps({'step': step, **values}) + '\n')
    self._file.flush()  # the operating system has it now: kill -9 does not lose it
    if self._events is not None:
      for key, value in values.items():
        self._events.add_scalar(key, value, step)

  def timing(self, step: int, values: dict[str, float]) -> None:
    """Wall-clock figures go to TensorBoard only."""
    if self._events is not None:
      for key, value in values.items():
        self._events.add_scalar(f'timing/{key}', value, step)

  def close(self) -> None:
    for file in (self._file, self._events):
      if file is not None:
        file.close()
