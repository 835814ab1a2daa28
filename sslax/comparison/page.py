"""compare.html: one page about all runs."""

import json
import statistics
import time
from collections.abc import Iterable

from sslax.comparison import figures
from sslax.comparison.fair import FAIR
from sslax.comparison.probes import column
from sslax.comparison.results import Results, Row, duration, hardware
from sslax.comparison.shared import is_node
from sslax.evals.visualisations import cannot_draw
from sslax.evaluation.page import Table
from sslax.evaluation.page import write as write_page
from sslax.io.versions import versions
from sslax.run import config as configs


def write(results: Results) -> None:
  """Tables, pictures and notes of what there is so far.

  Raises:
    UserError: the page cannot be written.
  """
  plan, rows, table = results.plan, results.rows(), results.table()
  seeds, shared = plan.config.seeds, plan.config.shared
  at = table.columns.index('status')
  names, costs = table.columns[:at], table.columns[at + 1 :]
  statuses = [status for row in rows for status in row.seeds.values()]
  trained = [cells for row, cells in zip(rows, table.rows, strict=True) if row.seeds]
  data = shared.get('data', {}).get('train', '')
  write_page(
    plan.workdir / 'compare.html',
    title=f'{len(plan.methods)} methods on {data}' if data else 'Comparison of methods',
    summary={
      'seeds': ', '.join(map(str, seeds)),
      'runs done': f'{sum(s.startswith("done") for s in statuses)} of {len(statuses)}',
      **{key.replace('_', ' '): f'{shared[key]:g}' for key in ('num_epochs', 'num_steps', 'batch_size') if shared.get(key, 0)},
      'time of all runs': duration(sum(journal.spent() for journal in results.journals().values())),
      'written': time.strftime('%Y-%m-%d %H:%M'),
    },
    tables=[
      _columns(table, 'Accuracy', [*names, 'status']),
      _columns(table._replace(rows=trained), 'Cost', ['method', *costs], 'Means over the seeds.'),
    ],
    figures=[] if cannot_draw() else figures.of(results, rows),
    config_json=json.dumps(_configs(results), indent=1),
    versions={**versions(), 'hardware': hardware()},
    notes=[*filter(None, [cannot_draw()]), *_notes(results, rows)],
  )


def _configs(results: Results) -> dict:
  """All that it takes to do it again: commands, the comparison's config, that of a run of each method."""
  plan, first = results.plan, results.plan.folder(next(iter(results.plan.methods)), results.plan.config.seeds[0])
  closer = f'python -m sslax.evaluate --workdir={first} --probes=knn,linear,fewshot,collapse'
  found = {
    'commands': results.commands(),
    'a closer look at one run': closer,
    'comparison': json.loads(plan.config.to_json()),
  }
  for name in plan.methods:
    path = next((p for p in (plan.folder(name, s) / 'config.json' for s in plan.config.seeds) if p.exists()), None)
    if path:
      found[name] = json.loads(path.read_text(encoding='utf-8'))
  return found


def _notes(results: Results, rows: list[Row]) -> list[str]:
  notes = [f'The same for every row: {_same(results, rows)}. Loss, heads, views and optimizer are those of each method.']
  for floor in (row for row in rows if not row.seeds):
    for probe, more in results.more_is_better().items():
      sign = {True: 1, False: -1, None: 0}[more]
      below = [
        row.name for row in rows
        if sign and row.seeds and row.figures.get(probe) and floor.figures.get(probe)
        and sign * statistics.mean(row.figures[probe]) <= sign * statistics.mean(floor.figures[probe])
      ]  # fmt: skip
      if below:
        notes.append(f'Not better than {floor.name} by {column(probe)}: {", ".join(below)}.')
  for (name, seed), journal in results.journals().items():
    if journal['reason']:
      again = ' The next call tries it again.' if journal['status'] == 'failed' else ''
      notes.append(f'{name}, seed {seed}, {journal["status"]}: {journal["reason"]}.{again}')
  return notes


def _same(results, rows):
  """What all rows have in common, in words."""
  shared, parts = results.plan.config.shared, []
  for key, value in configs.flat(shared).items():
    setting = key.startswith('eval.probes.') and not key.endswith('.make')
    if value and (key in FAIR or setting):
      parts.append(f'{key} {value}')
  sizes = sorted({f'{row.encoder_parameters:,}' for row in rows if row.encoder_parameters})
  for key, node in shared.items():
    if is_node(node):
      name = f'{key} {node.make.split(":")[-1]}'
      parts.append(f'{name} with {" or ".join(sizes)} parameters' if key == 'encoder' else f'{name}({_fields(node)})')
  return ', '.join(parts)


def _fields(node):
  return ', '.join(f'{key}={value!r}' for key, value in node.items() if key != 'make')


def _columns(table: Table, title: str, names: Iterable[str], caption: str | None = None) -> Table:
  """A part of a table: all of it is too wide for a page."""
  places = [table.columns.index(name) for name in names]
  rows = [[row[j] for j in places] for row in table.rows]
  best = None if table.best is None else [table.best[j] for j in places]
  return Table(title, list(names), rows, table.caption if caption is None else caption, best)
