"""Checkpoints: Orbax behind one module, plus what it lacks: a hash of every leaf, a walk back over bad steps, readers' pins.

  workdir/checkpoints/<step>/state/...                 the arrays: nested dicts, named by the paths of the leaves (Orbax)
                      <step>/integrity/process_0.json  shape, dtype and sha256 of each leaf, taken before writing; meta; sealed
                      <step>/files.json                size and CRC-32 of each file, taken after the commit: names what rotted
                      pins/<step>.<host>.<pid>         a reader is at work on this step

Everything of a step but files.json is committed by one rename of Orbax: a step with a plain number is complete.

Each file imports those before it: `store` (Orbax, and what lies in that folder) and `integrity` (hashes), `reader`, `writer`.
"""

from sslax.run.checkpoint.integrity import Damaged, state_hash
from sslax.run.checkpoint.reader import Reader, Vanished
from sslax.run.checkpoint.writer import Checkpointer, SaveFailed

__all__ = ['Checkpointer', 'Damaged', 'Reader', 'SaveFailed', 'Vanished', 'state_hash']
