"""What a run is about to do, for people, before it does it."""

from typing import Any

import jax
import numpy as np

from sslax.io.versions import versions
from sslax.models import net
from sslax.run.prepare import Run

GHOST = 'each microbatch has its own BatchNorm statistics: another result than the whole batch (docs/scaling.md)'


def microbatches(run: Run) -> str:
  """What microbatches do to this run; '' where it has none."""
  count = run.config.microbatches
  if count == 1:
    return ''
  if not run.microbatched:
    return f'{count}, and they change nothing: this method applies no network by sslax.models.net.apply'
  rows = f'{count}: networks run {run.config.batch_size // count} of {run.config.batch_size} examples at a time'
  return f'{rows}; {GHOST}' if net.has_batch_norm(run.abstract_state.memory) else f'{rows}, the loss sees all'


def summary(run: Run, lowered: Any) -> str:
  """Data, method, parameters, memory, FLOPs, length.

  Args:
    lowered: of `run.lower()`.
  """
  config, source, facts = run.config, run.source, run.facts
  parts = {key: sum(int(np.prod(a.shape)) for a in jax.tree.leaves(part)) for key, part in run.abstract_state.params.items()}
  state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(run.abstract_state))
  flops = float((lowered.cost_analysis() or {}).get('flops', 0.0))
  device = run.mesh.devices.flat[0]
  labels = 'unlabelled'
  if source.num_classes:
    labels = f'{source.num_classes} classes ({"the method learns from them" if run.method.uses_labels else "probes only"})'
  rates = [float(run.learning_rate(step)) for step in np.linspace(0, facts.total_steps - 1, 257).astype(int)]
  lines = [
    ('method', f'{type(run.method).__name__}, ' + ', '.join(f'{key} {n:,}' for key, n in parts.items()) + ' parameters'),
    ('data', ', '.join(filter(None, (f'{config.data.train}: {len(source):,} records', run.records, labels)))),
    (
      'length',
      f'{facts.total_steps:,} steps of {config.batch_size} records, {run.steps_per_epoch:,} an epoch: '
      f'{facts.total_steps / run.steps_per_epoch:.1f} epochs',
    ),
    ('learning rate', f'peak {max(rates):.4g}'),
    (
      'step',
      f'{flops / 1e9:.2f} GFLOP ({flops / config.batch_size / 1e6:.1f} MFLOP a record; XLA counts a scanned body once), '
      f'state {state_bytes / 2**20:.1f} MiB',
    ),
    (
      'devices',
      f'{run.mesh.size} x {device.device_kind} ({device.platform}), '
      f'data {run.mesh.shape["data"]} x fsdp {run.mesh.shape["fsdp"]}, {jax.process_count()} process(es)',
    ),
    ('microbatches', microbatches(run)),
    *(('graft', str(taken)) for taken in run.grafts),
    ('versions', ', '.join(f'{k} {v}' for k, v in versions().items())),
  ]
  return '\n'.join(f'  {key:<14} {value}' for key, value in lines if value)
