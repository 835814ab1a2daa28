"""The comparison as a user runs it (stopped, gone on with, extended), and its rules in this process."""

import json
import os
import signal
import statistics
import time

import ml_collections
import pytest
from run.trainer import ROOT, TERM, TINY, lines, run, start

from sslax import comparison, comparison_results
from sslax.errors import Diverged, Interrupted, UserError
from sslax.evals import report
from sslax.methods.averaged import Averaged
from sslax.models.resnet import ResNet
from sslax.run import config as configs
from sslax.run import loop
from sslax.spec import build, find, spec

CONFIG = f"""
import ml_collections
from sslax.models.resnet import ResNet
from sslax.spec import spec

def get_config(preset=''):
  return ml_collections.ConfigDict(dict(
    methods=('cold={TINY}', 'warm={TINY} method.temperature=0.5'),
    seeds=(0,),
    probes=('knn',),
    shared=dict(
      data=dict(train='digits:@train[:320]', test='digits:@test[:100]', image_size=8),
      batch_size=32, num_epochs=0.0, num_steps=40,
      encoder=spec(ResNet, depth=18, stem='cifar', stages=(1, 1), base=4),
      eval=dict(knn_k=20), online=dict(every_steps=20), checkpoint=dict(every_steps=100),
    ),
  ))
"""
WILD = f'wild={TINY} optim.learning_rate=1e30'


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  path = tmp_path_factory.mktemp('config') / 'tiny_compare.py'
  path.write_text(CONFIG)
  return path


@pytest.fixture
def make(file, tmp_path):
  """(folder, only, **changes) -> Comparison of the tiny config with these leaves changed."""

  def comparison_of(folder=tmp_path / 'runs', only=(), **changes):
    config = find(f'{file}:get_config')()
    config.update_from_flattened_dict({key.replace('__', '.'): value for key, value in changes.items()})
    return comparison.Comparison(config, file, folder, only)

  return comparison_of


def snapshot(folder):
  """{file: (time of last change, bytes)} of everything below."""
  return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.rglob('*')) if p.is_file()}


def compare(file, workdir, *args):
  return run('compare', f'--config={file}', f'--workdir={workdir}', *args, timeout=600)


@pytest.fixture(scope='module')
def story(file, tmp_path_factory):
  """Stopped in the second of two runs, gone on with, then given a third method, which diverges."""
  workdir = tmp_path_factory.mktemp('compare') / 'runs'
  process = start('compare', f'--config={file}', f'--workdir={workdir}')
  metrics, deadline = workdir / 'warm' / 'seed_0' / 'metrics.jsonl', time.time() + 400
  while process.poll() is None and time.time() < deadline and not (metrics.exists() and metrics.read_bytes().count(b'\n') >= 5):
    time.sleep(0.002)
  process.send_signal(TERM)
  told = {'stopped': (process.communicate(timeout=200)[0], process.returncode)}
  files = {'stopped': snapshot(workdir / 'cold') | snapshot(workdir / 'floors')}
  at_stop = json.loads((workdir / 'warm' / 'seed_0' / 'compare.json').read_text())
  code, output = compare(file, workdir)
  told['gone on'] = output, code
  files['gone on'] = snapshot(workdir / 'cold') | snapshot(workdir / 'floors') | snapshot(workdir / 'warm')
  results = json.loads((workdir / 'results.json').read_text())
  code, output = compare(file, workdir, f'--config.methods={find(f"{file}:get_config")().methods + (WILD,)!r}')
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
    assert row['figures']['knn']['values'] == [report.read_jsonl(run_dir / 'eval.jsonl')[0]['values']['top1']]
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


def test_finished_and_diverged_runs_are_not_started_again(story, make, monkeypatch, capsys):
  workdir = story[0]
  before = {path: state for name in ('cold', 'warm', 'wild', 'floors') for path, state in snapshot(workdir / name).items()}
  for function in ('_train', '_probe', '_trace'):
    monkeypatch.setattr(comparison, function, lambda *_: pytest.fail('nothing is left to do'))
  job = make(workdir, methods=(f'cold={TINY}', f'warm={TINY} method.temperature=0.5', WILD))
  with comparison.Stop() as stop:
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
def test_another_budget_is_refused_with_a_diff(story, make, changes, words):
  with pytest.raises(UserError) as error:
    make(story[0], **changes)
  assert all(word in str(error.value) for word in words), error.value


def test_what_may_change(story, make):
  job = make(story[0], seeds=(3,), shared__checkpoint__every_steps=7)
  assert job.todo == [('cold', 3), ('warm', 3)] and job.config.seeds == (0, 3)
  assert list(job.methods) == ['cold', 'warm', 'wild'] and job.config.methods[2] == WILD, 'rows of the list before stay'


