"""The evaluator as a user runs it: on a finished run, beside a running one, on a run that is no run."""

import json

import pytest
from run.trainer import ROOT, TINY, run, start, status, train


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('finished')
  code, output = train(workdir)
  assert code == 0, output
  code, output = run('evaluate', f'--workdir={workdir}', '--probes=knn,linear,fewshot,collapse')
  assert code == 0, output
  return workdir, output


def rows(workdir):
  return [json.loads(line) for line in (workdir / 'eval.jsonl').read_text().splitlines()]


def test_results_stand_in_table_file_and_report(finished):
  workdir, output = finished
  found = {(row['features'], row['probe']): row['values'] for row in rows(workdir)}
  assert len(found) == len(rows(workdir)) == 12
  assert f'{found["trained", "knn"]["top1"]:.3f}' in output and 'random encoder' in output
  assert 0.6 < found['raw pixels', 'fewshot']['1']['mean'] < 0.75  # nearest centroid of the pixels, one label a class
  assert found['raw pixels', 'linear']['accuracy'] > 0.94
  assert len(found['trained', 'fewshot']['5']['values']) == 10
  html = (workdir / 'report.html').read_text(encoding='utf-8')
  for word in ('Loss', 'Label efficiency', 'Nearest neighbours', 'The pretext task', 'PCA', 't-SNE', 'jax', 'temperature'):
    assert word in html, word


@pytest.mark.slow
def test_a_second_call_computes_nothing(finished):
  workdir, first = finished
  before = (workdir / 'eval.jsonl').read_bytes()
  code, output = run('evaluate', f'--workdir={workdir}', '--probes=knn,linear,fewshot,collapse')
  assert code == 0 and (workdir / 'eval.jsonl').read_bytes() == before
  assert 'features:' not in output and [line for line in first.splitlines() if line.startswith('| SimCLR')][0] in output


@pytest.mark.slow
def test_all_steps_and_one_step(finished):
  workdir, _ = finished
  code, output = run('evaluate', f'--workdir={workdir}', '--probes=knn', '--step=all', '--noreport')
  assert code == 0, output
  assert {row['step'] for row in rows(workdir) if row['features'] == 'trained' and row['probe'] == 'knn'} == {35, 40}
  code, output = run('evaluate', f'--workdir={workdir}', '--probes=knn', '--step=12')
  assert code == 2 and '35, 40' in output, output


@pytest.mark.slow
def test_watch_follows_a_run_without_disturbing_it(tmp_path):
  """The trainer keeps two checkpoints and deletes the rest meanwhile: no error on either side, the last step is evaluated."""
  trainer = start('train', f'--config={TINY}', f'--workdir={tmp_path}', '--config.num_steps=60')
  while not (tmp_path / 'config.json').exists() and trainer.poll() is None:
    pass
  code, output = run(
    'evaluate', f'--workdir={tmp_path}', '--probes=knn', '--watch', '--poll_seconds=0.2', '--nofloors', '--noreport'
  )
  assert trainer.wait(timeout=120) == 0, trainer.stdout.read()
  assert code == 0 and 'Traceback' not in output, output
  assert 60 in {row['step'] for row in rows(tmp_path)}
  assert status(tmp_path)['reason'] == 'done'


@pytest.mark.slow
def test_the_classifier_that_a_method_learnt(tmp_path):
  """Its own logits on the test images: no floors, no other features, and both top-1 and top-5."""
  config = ROOT / 'configs' / 'supervised.py'
  short = ('--config.num_epochs=0', '--config.num_steps=150', '--config.method.encoder.stages=(1,)')
  code, output = train(tmp_path, *short, config=config)
  assert code == 0, output
  code, output = run('evaluate', f'--workdir={tmp_path}', '--probes=classifier', '--noreport')
  assert code == 0, output
  (row,) = rows(tmp_path)
  assert (row['features'], row['step'], row['probe']) == ('trained', 150, 'classifier')
  assert 0.3 < row['values']['top1'] < row['values']['top5'] <= 1
  assert f'{row["values"]["top1"]:.3f}' in output


