"""Recall at k against loops, in blocks, with ties, at chance."""

import numpy as np
import pytest

from sslax.errors import UserError
from sslax.evals.retrieval import recall


def slow(image, text, owner, ks):
  """Ranks by sorting, in float64; wrong ones first among equals."""
  image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (np.float64(image), np.float64(text)))
  s = image @ text.T
  to_text, to_image = [], []
  for i in set(owner.tolist()):
    order = sorted(range(len(text)), key=lambda m, i=i: (-s[i, m].round(7), owner[m] == i))
    to_text.append(min(r for r, m in enumerate(order) if owner[m] == i))
  for m, i in enumerate(owner):
    order = sorted(range(len(image)), key=lambda j, m=m, i=i: (-s[j, m].round(7), j == i))
    to_image.append(order.index(i))
  found = lambda ranks: {k: np.mean([r < k for r in ranks]) for k in ks}
  return {'image_to_text': found(to_text), 'text_to_image': found(to_image)}


def pairs(n=23, m=61, d=4, noise=2.0):
  """Images with none, one or several captions; equal images, equal captions; pairs with a negative cosine."""
  rng = np.random.default_rng(0)
  image, owner = rng.standard_normal((n, d)), rng.integers(1, n, m)
  image[5] = image[4]
  text = image[owner] + noise * rng.standard_normal((m, d))
  owner[:4], text[:4] = (1, 2, 3, 6), image[[1, 1, 3, 3]]  # nearest to two images, and told from each other by nobody
  return image, text, owner


@pytest.mark.parametrize('rows', [1024, 16])
def test_the_definition_written_as_loops(rows):
  image, text, owner = pairs()
  got, expected = recall(3 * image, text, owner, (1, 5, 20, 100), rows), slow(image, text, owner, (1, 5, 20, 100))
  for way, values in expected.items():
    assert got[way] == pytest.approx(values), way
    assert 0 < values[1] < values[5] < values[100] == 1


def test_perfect_pairs_with_several_captions():
  owner = np.repeat(np.arange(6), 5)
  assert recall(np.eye(6), np.eye(6)[owner], owner, (1, 5)) == {'image_to_text': {1: 1, 5: 1}, 'text_to_image': {1: 1, 5: 1}}


def test_equal_embeddings_find_nothing():
  assert recall(np.ones((20, 4)), np.ones((20, 4)), np.arange(20), (1, 10, 20)) == {
    way: {1: 0, 10: 0, 20: 1} for way in ('image_to_text', 'text_to_image')
  }


def test_chance():
  """k of N for one caption an image; 1 - C(N - c, k) / C(N, k), about c k / N, where it has c of N."""
  rng = np.random.default_rng(0)
  one = recall(rng.standard_normal((1000, 16)), rng.standard_normal((1000, 16)), np.arange(1000), (10, 100), rows=300)
  for values in one.values():
    assert abs(values[10] - 0.01) < 0.01 and abs(values[100] - 0.1) < 0.03
  owner = np.repeat(np.arange(200), 5)
  five = recall(rng.standard_normal((200, 16)), rng.standard_normal((1000, 16)), owner, (100,))
  assert abs(five['image_to_text'][100] - (1 - 0.9**5)) < 0.1 and abs(five['text_to_image'][100] - 0.5) < 0.06


def test_what_is_refused():
  image, text, owner = pairs()
  for arguments, word in (
    ((image, text, owner + len(image)), 'labels run from'),
    ((image, text[:, :3], owner), '4 dimensions and texts 3'),
    ((image, text, owner[:3]), 'one integer for each'),
    ((image, text, owner, (0, 1)), 'numbers from 1 on'),
    ((image * np.nan, text, owner), 'NaN or Inf'),
  ):
    with pytest.raises(UserError, match=word):
      recall(*arguments)
