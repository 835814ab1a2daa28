"""Which probes there are, what the command line says of them, and what it says where there are no labels."""

import types

import numpy as np
import pytest
from run.trainer import run

from sslax.errors import UserError
from sslax.evals.knn import KNN
from sslax.evals.probe import Card, Data, Score
from sslax.evaluation import picks
from sslax.evaluation.evaluation import check_probes, checked_scores


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


@pytest.mark.parametrize(
  'scores, words',
  [
    (0.5, 'a float'),
    ([0.5], 'yielded a float'),
    ([Score('a', 'much', 'A')], "'a' is 'much'"),
    ([Score('a', float('nan'), 'A')], "'a' is nan"),
    ([Score('a', 0.5, 'A'), Score('a', 0.7, 'A')], "two scores have the name 'a'"),
  ],
)
def test_scores_of_a_probe_are_looked_at_before_they_are_written_down(scores, words):
  with pytest.raises(UserError, match='--probes=p.py:P: .*' + words):
    checked_scores(scores, 'p.py:P')


def test_right_scores_pass():
  scores = [Score('a', 1, 'A'), Score('b', np.float32(0.5), 'A')]
  assert checked_scores(iter(scores), 'x') == scores
  with pytest.raises(KeyError):  # what goes wrong inside of a probe is its author's: with a traceback
    checked_scores((scores[i] if i < 2 else {}[i] for i in range(3)), 'x')