def test_a_typo_in_the_last_method_ends_before_the_first_run(file, tmp_path):
  methods = (f'cold={TINY}', 'simclr=configs/simclr.py:digit', f'warm={TINY} method.temprature=0.5')
  code, output = compare(file, tmp_path / 'w', f'--config.methods={methods!r}', '--config.shared.encoder.base=8')
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
def test_door(file, args, words):
  code, output = run('compare', *[arg.format(file=file, root=ROOT) for arg in args], timeout=600)
  assert code == (0 if args == ['--help'] else 2) and 'Traceback' not in output, output
  assert all(word in output for word in words), output


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'methods': ('cold',)}, ("'cold'", 'name=FILE.py:PRESET')),
    ({'methods': (f'a={TINY}', f'a={TINY}')}, ("'a' is taken",)),
    ({'methods': (f'floors={TINY}',)}, ("'floors' is taken",)),
    ({'methods': ()}, ('config.methods is empty',)),
    ({'seeds': ('0',)}, ('config.seeds',)),
    ({'probes': ('knm',)}, ('knm', 'knn')),
  ],
)
def test_lists_that_cannot_be_read(make, changes, words):
  with pytest.raises(UserError) as error:
    make(**changes)
  assert all(word in str(error.value) for word in words), error.value


def test_a_file_in_a_folder_with_a_space(make, tmp_path):
  path = tmp_path / 'my .pyfiles' / 'tiny.py'
  path.parent.mkdir()
  path.write_text(TINY.read_text())
  config = make(methods=(f'a={path} method.temperature=0.5', f'b={path}:photos')).resolve('a', 0)
  assert config.method.temperature == 0.5 and config.data.crop_on == 'device'


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'methods': ('a=nowhere.py:digits',)}, ('there is no file nowhere.py',)),
    ({'methods': (f'a={TINY} method.temprature=1',)}, ('method.temprature', 'method.temperature')),
    ({'methods': (f'a={TINY} batch_size=64',)}, ('batch_size=64', 'same for all')),
    ({'methods': (f'a={TINY} method.encoder.depth=50',)}, ('method.encoder.depth', 'same for all')),
    ({'methods': (f'a={TINY} method.temperature=-1.0',)}, ('a (', 'temperature must be positive')),
    ({'shared__data__train': 'digit:@train'}, ('config.shared.data.train', 'digits')),
    ({'shared__batch_size': 12}, ('batch_size=12', '8 devices')),
    ({'shared__data__test': ''}, ('config.shared.data.test', 'labelled')),
  ],
)
def test_runs_that_cannot_work(make, changes, words):
  with pytest.raises(UserError) as error:
    make(**changes).check()
  assert all(word in str(error.value) for word in words), error.value


def test_what_is_not_shared_must_agree(make):
  job = make(methods=(f'a={TINY}', f'b={TINY} num_steps=7'))
  with job.config.unlocked():
    del job.config.shared['num_steps'], job.config.shared['num_epochs']
  with pytest.raises(UserError, match='(?s)num_steps differs.*config.shared.num_steps.*a: 40; b: 7'):
    job.check()


def test_encoders_are_replaced_at_any_depth(make, monkeypatch, tmp_path):
  base = find(f'{TINY}:get_config')()
  base.method = spec(Averaged, inner=base.method)
  base.num_steps, base.num_epochs = 0, 3.0
  job = make(methods=(f'deep={TINY} method.momentum=0.5',))
  monkeypatch.setattr(job, '_load', lambda *_: base)
  config = job.resolve('deep', 5)
  assert config.method.inner.encoder.to_dict() == job.config.shared.encoder.to_dict()
  assert (config.seed, config.num_steps, config.num_epochs, config.method.momentum) == (5, 40, 0.0, 0.5)
  method = build(config.method)
  assert method.inner.encoder == ResNet(depth=18, stem='cifar', stages=(1, 1), base=4) and method.inner.microbatches == 1
  parent = ml_collections.ConfigDict(dict(encoder=spec(ResNet, depth=50)))
  base.method = ml_collections.ConfigDict(dict(make='a:b', parts=(spec(ResNet), parent)))
  assert comparison._replace_encoders(base.method, job.config.shared.encoder) == 1
  assert base.method.parts[1].encoder.base == 4 and base.method.parts[0].base == 64


def test_files_beside_the_config_come_before_those_of_the_current_folder(make, file, tmp_path, monkeypatch):
  (tmp_path / 'theirs.py').write_text('raise RuntimeError("not this one")')
  (file.parent / 'theirs.py').write_text(TINY.read_text())
  monkeypatch.chdir(tmp_path)
  assert make(methods=('a=theirs.py:photos',)).resolve('a', 0).data.crop_on == 'host'
  with pytest.raises(UserError, match='only.py:1: RuntimeError: broken'):
    (tmp_path / 'only.py').write_text('raise RuntimeError("broken")')
    make(methods=('a=only.py',)).check()


