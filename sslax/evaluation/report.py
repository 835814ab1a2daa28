"""What an evaluation shows: the table on the terminal, and report.html."""

import json
import pathlib
import sys
import time

from sslax.errors import UserError
from sslax.evals.probe import TRAINED, Figure, Probe, Score
from sslax.evals.visualisations import cannot_draw, curves
from sslax.evaluation import page, picks
from sslax.evaluation.evaluation import Evaluation
from sslax.evaluation.results import read_jsonl
from sslax.io import atomic, digest
from sslax.io.versions import versions
from sslax.run.faults import read_status

CURVES = (
  ('Loss', ('loss',), False),
  ('Accuracy during training', ('knn', 'contrastive_accuracy', 'accuracy', 'agreement', 'probe_accuracy'), False),
  ('Norms', ('grad_norm', 'param_norm'), True),
)


def table(evaluation: Evaluation, step: int) -> page.Table:
  """One row a feature set, one column a score."""
  found = evaluation.scores(step)
  columns: list[Score] = []
  cells: dict[tuple[str, str], str] = {}
  rows = [evaluation.name(row) for row, _ in evaluation.rows(step)]
  for by_row in found.values():
    for name, scores in by_row.items():
      for score in scores:
        columns += [score] if score.column not in [column.column for column in columns] else []
        cells[name, score.column] = cell(score)
  titles = [score.column for score in columns]
  body = [[name, *(cells.get((name, column), '') for column in titles)] for name in rows if any(n == name for n, _ in cells)]
  best = ['', *({True: 'max', False: 'min', None: ''}[score.more_is_better] for score in columns)]
  return page.Table(f'Step {step}', ['features', *titles], body, caption(evaluation, step), best)


def cell(score: Score) -> str:
  """'0.974', '0.907 +- 0.008'."""
  return (
    f'{score.value:.3f}' + ('' if score.spread is None else f' +- {score.spread:.3f}') + (f' {score.unit}' if score.unit else '')
  )


def caption(evaluation: Evaluation, step: int) -> str:
  """What the columns are."""
  data, parts = evaluation.data, []
  parts.append(f'probes trained on {data.train.name}, tested on {data.test.name}.')
  for name, probe in evaluation.probes.items():
    parts.append(probe.caption(evaluation.find(TRAINED, step, name) or ()))
  return ' '.join(filter(None, parts))


def show(evaluation: Evaluation) -> None:
  """The table on the terminal, and report.html, made anew where something has changed since."""
  step = evaluation.shown_step
  if step is None:
    return
  print('\n' + page.text_table(table(evaluation, step)))
  if not evaluation.settings.report:
    return
  path = evaluation.workdir / 'report.html'
  key = digest.of_json([[row.to_json() for row in evaluation.results.rows], step, list(evaluation.probes)])
  stamp = evaluation.workdir / 'features' / 'report.key'
  if not path.exists() or not stamp.exists() or stamp.read_text() != key:
    write(evaluation, step, path)
    atomic.write(stamp, key)
  print(f'report: {path}')


def write(evaluation: Evaluation, step: int, path: pathlib.Path) -> None:
  """report.html of a step."""
  config, status, reason = evaluation.config, read_status(evaluation.workdir), cannot_draw()
  if reason:
    print(reason, file=sys.stderr)
  page.write(
    path,
    title=f'{evaluation.name(TRAINED)} on {config.data.train}',
    summary={
      'step': str(step),
      'records seen': f'{step * config.batch_size:,}',
      'run': str(status.get('reason', '')),
      'bad records': str(status.get('bad_records', 0)),
      'workdir': str(evaluation.workdir),
      'written': time.strftime('%Y-%m-%d %H:%M'),
    },
    tables=[table(evaluation, step)],
    figures=[] if reason else [*training_curves(evaluation.workdir / 'metrics.jsonl'), *figures(evaluation, step)],
    config_json=json.dumps(json.loads(config.to_json()), indent=1, sort_keys=True),
    versions=versions(),
    notes=[reason] if reason else [],
  )


def figures(evaluation: Evaluation, step: int) -> list[Figure]:
  """Of the probes that were asked for, then of those that are in every report."""
  store, found = evaluation.store(TRAINED, step), evaluation.scores(step)
  asked: dict[str, Probe] = dict(evaluation.probes)
  drawn: list[Figure] = []
  for name, probe in {**asked, **{n: p for n, p in picks.drawn().items() if n not in asked}}.items():
    needs = probe.needs()
    if TRAINED not in needs.rows or any(feature not in store.card.features for feature in needs.features):
      continue
    try:
      drawn += probe.figures(store, evaluation.data, found.get(name, {}))
    except UserError as error:  # a picture is no reason to lose the others
      print(f'no figure of {name}: {error}', file=sys.stderr)
  return drawn


def training_curves(path: pathlib.Path) -> list[Figure]:
  """Curves of what metrics.jsonl holds."""
  metrics, drawn = read_jsonl(path) if path.exists() else [], []
  for title, keys, log_y in CURVES:
    series = {key: ([m['step'] for m in metrics if key in m], [m[key] for m in metrics if key in m]) for key in keys}
    series = {key: xy for key, xy in series.items() if xy[0]}
    if series:
      text = f'{", ".join(series)} at each logged step.'
      drawn.append(Figure(title, curves(series, ylabel=title.lower(), log_y=log_y), 'svg', text, f'curve of {title.lower()}'))
  return drawn
