"""Zero-shot classification: the classifier and its accuracy against loops, chance, prompts."""

import numpy as np
import pytest

from sslax.errors import UserError
from sslax.evals import prompts, zeroshot

CLASSES = ('cat', 'tabby cat', 'dog')


def tokenize(text):
  return np.array([*(ord(c) for c in text), *[0] * (40 - len(text))], np.int32)


def embed(ids):
  """Not of unit length, and not linear in the text."""
  assert ids.shape == (4, 40), 'one shape, compiled once'
  return np.sin(ids[:, :, None] * np.arange(1, 7)[None, None]).sum(1) * ids.sum(1, keepdims=True)


def test_the_classifier_written_as_loops():
  templates = ('a {}', 'the photo of {}.', '{}', 'no {}!', '{} here')
  weights = zeroshot.classifier(embed, tokenize, CLASSES, templates, batch=4)
  for name, row in zip(CLASSES, weights, strict=True):
    units = []
    for template in templates:
      z = np.float64(embed(np.stack([tokenize(template.format(name))] * 4))[0])
      units.append(z / np.linalg.norm(z))
    mean = np.mean(units, 0)
    np.testing.assert_allclose(row, mean / np.linalg.norm(mean), rtol=1e-5, atol=1e-6)
  assert weights.shape == (3, 6) and weights.dtype == np.float32


def test_accuracy_written_as_loops():
  rng = np.random.default_rng(0)
  x, w, y = rng.standard_normal((50, 6)), rng.standard_normal((9, 6)), rng.integers(0, 9, 50)
  got = zeroshot.accuracy(x, y, w, top=(1, 3, 5, 20))
  order = [sorted(range(9), key=lambda c, row=row: -(row @ w[c])) for row in x]
  for k, value in got.items():
    assert value == pytest.approx(np.mean([label in ranked[:k] for label, ranked in zip(y, order, strict=True)]))
  assert got[20] == 1.0


def test_chance():
  """Of embeddings that are all equal the first class wins; random ones are right one time in C."""
  y = np.repeat(np.arange(10), 300)
  assert zeroshot.accuracy(np.ones((3000, 4)), y, np.ones((10, 4))) == {1: 0.1, 5: 0.5}
  rng = np.random.default_rng(1)
  random = zeroshot.accuracy(rng.standard_normal((3000, 8)), y, rng.standard_normal((10, 8)))
  assert abs(random[1] - 0.1) < 0.03 and abs(random[5] - 0.5) < 0.05


def test_what_is_refused():
  with pytest.raises(UserError, match="template 'a photo'"):
    zeroshot.classifier(embed, tokenize, CLASSES, ('a photo',), batch=4)
  with pytest.raises(UserError, match='0 classes'):
    zeroshot.classifier(embed, tokenize, (), ('{}',))
  with pytest.raises(UserError, match='NaN or Inf'):
    zeroshot.classifier(lambda ids: np.full((4, 2), np.nan), tokenize, CLASSES, ('{}',), batch=4)
  with pytest.raises(UserError, match='4 dimensions and the classifier 5'):
    zeroshot.accuracy(np.ones((2, 4)), np.zeros(2, int), np.ones((3, 5)))
  with pytest.raises(UserError, match='numbers from 1 on'):
    zeroshot.accuracy(np.ones((2, 4)), np.zeros(2, int), np.ones((3, 4)), top=(0,))
  with pytest.raises(UserError, match='labels run from 0 to 3'):
    zeroshot.accuracy(np.ones((2, 4)), np.array([0, 3]), np.ones((3, 4)))


def test_the_templates():
  sizes = {name: len(templates) for name, templates in prompts.TEMPLATES.items()}
  assert (sizes['imagenet'], sizes['cifar']) == (80, 18)
  for templates in prompts.TEMPLATES.values():
    assert len(set(templates)) == len(templates) and all(template.count('{}') == 1 for template in templates)
  assert 'a jpeg corrupted photo of the {}.' in prompts.IMAGENET and 'a photo of the big {}.' in prompts.CIFAR


def test_class_names_of_a_file(tmp_path):
  path = tmp_path / 'names.txt'
  path.write_text('cat \n\nGrüne Jacke\ndog\n', encoding='utf-8')
  assert prompts.class_names(path, 3) == ('cat', 'Grüne Jacke', 'dog')
  with pytest.raises(UserError, match='3 class names for 4 classes'):
    prompts.class_names(path, 4)
  with pytest.raises(UserError, match='cannot be read as text'):
    prompts.class_names(tmp_path / 'none.txt', 4)
  path.write_bytes(b'\xff\xfe')
  with pytest.raises(UserError, match='cannot be read as text'):
    prompts.class_names(path, 1)
