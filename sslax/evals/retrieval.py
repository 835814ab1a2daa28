"""Image-text retrieval: recall at k, both ways, with any number of captions for an image (Karpathy & Fei-Fei 2015)."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sslax.data import pipeline
from sslax.errors import UserError
from sslax.evals import features
from sslax.evals.probe import RANDOM, TRAINED, Card, Data, Needs, Probe, Score, Store
from sslax.evals.shared import caption_input

_ROWS = 1024  # images compared with all texts at a time: [1024, M] similarities are alive, never [N, M]
_TIE = 1e-6  # cosines as near as this are equal: the last bits depend on how a product was blocked


@dataclasses.dataclass(frozen=True)
class Retrieval(Probe):
  """`recall` at 1, 5, 10 of the right caption for a test image and of the right image for a caption; images may have several."""

  ks: tuple[int, ...] = (1, 5, 10)

  def needs(self) -> Needs:
    return Needs(features=('embedding', 'text_embedding'), labels=False, rows=(TRAINED, RANDOM))

  def check(self, card: Card, data: Data) -> None:
    pipeline.probe(data.test, card.inputs)
    caption_input(card)

  def run(self, store: Store, data: Data) -> Iterator[Score]:
    name, caption = caption_input(store.card)
    found = store.get(data.test, 'embedding')
    captions = [caption.captions(data.test[int(i)]) for i in found.index]
    image_of_text = np.repeat(np.arange(len(captions)), [len(c) for c in captions])
    ids, size = np.stack([caption.tokenize(text) for texts in captions for text in texts]), store.batch_size
    blocks = [ids[i : i + size] for i in range(0, len(ids), size)]
    padded = [np.concatenate([b, np.repeat(b[-1:], size - len(b), axis=0)]) for b in blocks]  # one shape: compiled once
    embed = lambda ids: np.asarray(store.encode({name: ids}).text_embedding)
    text = np.concatenate([embed(p)[: len(b)] for p, b in zip(padded, blocks, strict=True)])
    short = {'image_to_text': 'text', 'text_to_image': 'image'}  # what is retrieved
    sizes = {'images': len(captions), 'texts': len(text)}
    for way, by_k in recall(found.values, text, image_of_text, self.ks).items():
      for k, value in by_k.items():
        yield Score(f'{way} R@{k}', value, f'{short[way]} R@{k}', details=sizes)

  def caption(self, scores: Sequence[Score]) -> str:
    found = scores[0].details if scores else {'images': 1, 'texts': 1}
    return (
      f'text R@k: a caption of the image is among the k nearest of {found["texts"]:,} (chance of R@1 '
      f'{1 / found["images"]:.4f}); image R@k: the image of the caption among {found["images"]:,}.'
    )


def recall(
  image: Any, text: Any, image_of_text: Any, ks: Sequence[int] = (1, 5, 10), rows: int = _ROWS
) -> dict[str, dict[int, float]]:
  """Recall at k: how often something correct is among the k nearest by cosine.

  Of an image: any of its captions among the k nearest texts; images without a caption are only there to be found. Of a text: its
  image among the k nearest images. Wrong ones that are as near come first: embeddings that are all equal find nothing.

  Args:
    image: [N, E], any length.
    text: [M, E], any length.
    image_of_text: [M] integers: the row of `image` that text m describes.
    ks: each k.
    rows: images at a time.

  Returns:
    {'image_to_text': {k: fraction of the images with a caption}, 'text_to_image': {k: fraction of the texts}}.

  Raises:
    UserError: arrays that do not fit, NaN or Inf, or k < 1.
  """
  image, _ = features.checked(image, name='retrieval images')
  text, owner = features.checked(text, image_of_text, len(image), 'retrieval texts')
  if image.shape[1] != text.shape[1]:
    raise UserError(f'retrieval: images have {image.shape[1]} dimensions and texts {text.shape[1]}.')
  if min(ks, default=0) < 1:
    raise UserError(f'retrieval: ks={tuple(ks)}; needs numbers from 1 on.')
  image, text = features.l2_normalize(image), features.l2_normalize(text)
  own = np.einsum('md,md->m', image[owner], text)  # of each text with its image
  rows = min(rows, len(image))
  index = features.blocks(np.arange(len(image)), rows, -1)
  before_text, parts = np.zeros(len(text), np.int64), []
  for block, places in zip(features.blocks(image, rows), index, strict=True):
    per_image, per_text = _ahead(block, places, text, owner, own)
    parts.append(np.asarray(per_image))
    before_text += np.asarray(per_text)
  before_image = np.concatenate(parts)[: len(image)][np.unique(owner)]
  found = lambda before: {int(k): float((before < k).mean()) for k in ks}
  return {'image_to_text': found(before_image), 'text_to_image': found(before_text)}


@jax.jit
def _ahead(block, places, text, owner, own):
  """How many wrong texts come before the nearest caption of each image [b], and how many images of this block before that of each
  text [M].

  Args:
    block: [b, E] unit rows of images.
    places: [b] their rows, -1 = padding.
    text: [M, E] unit rows.
    owner: [M] image of each text.
    own: [M] similarity of each text with its image.
  """
  # HIGHEST: TPUs would multiply in bfloat16, which reorders neighbours.
  s = jnp.matmul(block, text.T, precision=jax.lax.Precision.HIGHEST)
  correct = owner[None] == places[:, None]
  best = jnp.max(jnp.where(correct, s, -jnp.inf), axis=1, keepdims=True)
  per_image = jnp.sum(~correct & (s >= best - _TIE), axis=1)
  per_text = jnp.sum(~correct & (places[:, None] >= 0) & (s >= own[None] - _TIE), axis=0)
  return per_image, per_text