@pytest.mark.slow
def test_images_and_texts_in_one_space(tmp_path):
  """Zero-shot and retrieval for the trained and the random towers, not for pixels; the pictures of a transformer."""
  code, output = train(tmp_path, config=ROOT / 'tests' / 'run' / 'tiny_clip.py')
  assert code == 0, output
  code, output = run('evaluate', f'--workdir={tmp_path}', '--probes=zeroshot,retrieval', '--templates=digits')
  assert code == 0, output
  found = {(row['features'], row['probe']): row['values'] for row in rows(tmp_path)}
  assert len(found) == 4 and found['trained', 'zeroshot']['chance'] == 0.1
  assert found['trained', 'zeroshot']['top1'] > 0.4 > 0.3 > found['random encoder', 'zeroshot']['top1']
  values = found['trained', 'retrieval']
  assert (values['images'], values['texts']) == (500, 6000)
  assert values['text_to_image R@10'] > 0.06 > 0.04 > found['random encoder', 'retrieval']['text_to_image R@10']
  assert f'{found["trained", "zeroshot"]["top1"]:.3f}' in output and 'chance 0.100' in output
  html = (tmp_path / 'report.html').read_text(encoding='utf-8')
  for word in ('Where the last block looks', 'Patch features in three colours'):
    assert word in html, word
  code, output = run('evaluate', f'--workdir={tmp_path}', '--probes=zeroshot', '--templates=digit')
  assert code == 2 and 'digits' in output and 'Traceback' not in output, output


@pytest.mark.slow
def test_no_classifier_where_the_method_has_none(finished):
  code, output = run('evaluate', f'--workdir={finished[0]}', '--probes=classifier', '--noreport')
  assert code == 2 and 'Traceback' not in output, output
  assert "classifier needs 'logits', and SimCLR gives pooled, tokens" in output


@pytest.mark.parametrize(
  'args, words',
  [
    (['--probes=knm'], ('knm', 'Did you mean knn')),
    (['--probes=knn', '--set=knn.k'], ('knn.k', 'NAME.FIELD=VALUE')),
    (['--probes=knn', '--set=knn.q=3'], ("no argument 'q'", '--probes=knn')),
    (['--probes=knn', '--set=linear.max_iter=3'], ("no 'linear'",)),
    (['--probes=knn', '--set=knn.k=0'], ('k=0 must be at least 1',)),
    (['--probes=/nowhere.py:Probe'], ('/nowhere.py',)),
  ],
)
@pytest.mark.slow
def test_mistakes_about_probes(finished, args, words):
  code, output = run('evaluate', f'--workdir={finished[0]}', *args)
  assert code == 2 and 'Traceback' not in output and all(word in output for word in words), output


@pytest.mark.slow
def test_another_setting_extracts_nothing_again(finished):
  """--knn_k=20 after --knn_k=10: other numbers, the same features."""
  workdir, _ = finished
  files = {path.name for path in (workdir / 'features').glob('*.npz')}
  for flags in (['--knn_k=10'], ['--knn_k=20'], ['--set=knn.k=30']):
    code, output = run('evaluate', f'--workdir={workdir}', '--probes=knn', '--noreport', *flags)
    assert code == 0 and 'features:' not in output and 'knn probe' in output, output
  assert {path.name for path in (workdir / 'features').glob('*.npz')} == files
  assert {row['values']['k'] for row in rows(workdir) if row['probe'] == 'knn'} >= {10, 20, 30}


@pytest.mark.parametrize(
  'args, words',
  [
    (['--workdir=/nowhere'], ('config.json', '/nowhere')),
    ([], ('--workdir',)),
    (['--workdir=x', '--step=last'], ('--step=last', 'latest')),
  ],
)
def test_mistakes(args, words):
  code, output = run('evaluate', *args)
  assert code == 2 and 'Traceback' not in output and all(word in output for word in words), output
