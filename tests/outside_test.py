"""A method, a source, an input and a probe of somebody else, one file each, outside the package; nothing of it is changed."""

import json
import pathlib
import shutil

import pytest
from run.trainer import lines, run, train

THEIRS = pathlib.Path(__file__).parent / 'third_party'


@pytest.fixture
def theirs(tmp_path):
  """Their files lie outside the project; training and evaluation find them again."""
  shutil.copytree(THEIRS, tmp_path / 'theirs', ignore=shutil.ignore_patterns('__pycache__'))
  return tmp_path / 'theirs'


def results(workdir):
  found = [json.loads(line) for line in (workdir / 'eval.jsonl').read_text().splitlines()]
  return {(row['features'], row['probe']): row for row in found}


@pytest.mark.slow
def test_a_method(theirs, tmp_path):
  code, output = train(tmp_path / 'w', config=theirs / 'nearest_mean.py', cwd=tmp_path)
  assert code == 0, output
  losses = [line['loss'] for line in lines(tmp_path / 'w')]
  assert losses[-1] < losses[0]
  code, output = run('evaluate', f'--workdir={tmp_path / "w"}', '--probes=knn', cwd=tmp_path)
  assert code == 0 and 'LinearAutoencoder' in output and 'raw pixels' in output, output


@pytest.mark.slow
def test_an_input_a_source_and_a_probe(theirs, tmp_path):
  """A modality that the package knows nothing of, from records of a class outside to a number and a figure."""
  code, output = train(tmp_path / 'w', config=f'{theirs}/nearest_mean.py:circles', cwd=tmp_path)
  assert code == 0 and 'pictures of 1 to 3 circles' in output, output
  probe = f'{theirs}/class_means.py:ClassMeans'
  code, output = run('evaluate', f'--workdir={tmp_path / "w"}', f'--probes=knn,{probe}', f'--set={probe}.p=1.0', cwd=tmp_path)
  assert code == 0 and 'sorted circles' in output and 'class means' in output, output
  found = results(tmp_path / 'w')
  assert {name for name, _ in found} == {'trained', 'random encoder', 'sorted circles'}, found
  values = found['sorted circles', probe]['values']
  assert values['top1'] > 0.9 and values['p'] == 1.0, found
  page = (tmp_path / 'w' / 'report.html').read_text()
  assert 'Class means' in page and 'LinearAutoencoder' in page


@pytest.mark.slow
def test_what_is_wrong_in_them_is_said(theirs, tmp_path):
  no_rows, no_circles = '--config.method.input.rows=0', '--config.data.train=digits:@train'
  for flag, words in ((no_rows, 'LinearAutoencoder'), (no_circles, 'no circles: the record has')):
    code, output = train(tmp_path / 'w', flag, config=f'{theirs}/nearest_mean.py:circles', cwd=tmp_path)
    assert code == 2 and words in output and 'Traceback' not in output, output
