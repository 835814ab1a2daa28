"""Which probes there are, what the command line says of them, and what it says where there are no labels."""

import types

import pytest
from run.trainer import run

from sslax.errors import UserError
from sslax.evals.knn import KNN
from sslax.evals.probe import Card, Data
from sslax.evaluation import picks
from sslax.evaluation.evaluation import check_probes


def test_the_help_names_every_probe():
  code, output = run('evaluate', '--help')
  words = output.replace(',', ' ').split()
  assert code in (0, 1) and set(picks.available()) <= set(words), output
  assert not {'features', 'prompts', 'shared', 'visualisations'} & set(words[words.index('Any') : words.index('own.')])


def test_without_labels_the_probes_that_need_none_are_named():
  source = types.SimpleNamespace(name='text:x.txt', num_classes=0, classes=())
  data = Data(source, source, 'text:x.txt')
  with pytest.raises(UserError, match=r'text:x.txt has no labels, and knn needs them: .*--data_train=URI') as error:
    check_probes({'knn': KNN()}, Card(object(), {}, {'pooled': None}), data)
  said = str(error.value).split('--probes=')[1].split(',')
  assert 'collapse' in said and not {'knn', 'map', 'retrieval'} & set(said)
