"""Zero-shot classification: an image belongs to the class whose description is nearest (Radford et al. 2021, section 3.1)."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from sslax.errors import UserError, suggest
from sslax.evals import features, prompts
from sslax.evals.probe import RANDOM, TRAINED, Card, Data, Needs, Probe, Score, Store
from sslax.evals.shared import caption_input

_ROWS = 8192  # images compared with all classes at a time


@dataclasses.dataclass(frozen=True)
class ZeroShot(Probe):
  """Accuracy on the test set of descriptions of its classes; no example has been labelled for it.

  Attributes:
    templates: a key of `prompts.TEMPLATES`.
    class_names: a file with a name a line; '': the data set's names.
  """

  templates: str = 'photo'
  class_names: str = ''

  def needs(self) -> Needs:
    return Needs(features=('embedding', 'text_embedding'), rows=(TRAINED, RANDOM))

  def check(self, card: Card, data: Data) -> None:
    self._names(data), self._templates(), caption_input(card)

  def run(self, store: Store, data: Data) -> Iterator[Score]:
    names, found = self._names(data), store.labelled(data.test, 'embedding')
    name, caption = caption_input(store.card)
    embed = lambda ids: store.encode({name: ids}).text_embedding
    weights = classifier(embed, caption.tokenize, names, self._templates())
    hits = accuracy(found.values, found.label, weights, (1, 5) if len(names) > 5 else (1,))
    for k, value in hits.items():
      yield Score(f'top{k}', value, f'zero-shot top{k}', chance=k / len(names), details={'chance': 1 / len(names)})

  def caption(self, scores: Sequence[Score]) -> str:
    chance = scores[0].chance if scores else 0.0
    return f"zero-shot: templates '{self.templates}'; chance {chance:.3f}."

  def _names(self, data: Data) -> tuple[str, ...]:
    if self.class_names:
      return prompts.class_names(self.class_names, data.test.num_classes)
    if not data.test.classes:
      raise UserError(f'{data.test.name} has no names of its classes: give them with --class_names=FILE, one a line')
    return data.test.classes

  def _templates(self) -> tuple[str, ...]:
    if self.templates not in prompts.TEMPLATES:
      raise UserError(f'--templates={self.templates}: no such templates.{suggest(self.templates, prompts.TEMPLATES)}')
    return prompts.TEMPLATES[self.templates]


def classifier(
  text_embedding_of: Callable[[np.ndarray], Any],
  tokenize: Callable[[str], np.ndarray],
  classes: Sequence[str],
  templates: Sequence[str],
  batch: int = 256,
) -> np.ndarray:
  """One unit row for each class: the mean of its descriptions' unit embeddings, normalised again.

  As in openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb.

  Args:
    text_embedding_of: ids [batch, L] -> [batch, E], any length; compiled once, as the last batch is filled up.
    tokenize: a text -> its ids [L].
    classes: C names.
    templates: descriptions with one {} for the name.
    batch: texts at a time.

  Returns:
    [C, E] float32.

  Raises:
    UserError: no classes, no templates, a template without {}, or embeddings with NaN or Inf.
  """
  if not len(classes) or not len(templates):
    raise UserError(f'zero-shot: {len(classes)} classes and {len(templates)} templates; needs at least one of each.')
  if wrong := [template for template in templates if template.count('{}') != 1]:
    raise UserError(f'zero-shot: the template {wrong[0]!r} must have {{}} once, where the class name goes.')
  texts = [template.replace('{}', name) for name in classes for template in templates]
  sums: np.ndarray | None = None
  for first in range(0, len(texts), batch):
    ids = np.stack([tokenize(text) for text in texts[first : first + batch]])
    filled = np.concatenate([ids, np.repeat(ids[-1:], batch - len(ids), axis=0)])
    z, _ = features.checked(np.asarray(text_embedding_of(filled))[: len(ids)], name='zero-shot: embeddings of the class names')
    sums = np.zeros((len(classes), z.shape[1]), np.float32) if sums is None else sums
    # ORDER MATTERS: each text is normalised before the mean, or long embeddings would count more.
    np.add.at(sums, np.arange(first, first + len(ids)) // len(templates), features.l2_normalize(z))
  assert sums is not None, 'there are texts'
  return features.l2_normalize(sums)


def accuracy(image_embedding: Any, labels: Any, weights: Any, top: Sequence[int] = (1, 5)) -> dict[int, float]:
  """{k: the fraction of images whose class is among the k most similar}.

  Of equal similarities the lower class wins, as argmax has it: two classes with one name are told apart by nobody.

  Args:
    image_embedding: [N, E], any length.
    labels: [N] integers in [0, C).
    weights: [C, E] of `classifier`.
    top: each k.

  Raises:
    UserError: arrays that do not fit, NaN or Inf, or k < 1.
  """
  weights, _ = features.checked(weights, name='zero-shot classifier')
  x, y = features.checked(image_embedding, labels, len(weights), 'zero-shot images')
  if x.shape[1] != weights.shape[1]:
    raise UserError(f'zero-shot: image embeddings have {x.shape[1]} dimensions and the classifier {weights.shape[1]}.')
  if min(top, default=0) < 1:
    raise UserError(f'zero-shot: top={tuple(top)}; needs numbers from 1 on.')
  rank = np.concatenate([_rank(x[i : i + _ROWS], y[i : i + _ROWS], weights) for i in range(0, len(x), _ROWS)])
  return {int(k): float((rank < k).mean()) for k in top}


def _rank(x, y, weights):
  """[N] how many classes come before the right one."""
  s = x @ weights.T
  own = np.take_along_axis(s, y[:, None], 1)
  return ((s > own) | (s == own) & (np.arange(len(weights))[None] < y[:, None])).sum(1)
