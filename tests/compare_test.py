"""The comparison as a user runs it: stopped, gone on with, extended, and called wrongly."""

import json
import time

import pytest
from comparison.making import FILE, WILD, tiny_comparison
from run.trainer import ROOT, TERM, TINY, lines, run, start

from sslax.comparison import Stop, training
from sslax.comparison import run as running
from sslax.errors import UserError
from sslax.evaluation.results import read_jsonl
from sslax.run import config as configs
from sslax.spec import find

pytestmark = pytest.mark.slow  # they share a comparison of several runs


def snapshot(folder):
  """{file: (time of last change, bytes)} of everything below."""
  return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.rglob('*')) if p.is_file()}


def compare(workdir, *args):
  return run('compare', f'--config={FILE}', f'--workdir={workdir}', *args, timeout=600)


@pytest.fixture(scope='module')
def story(tmp_path_factory):
  """Stopped in the second of two runs, gone on with, then given a third method, which diverges."""
  workdir = tmp_path_factory.mktemp('compare') / 'runs'
  process = start('compare', f'--config={FILE}', f'--workdir={workdir}')
  metrics, deadline = workdir / 'warm' / 'seed_0' / 'metrics.jsonl', time.time() + 400
  while process.poll() is None and time.time() < deadline and not (metrics.exists() and metrics.read_bytes().count(b'\n') >= 5):
    time.sleep(0.002)
  process.send_signal(TERM)
  told = {'stopped': (process.communicate(timeout=200)[0], process.returncode)}
  files = {'stopped': snapshot(workdir / 'cold') | snapshot(workdir / 'floors')}
  at_stop = json.loads((workdir / 'warm' / 'seed_0' / 'compare.json').read_text())
  code, output = compare(workdir)
  told['gone on'] = output, code
  files['gone on'] = snapshot(workdir / 'cold') | snapshot(workdir / 'floors') | snapshot(workdir / 'warm')
  results = json.loads((workdir / 'results.json').read_text())
  code, output = compare(workdir, f'--config.methods={find(f"{FILE}:get_config")().methods + (WILD,)!r}')
  told['added'] = output, code
  return workdir, told, files, at_stop, results


def test_sigterm_in_the_second_run_ends_with_42_and_says_how_to_go_on(story):
  workdir, told, _, at_stop, _ = story
  output, code = told['stopped']
  assert code == 42, output
  assert 'SIGTERM in run 2 of 2 (warm, seed 0)' in output and 'sslax.compare --config=' in output, output
  assert at_stop['status'] == 'running' and at_stop['sessions'][0]['step'] < 40


def test_the_second_call_runs_nothing_twice(story):
  workdir, told, files, at_stop, _ = story
  output, code = told['gone on']
  step = at_stop['sessions'][0]['step']
  assert code == 0 and f'resuming at step {step} of 40' in output, output
  assert output.count('=== run') == 1 and '=== run 2 of 2 (warm, seed 0)' in output
  after = snapshot(workdir / 'cold') | snapshot(workdir / 'floors')
  assert {path: after[path] for path in files['stopped']} == files['stopped']
  for name in ('cold', 'warm'):
    assert [line['step'] for line in lines(workdir / name / 'seed_0')] == list(range(1, 41))
    assert len((workdir / name / 'seed_0' / 'eval.jsonl').read_text().splitlines()) == 1
  sessions = json.loads((workdir / 'warm' / 'seed_0' / 'compare.json').read_text())['sessions']
  assert [(s['start_step'], s['step']) for s in sessions] == [(0, step), (step, 40)]
  assert sessions[0]['seconds'] == at_stop['sessions'][0]['seconds'], 'the seconds before the interruption are kept'


def test_the_table_is_complete(story):
  workdir, told, _, _, results = story
  rows = {row['name']: row for row in results['rows']}
  assert list(rows) == ['raw pixels', 'random encoder', 'cold', 'warm'] and results['complete']
  for name in ('cold', 'warm'):
    run_dir, row = workdir / name / 'seed_0', rows[name]
    assert row['status'] == 'done' and row['seeds'] == {'0': 'done'}
    assert row['figures']['knn']['values'] == [read_jsonl(run_dir / 'eval.jsonl')[0]['values']['top1']]
    assert row['figures']['knn']['std'] is None
    assert row['images_per_second'] > 0 and 0 < row['encoder_parameters'] < row['parameters'] and row['seconds'] > 0
    saved = configs.load(run_dir)
    assert (saved.method.encoder.base, saved.batch_size, saved.num_steps) == (4, 32, 40)
  assert configs.load(workdir / 'warm' / 'seed_0').method.temperature == 0.5
  assert rows['raw pixels']['figures']['knn']['mean'] > 0.85 and rows['raw pixels']['status'] == 'no training'
  assert 0.1 < rows['random encoder']['figures']['knn']['mean'] < 0.9
  table = (workdir / 'table.md').read_text()
  assert all(word in table for word in ('| cold', '| warm', '| raw pixels', 'images/s', 'kNN'))
  assert f'{rows["cold"]["figures"]["knn"]["mean"]:.3f}' in told['gone on'][0]


