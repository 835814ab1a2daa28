"""Plans for people: a line a thing, or a row of a table."""

import sys

import numpy as np

from sslax.planning.plan import Plan
from sslax.planning.target import GIB
from sslax.run.summary import GHOST


def report(plan: Plan) -> str:
  """A plan for people, a line a thing."""

  def gib(size):
    return f'{size / GIB:.2f} GiB' if size >= 0.1 * GIB else f'{size / 2**20:.1f} MiB'

  devices = int(np.prod(list(plan.mesh.values())))
  per = 'chip' if devices == plan.chips else 'device'
  limit = '' if plan.hbm is None else f' of {gib(plan.hbm)}'
  lines = [
    ('topology', f'{plan.topology}: {plan.chips} chips, {devices} devices ({plan.device_kind}), ' + _mesh(plan)),
    ('batch', f'{plan.batch_size:,} records, {plan.batch_size // devices:,} a device' + _changes(plan)),
    *((kind, f'{gib(size)} a {per}') for kind, size in plan.state.items()),
    ('temporaries', f'{gib(plan.temporaries)} a {per}: activations, gradients, padding'),
    ('needed', f'{gib(plan.needed)}{limit} a {per}: ' + ('fits' if plan.fits else 'DOES NOT FIT')),
    (
      'step',
      f'{plan.flops / 1e12:.3f} TFLOP, {plan.flops / plan.batch_size / 1e9:.2f} GFLOP a record (products and convolutions)',
    ),
  ]
  if plan.images_per_second:
    lines.append(('at most', f'{plan.images_per_second:,.0f} records/s, if arithmetic at the published bfloat16 peak were all'))
  if plan.collectives:
    text = ', '.join(f'{count:,} {kind} ({gib(size)})' for kind, (count, size) in sorted(plan.collectives.items()))
    lines.append(('collectives', f'{text} a {per} and step'))
  if plan.batch_norm and plan.changes.get('microbatches', 1) > 1:
    lines.append(('note', GHOST))
  lines.append(('compiled in', f'{plan.compile_seconds:.1f} s, traced in {plan.trace_seconds:.1f} s'))
  return '\n'.join(f'  {key:<14} {value}' for key, value in lines)


def _mesh(plan: Plan) -> str:
  return ' x '.join(f'{axis} {size}' for axis, size in plan.mesh.items())


def _changes(plan: Plan) -> str:
  return ''.join(f', {key}={value}' for key, value in plan.changes.items() if key not in ('batch_size', 'mesh.data'))


COLUMNS = (
  'topology', 'batch', 'state, GiB', 'temporaries, GiB', 'of HBM', 'fits', 'GFLOP a record', 'records/s at most',
  'collectives, GiB', 'seconds',
)  # fmt: skip
HEADER = f'| {" | ".join(COLUMNS)} |\n|{"---|" * len(COLUMNS)}'


def row(plan: Plan) -> str:
  """A plan as a row of the table under HEADER."""
  cells = (
    plan.topology + _changes(plan),
    f'{plan.batch_size:,}',
    f'{sum(plan.state.values()) / GIB:.2f}',
    f'{plan.temporaries / GIB:.2f}',
    f'{plan.needed / plan.hbm:.0%}' if plan.hbm else '',
    'yes' if plan.fits else 'no',
    f'{plan.flops / plan.batch_size / 1e9:.2f}',
    f'{plan.images_per_second:,.0f}' if plan.images_per_second else '',
    f'{sum(size for _, size in plan.collectives.values()) / GIB:.3f}' if plan.fits else '',
    f'{plan.trace_seconds + plan.compile_seconds:.0f}',
  )
  return '| ' + ' | '.join(cells) + ' |'


def say(text: str) -> None:
  """Progress, beside the result that goes to stdout."""
  print(text, file=sys.stderr, flush=True)