def test_one_failure_is_a_row_and_the_next_call_tries_it_again(make, monkeypatch, capsys):
  trained = []

  def train(config, workdir, journal, stop):
    trained.append(workdir.parent.name)
    if workdir.parent.name == 'cold' and trained.count('cold') == 1:
      raise RuntimeError('out of memory')
    if workdir.parent.name == 'warm':
      raise Diverged('step 7: loss not finite; last good checkpoint: 5')

  monkeypatch.setattr(comparison, '_train', train)
  monkeypatch.setattr(comparison, '_probe', lambda *_: None)
  monkeypatch.setattr(comparison.Comparison, 'check', lambda _: None)
  monkeypatch.setattr(comparison.Comparison, '_floors', lambda *_: None)
  for expected in (['cold', 'warm'], ['cold', 'warm', 'cold']):
    with comparison.Stop() as stop:
      job = make()
      job.run(stop)
    assert trained == expected
    assert 'failed: out of memory' in capsys.readouterr().out or expected[-1] == 'cold'
  assert [row.status() for row in job.results.rows()[2:]] == ['done', 'diverged at step 7: loss not finite']


def test_a_signal_ends_at_once_where_nothing_can_be_lost(make, monkeypatch, capfd):
  class Exit(BaseException):
    pass

  def leave(code):
    raise Exit(code)

  def probe(*_):
    os.kill(os.getpid(), signal.SIGINT)
    pytest.fail('went on')

  monkeypatch.setattr(os, '_exit', leave)
  monkeypatch.setattr(comparison, '_train', lambda *_: None)
  monkeypatch.setattr(comparison, '_probe', probe)
  monkeypatch.setattr(comparison.Comparison, 'check', lambda _: None)
  monkeypatch.setattr(comparison.Comparison, '_floors', lambda *_: None)
  with comparison.Stop() as stop, pytest.raises(Exit, match='42'):
    make().run(stop)
  assert 'SIGINT in run 1 of 2 (cold, seed 0)' in capfd.readouterr().err
  with comparison.Stop('SIGTERM') as stop, pytest.raises(Interrupted, match='SIGTERM in the checks'):  # during the imports
    make().run(stop)


def write_run(job, name, seed, top1, **fields):
  folder = job.results.folder(name, seed)
  folder.mkdir(parents=True)
  configs.save(job.resolve('cold', seed), folder)
  journal = comparison_results.Journal(folder)
  journal.update(status='done', figures={'knn': top1}, batch_size=32, encoder_parameters=10, parameters=12, **fields)


def session(steps, seconds, **more):
  return {'began': 0.0, 'start_step': 0, 'step': steps, 'seconds': seconds, 'compile_seconds': 2.0, 'online_seconds': 1.0, **more}


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
  assert job._seconds_left() == pytest.approx(4 * 11.5)


def test_seconds_of_a_killed_session_are_kept(tmp_path):
  journal = comparison_results.Journal(tmp_path)
  journal.begin(0, compile_seconds=5.0)
  journal['sessions'][0]['began'] -= 100  # it began 100 s ago, came to its first step after 10 s ...
  status = tmp_path / 'status.json'
  status.write_text(json.dumps({'step': 30, 'first_step_seconds': 10.0}))
  journal.online(20, time.time() - 60)  # ... measured online accuracy from second 40 to 100 (60 s), and was killed
  os.utime(status, (time.time(), time.time()))
  journal['clock'].append([29, 1e9])
  journal.update()
  journal = comparison_results.Journal(tmp_path)
  journal.begin(25, compile_seconds=1.0)
  first, second = journal['sessions']
  assert first['seconds'] == pytest.approx(30, abs=1) and (first['step'], first['compile_seconds']) == (30, 15.0)
  assert journal['clock'] == [[20, pytest.approx(30, abs=1)]], 'steps after the checkpoint are done again'
  assert second['start_step'] == 25 and 'step' not in second


def test_presets_of_the_shipped_comparison(tmp_path):
  """Each method of each preset resolves, takes the shared encoder and can be built."""
  path = ROOT / 'configs' / 'compare.py'
  for preset in find(f'{path}:PRESETS'):
    config = find(f'{path}:get_config')(preset)
    job = comparison.Comparison(config, path, tmp_path)
    resolved = {name: job.resolve(name, 0) for name in job.methods}
    assert comparison._unfair(resolved) == []
    for name, one in resolved.items():
      assert (ROOT / job.methods[name].split(':')[0]).exists(), name
      configs.check(one, 8)
      loop.build_method(one)
