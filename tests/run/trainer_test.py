"""The real trainer in real processes: a whole run, interruption, resume, refusals."""

import json
import pathlib
import re
import shutil

import pytest
from run.trainer import KILL, ROOT, TERM, lines, signal_at, status, train


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The uninterrupted run that the others are compared with."""
  workdir = tmp_path_factory.mktemp('whole')
  code, output = train(workdir)
  assert code == 0, output
  return workdir, output


def test_a_run_leaves_what_was_promised(whole):
  workdir, output = whole
  last = status(workdir)
  assert (last['reason'], last['step'], last['last_checkpoint'], last['bad_records']) == ('done', 40, 40, 0)
  assert [line['step'] for line in lines(workdir)] == list(range(1, 41))
  assert all({'loss', 'grad_norm', 'learning_rate', 'epoch'} <= set(line) for line in lines(workdir))
  assert json.loads((workdir / 'config.json').read_text())['batch_size'] == 32
  assert list((workdir / 'tensorboard').iterdir())
  for word in ('SimCLR', '1,297 records', 'GFLOP', 'parameters', 'peak 0.1'):
    assert word in output, output


def test_a_finished_run_says_so(whole):
  before = (whole[0] / 'metrics.jsonl').read_bytes()
  code, output = train(whole[0])
  assert code == 0 and 'finished' in output and (whole[0] / 'metrics.jsonl').read_bytes() == before


def test_sigterm_saves_and_exits_42_and_the_rest_is_bitwise_the_same(whole, tmp_path):
  code, output = signal_at(tmp_path, 12, TERM)
  assert code == 42, output
  stopped = status(tmp_path)
  assert stopped['reason'] == 'interrupted' and stopped['step'] == stopped['last_checkpoint'] >= 12
  assert lines(tmp_path)[-1]['step'] == stopped['step'], 'the last finished step was not logged'
  code, output = train(tmp_path)
  assert code == 0 and f'resuming at step {stopped["step"]}' in output, output
  same_run(tmp_path, whole[0])


def same_run(a, b):
  assert (a / 'metrics.jsonl').read_bytes() == (b / 'metrics.jsonl').read_bytes()
  assert status(a)['state_hash'] == status(b)['state_hash']


@pytest.mark.slow
def test_kill_9_at_three_moments_changes_nothing(whole, tmp_path):
  for step in (3, 14, 27):
    code, output = signal_at(tmp_path, step, KILL)
    assert code == -9, output
  code, output = train(tmp_path)
  assert code == 0, output
  same_run(tmp_path, whole[0])


@pytest.mark.slow
def test_nan_stops_before_it_is_saved(tmp_path):
  code, output = train(tmp_path, '--config.optim.learning_rate=1e38', '--config.checkpoint.every_steps=1')
  assert code == 3 and 'not finite' in output, output
  stopped = status(tmp_path)
  assert stopped['reason'] == 'diverged'
  saved = sorted(int(p.name) for p in (tmp_path / 'checkpoints').iterdir() if p.name.isdigit())
  bad = int(re.search(r'diverged: step (\d+)', output)[1])
  assert saved and max(saved) < bad


@pytest.mark.slow
def test_flipped_bit_is_noticed_and_the_previous_checkpoint_used(whole, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(whole[0], workdir)
  (workdir / 'status.json').unlink()
  newest = workdir / 'checkpoints' / '40'
  victim = max((p for p in newest.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
  data = bytearray(victim.read_bytes())
  data[len(data) // 2] ^= 4
  victim.write_bytes(data)
  code, output = train(workdir)
  assert code == 0 and 'resuming at step 35' in output and victim.name in output, output
  same_run(workdir, whole[0])


BAD_INPUTS = {
  'typo in a flag': (['--confg.seed=1'], 'confg', 'config'),
  'typo in a key': (['--config.batch_sise=32'], 'batch_sise', 'batch_size'),
  'typo in a nested key': (['--config.method.temprature=0.2'], 'temprature', 'temperature'),
  'stray argument': (['steps=5'], 'steps=5', '--'),
  'wrong type': (['--config.batch_size=many'], 'many', ''),
  'batch that does not divide': (['--config.microbatches=3'], 'microbatches', '32'),
  'impossible value': (['--config.method.temperature=-1.0'], 'temperature', 'positive'),
  'missing data': (['--config.data.train=folder:/nowhere/at/all'], '/nowhere/at/all', ''),
  'unknown scheme': (['--config.data.train=digit:'], 'digit', 'digits'),
  'optimizer by name': (['--config.optim.name=lasr'], 'config.optim.name is gone', 'Lars'),
}


QUICK = ('typo in a key', 'impossible value', 'missing data')  # each is a process of its own


@pytest.mark.parametrize('case', [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in BAD_INPUTS])
def test_bad_input(case, tmp_path):
  args, wrong, hint = BAD_INPUTS[case]
  code, output = train(tmp_path, *args)
  assert code == 2, output
  assert 'Traceback' not in output and wrong in output and hint in output, output
  assert not (tmp_path / 'checkpoints').exists()


@pytest.mark.slow
def test_bad_folders(tmp_path):
  empty, unreadable = tmp_path / 'empty', tmp_path / 'unreadable'
  empty.mkdir(), unreadable.mkdir()
  for i in range(40):
    (unreadable / f'{i}.jpg').write_bytes(b'no image' * i)
  for folder, word in ((empty, 'empty'), (unreadable, 'unreadable')):
    code, output = train(tmp_path / 'w', f'--config.data.train=folder:{folder}', '--config.data.test=')
    assert code == 2 and word in output and 'Traceback' not in output, output


@pytest.mark.slow
def test_no_online_knn_without_a_test_set(tmp_path):
  """Each training image would find itself: no figure rather than a false one."""
  args = ('--config.num_steps=8', '--config.online.every_steps=4')
  code, output = train(tmp_path / 'without', *args, '--config.data.test=')
  assert code == 0 and 'no online kNN' in output and not any('knn' in line for line in lines(tmp_path / 'without')), output
  code, output = train(tmp_path / 'with', *args)
  assert code == 0 and [line['step'] for line in lines(tmp_path / 'with') if 'knn' in line] == [4, 8], output


@pytest.mark.slow
def test_workdir_of_another_config_is_refused_with_a_diff(whole):
  code, output = train(whole[0], '--config.method.temperature=0.3')
  assert code == 2 and '- method.temperature = 0.1' in output and '+ method.temperature = 0.3' in output, output
  code, output = train(whole[0], '--config.log.every_steps=7')  # harmless
  assert code == 0, output


@pytest.mark.slow
def test_unknown_preset_and_config(tmp_path):
  code, output = train(tmp_path, config=ROOT / 'configs' / 'simclr.py:digit')
  assert code == 2 and 'digits' in output and 'Traceback' not in output, output
  code, output = train(tmp_path, config='configs/simcrl.py')
  assert code == 2 and 'configs/simclr.py' in output, output


@pytest.mark.slow
def test_dry_run_writes_nothing(tmp_path):
  code, output = train(tmp_path / 'w', '--dry_run', '--config.microbatches=2')
  assert code == 0 and 'GFLOP' in output and not (tmp_path / 'w').exists(), output
  assert 'BatchNorm statistics' in output  # microbatches are not exact with this network, and the summary says so


def test_bad_records_are_replaced_counted_and_listed(tmp_path, real_data):
  """A cut file and a web page among 202: the run completes, the count is right, the list is there; above the limit it stops."""
  folder = tmp_path / 'photos'
  photos = sorted((real_data / 'imagenet_sample').rglob('*.JPEG')) or sorted((real_data / 'imagenet_sample').rglob('*.jpeg'))
  for copy in range(2):
    for i, photo in enumerate(photos[:100]):
      target = folder / f'c{i % 5}' / f'{copy}_{i}.jpeg'
      target.parent.mkdir(parents=True, exist_ok=True)
      target.write_bytes(photo.read_bytes())
  (folder / 'c0' / 'cut.jpeg').write_bytes(photos[0].read_bytes()[:500])
  (folder / 'c1' / 'page.jpeg').write_text('<html>404</html>')
  args = (f'--config.data.train=folder:{folder}', '--config.data.test=', '--config.num_steps=14', '--config.data.image_size=8')
  code, output = train(tmp_path / 'w', *args, '--config.data.max_bad_fraction=0.02')
  assert code == 0, output
  listed = [json.loads(line) for line in (tmp_path / 'w' / 'bad_records.jsonl').read_text().splitlines()]
  assert status(tmp_path / 'w')['bad_records'] == 2
  assert sorted(pathlib.Path(row['where']).name for row in listed) == ['cut.jpeg', 'page.jpeg']
  code, output = train(tmp_path / 'v', *args, '--config.data.max_bad_fraction=0.005')
  assert code == 2 and 'max_bad_fraction' in output, output