def test_the_page_has_table_bars_curves_and_config(story):
  workdir = story[0]
  page = (workdir / 'compare.html').read_text(encoding='utf-8')
  for word in ('Accuracy: kNN', 'random encoder 0.', 'While training: by images seen', 'by time', 'Losses', 'temperature', 'jax',
               'sslax.compare --config', 'diverged at step'):  # fmt: skip
    assert word in page, word
  assert page.count('<svg') == 4 and str(workdir / 'cold') in page


def test_an_added_method_leaves_the_others_untouched_and_may_diverge(story):
  workdir, told, files, _, _ = story
  output, code = told['added']
  assert code == 0 and 'not wild (seed 0: diverged)' in output, output
  assert '=== run 3 of 3 (wild, seed 0); about ' in output and output.count('=== run') == 1
  after = snapshot(workdir / 'cold') | snapshot(workdir / 'floors') | snapshot(workdir / 'warm')
  assert after == files['gone on']
  results = json.loads((workdir / 'results.json').read_text())
  wild = results['rows'][-1]
  assert results['complete'] and wild['name'] == 'wild' and wild['figures'] == {}
  assert wild['status'].startswith('diverged at step ') and 'not finite' in wild['status']


def test_finished_and_diverged_runs_are_not_started_again(story, monkeypatch, capsys):
  workdir = story[0]
  before = {path: state for name in ('cold', 'warm', 'wild', 'floors') for path, state in snapshot(workdir / name).items()}
  for module, function in ((training, 'train'), (training, 'probe'), (running, 'prepare')):
    monkeypatch.setattr(module, function, lambda *_: pytest.fail('nothing is left to do'))
  job = tiny_comparison(workdir, methods=(f'cold={TINY}', f'warm={TINY} method.temperature=0.5', WILD))
  with Stop() as stop:
    job.run(stop)
  assert {p: s for name in ('cold', 'warm', 'wild', 'floors') for p, s in snapshot(workdir / name).items()} == before
  assert '| wild' in capsys.readouterr().out


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'shared__num_steps': 50}, ('- shared.num_steps = 40', '+ shared.num_steps = 50')),
    ({'methods': (f'cold={TINY} method.temperature=0.3',)}, ('- methods.cold', '+ methods.cold', 'temperature=0.3')),
    ({'probes': ('knn', 'linear')}, ('+ probes', 'linear')),
  ],
)
def test_another_budget_is_refused_with_a_diff(story, changes, words):
  with pytest.raises(UserError) as error:
    tiny_comparison(story[0], **changes)
  assert all(word in str(error.value) for word in words), error.value


def test_what_may_change(story):
  job = tiny_comparison(story[0], seeds=(3,), shared__checkpoint__every_steps=7)
  assert job.plan.todo == [('cold', 3), ('warm', 3)] and job.plan.config.seeds == (0, 3)
  assert list(job.plan.methods) == ['cold', 'warm', 'wild'] and job.plan.config.methods[2] == WILD, 'rows of the list before stay'


def test_a_typo_in_the_last_method_ends_before_the_first_run(tmp_path):
  methods = (f'cold={TINY}', 'simclr=configs/simclr.py:digit', f'warm={TINY} method.temprature=0.5')
  code, output = compare(tmp_path / 'w', f'--config.methods={methods!r}', '--config.shared.encoder.base=8')
  assert code == 2 and 'Traceback' not in output, output
  assert 'Did you mean digits' in output and 'Did you mean method.temperature' in output, 'all mistakes at once'
  assert not (tmp_path / 'w').exists()


@pytest.mark.parametrize(
  'args, words',
  [
    (['--help'], ('--methods', '--workdir', 'Exit codes', 'sslax.compare')),
    (['--config={file}'], ('--workdir is missing',)),
    (['--config={file}', '--workdir=x', '--methods=clod'], ('clod', 'Did you mean cold')),
    (['--config={root}/configs/simclr.py', '--workdir=x'], ('config.methods is missing',)),
  ],
)
def test_door(args, words):
  code, output = run('compare', *[arg.format(file=FILE, root=ROOT) for arg in args], timeout=600)
  assert code == (0 if args == ['--help'] else 2) and 'Traceback' not in output, output
  assert all(word in output for word in words), output
