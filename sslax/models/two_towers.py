"""An image tower and a text tower that end in one space: what CLIP, SigLIP and LiT share."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax

from sslax.inputs.text import Text
from sslax.method import Batch, Features, Input
from sslax.models import branch
from sslax.models.joint_embedding import FromViews
from sslax.models.mlp import Identity
from sslax.ops.normalize import l2_normalize
from sslax.ops.views import RandomViews

PyTree = Any


class TwoTowers(FromViews):
  """A method of images and their captions: a subclass has the fields below beside `encoder`, `augment` and `image`.

  Parameters and statistics are dicts: 'encoder' and 'head' (image), 'text' and 'text_head'; a head that is Identity is left out.
  The last output of each tower is its embedding.
  """

  augment: RandomViews  # one view of each image
  text: nn.Module  # ids [N, L] -> Features
  head: nn.Module  # [N, D] -> [N, E]
  text_head: nn.Module  # [N, W] -> [N, E]
  caption: Text  # how a caption gets here
  freeze_image: bool  # no gradient into the image tower, which is in evaluation mode; its head learns

  num_views: ClassVar[int] = 1

  def inputs(self) -> dict[str, Input]:
    """
    Raises:
      UserError: the text tower has fewer tokens than the tokenizer.
    """  # fmt: skip
    self.caption.require(self.text.vocab_size, 'config.method.text.vocab_size')
    return {**super().inputs(), 'text': self.caption}

  @property
  def image_modules(self) -> branch.Branch:
    return _without_identity({'encoder': self.encoder, 'head': self.head})

  @property
  def text_modules(self) -> branch.Branch:
    return _without_identity({'text': self.text, 'text_head': self.text_head})

  @property
  def modules(self) -> dict[str, nn.Module]:
    return {**self.image_modules, **self.text_modules}

  def grafts(self) -> tuple[str, ...]:
    """A frozen tower at random initialisation sees nothing."""
    return ('params/encoder', 'memory/stats/encoder') if self.freeze_image else ()

  def feature_inputs(self, name: str) -> tuple[str, ...]:
    return ('text',) if name == 'text_embedding' else ('image',)

  def views(self, rng: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """{'image': [B, 1, S, S, 3], 'text': [B, L] ids}"""
    return {'image': self.augment(rng, batch), 'text': batch['text']}

  def init_towers(self, rng: jax.Array, views: dict[str, jax.Array]) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """(params, stats).

    Raises:
      ValueError: the towers end in spaces of different sizes.
    """
    image_rng, text_rng = jax.random.split(rng)
    image = branch.flatten_views(views['image'])
    params, stats = branch.init(self.image_modules, image_rng, image)
    text_params, text_stats = branch.init(self.text_modules, text_rng, views['text'])
    params, stats = {**params, **text_params}, {**stats, **text_stats}
    of_image, of_text = (
      jax.eval_shape(lambda m=modules, x=x: self._embed(m, params, stats, x, None, train=False)[0].embedding)
      for modules, x in ((self.image_modules, image), (self.text_modules, views['text']))
    )
    if of_image.shape[1] != of_text.shape[1]:
      raise ValueError(
        f'the image tower ends in {of_image.shape[1]} dimensions and the text tower in {of_text.shape[1]}; head and text_head '
        'set them'
      )
    return params, stats

  def embed(
    self, params: PyTree, stats: PyTree, views: dict[str, jax.Array], rng: jax.Array
  ) -> tuple[jax.Array, jax.Array, PyTree]:
    """(image [B, E], text [B, E], both unit rows; stats) in training mode; `params` may hold more than the towers."""
    rngs = jax.random.split(rng)
    x = branch.flatten_views(views['image'])
    image, stats = self._embed(self.image_modules, params, stats, x, rngs[0], train=True, freeze=self.freeze_image)
    text, stats = self._embed(self.text_modules, params, stats, views['text'], rngs[1], train=True)
    return image.embedding, text.embedding, stats

  def features(self, params: PyTree, memory: PyTree, batch: Batch) -> Features:
    """Of images what the tower returns, before the projection, and 'embedding' [B, E]; of texts 'text_embedding' [B, E]."""
    out = Features()
    if 'image' in batch:
      out, _ = self._embed(self.image_modules, params, memory['stats'], self.normalized(batch), None, train=False)
    if 'text' in batch:
      text, _ = self._embed(self.text_modules, params, memory['stats'], batch['text'], None, train=False)
      out = dataclasses.replace(out, text_embedding=text.embedding)
    return out

  @staticmethod
  def _embed(modules, params, stats, x, rng, *, train, freeze=False):
    """(what the tower returns, with its `embedding` [N, E], unit rows; stats)."""
    (name, tower), *rest = modules.items()
    outs, stats = branch.apply({name: tower}, params, stats, x, train=train and not freeze, rng=rng)
    out = outs[name]
    z = jax.lax.stop_gradient(out.pooled) if freeze else out.pooled
    for name, head in rest:
      outs, stats = branch.apply({name: head}, params, stats, z, train=train, whole=True)
      z = outs[name]
    return dataclasses.replace(out, embedding=l2_normalize(z)), stats


def _without_identity(modules):
  return {name: module for name, module in modules.items() if not isinstance(module, Identity)}
