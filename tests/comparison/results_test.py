"""What is read from the folders of the runs: rows, table, page."""

import dataclasses
import json
import re
import statistics

import pytest
from comparison.making import session, write_run
from run.trainer import TINY

from sslax.comparison import page
from sslax.comparison.plan import FLOORS
from sslax.evals.probe import Probe, Score
from sslax.evaluation.results import Results, Row
from sslax.inputs.image import Image
from sslax.spec import spec


def test_mean_deviation_throughput_and_time_left(make):
  job = make(seeds=(0, 1, 2))
  write_run(job, 'cold', 0, 0.5, sessions=[session(40, 4.0)])
  write_run(job, 'cold', 1, 0.7, sessions=[session(30, 2.0), session(40, 2.0, start_step=30)], probe_seconds=6.0)
  row = job.results.rows()[2]
  assert row.figures['knn'] == [0.5, 0.7] and row.seeds == {0: 'done', 1: 'done', 2: 'not run'}
  assert row.images_per_second == 80 * 32 / 8 and row.seconds == 4.0 and row.compile_seconds == 3.0
  cells = dict(zip(job.results.table().columns, job.results.table().rows[2], strict=True))
  assert cells['kNN'] == f'0.600 ± {statistics.stdev([0.5, 0.7]):.3f}' == '0.600 ± 0.141'
  assert cells['seeds'] == '2 of 3' and cells['status'] == 'seed 0: done; seed 1: done; seed 2: not run'
  # cold took 4 + 2 + 1 = 7 and 4 + 4 + 2 + 6 = 16 seconds: one run of cold and three of warm are left
  assert job.seconds_left() == pytest.approx(4 * 11.5)


def test_a_comparison_of_nothing_yet(make):
  job = make()
  assert [row.status() for row in job.results.rows()] == ['no training'] * 2 + ['not run'] * 2
  assert job.seconds_left() is None and job.results.commands() == []


def floors(job, seed, pixels, random):
  folder = job.plan.folder(FLOORS, seed)
  folder.mkdir(parents=True)
  found = Results(folder)
  for features, value in (('raw pixels', pixels), ('random encoder', random)):
    score = Score('top1', value, 'kNN, all labels')
    found.add(Row(0, features, 'knn', settings='s', weights=features, scores=(score,), seconds=0.1))


def test_the_page_has_table_bars_curves_notes_and_config(make):
  job = make(methods=(f'cold={TINY}', f'warm={TINY} method.temperature=0.5', f'wild={TINY}'))
  with job.plan.config.unlocked():
    job.plan.config.shared.image = spec(Image, size=8)
  floors(job, 0, 0.6, 0.3)
  write_run(job, 'cold', 0, 0.5, sessions=[session(40, 4.0)], clock=[[20, 1.0], [40, 3.5]])
  write_run(job, 'warm', 0, 0.7, sessions=[session(40, 4.0)])
  write_run(job, 'wild', 0, 0.7, reason='out of memory', sessions=[])
  (job.plan.folder('wild', 0) / 'compare.json').write_text(json.dumps({'status': 'failed', 'reason': 'out of memory'}))
  metrics = [{'step': step, 'loss': 1 / step, **({'knn': 0.4} if step % 20 == 0 else {})} for step in range(1, 41)]
  (job.plan.folder('cold', 0) / 'metrics.jsonl').write_text(''.join(json.dumps(m) + '\n' for m in metrics))
  job.results.commands_file.write_bytes(b'python -m sslax.compare --workdir=caf\xe9\n')
  job.results.write()
  page.write(job.results)
  text = (job.plan.workdir / 'compare.html').read_text(encoding='utf-8')
  for words in ('3 methods on digits:@train[:320]', 'Accuracy: kNN', 'raw pixels 0.600', 'While training: by images seen',
                'by time', 'Losses', 'Not better than raw pixels by kNN: cold.', 'seed 0, failed: out of memory. The next call',
                'data.train digits:@train[:320]', 'num_steps 40', 'eval.probes.knn.k 20', 'encoder ResNet with 10 parameters',
                'image Image(', 'size=8', '2 of 3', 'caf\\udce9', '--probes=knn,linear,fewshot,collapse'):  # fmt: skip
    assert words in text, words
  assert text.count('<svg') == 4
  results = json.loads((job.plan.workdir / 'results.json').read_text())
  assert results['complete'] and [row['name'] for row in results['rows']] == [
    'raw pixels',
    'random encoder',
    'cold',
    'warm',
    'wild',
  ]
  assert results['rows'][2]['figures'] == {'knn': {'mean': 0.5, 'std': None, 'values': [0.5]}}
  assert results['rows'][0]['figures']['knn']['mean'] == 0.6 and results['rows'][4]['figures'] == {}
  assert results['commands'] == ['python -m sslax.compare --workdir=caf\udce9']
  assert '| warm' in (job.plan.workdir / 'table.md').read_text()


@dataclasses.dataclass(frozen=True)
class Bits(Probe):
  """One of which less is better."""

  def run(self, store, data):
    yield Score('bits', 1.0, 'bits', more_is_better=False)

  def caption(self, scores):
    return 'bits: what is left to say.'


def test_a_probe_of_which_less_is_better(make):
  job = make(probes=('bits',), shared__eval__probes={'bits': spec(Bits)})
  found = Results(job.plan.folder(FLOORS, 0))
  job.plan.folder(FLOORS, 0).mkdir(parents=True)
  score = Score('bits', 2.0, 'bits', more_is_better=False)
  found.add(Row(0, 'random encoder', 'bits', settings='s', weights='w', scores=(score,), seconds=0.1))
  for name, bits in (('cold', 1.0), ('warm', 3.0)):
    write_run(job, name, 0, 0.0, sessions=[session(40, 4.0)])
    journal = json.loads((job.plan.folder(name, 0) / 'compare.json').read_text())
    journal |= {'figures': {'bits': bits}, 'more_is_better': {'bits': False}}
    (job.plan.folder(name, 0) / 'compare.json').write_text(json.dumps(journal))
  table = job.results.table()
  assert table.columns[2] == 'bits' and table.best[2] == 'min' and 'bits: what is left to say.' in table.caption
  page.write(job.results)
  text = (job.plan.workdir / 'compare.html').read_text(encoding='utf-8')
  assert 'Not better than random encoder by bits: warm.' in text and '<h3>bits</h3>' in text and 'Accuracy: bits' not in text
  names = re.findall(r'>(cold|warm)<', text[text.index('<h3>bits</h3>') :])
  assert names[:2] == ['warm', 'cold'], 'the best on top'
