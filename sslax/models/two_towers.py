"""An image tower and a text tower that end in one space: what CLIP, SigLIP and LiT share.

Parameters and statistics are dicts: 'encoder' and 'head' (image), 'text' and 'text_head'; a head that is Identity is left out.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax

from sslax.models import branch
from sslax.models.mlp import Identity
from sslax.ops.unit import unit

PyTree = Any


class Towers(NamedTuple):
  """Two branches; the last output of each is the embedding."""

  image: branch.Branch
  text: branch.Branch


def towers(encoder: nn.Module, head: nn.Module, text: nn.Module, text_head: nn.Module) -> Towers:
  """The branches of a method's four modules."""
  both = {'encoder': encoder, 'head': head}, {'text': text, 'text_head': text_head}
  return Towers(*({name: m for name, m in modules.items() if not isinstance(m, Identity)} for modules in both))


def init(modules: Towers, rng: jax.Array, views: dict[str, jax.Array]) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
  """(params, stats) for views {'image': [B, 1, S, S, 3], 'text': [B, L] ids}.

  Raises:
    ValueError: there are no texts, or the towers end in spaces of different sizes.
  """
  if 'text' not in views:
    raise ValueError(
      "image-text training needs captions: set config.data.text to 'bytes' or 'bpe', and config.data.train to data with captions"
    )
  image_rng, text_rng = jax.random.split(rng)
  params, stats = branch.init(modules.image, image_rng, branch.rows(views['image']))
  of_text = branch.init(modules.text, text_rng, views['text'])
  params, stats = {**params, **of_text[0]}, {**stats, **of_text[1]}
  shapes = jax.eval_shape(lambda: features(modules, params, stats, branch.rows(views['image']), views['text']))
  sizes = shapes['embedding'].shape[1], shapes['text_embedding'].shape[1]
  if sizes[0] != sizes[1]:
    raise ValueError(
      f'the image tower ends in {sizes[0]} dimensions and the text tower in {sizes[1]}; head and text_head set them'
    )
  return params, stats


def apply(
  modules: Towers,
  params: PyTree,
  stats: PyTree,
  views: dict[str, jax.Array],
  *,
  rng: jax.Array,
  microbatches: int = 1,
  freeze_image: bool = False,
) -> tuple[jax.Array, jax.Array, PyTree]:
  """(image [B, E], text [B, E], both unit rows; stats) in training mode.

  Args:
    params: may hold more than the towers.
    microbatches: of each tower; the heads see all rows. See `net.apply`.
    freeze_image: no gradient into the image tower, which is in evaluation mode; its head learns.
  """
  options = dict(train=True, microbatches=microbatches)
  rngs = jax.random.split(rng)
  image, stats = _embed(modules.image, params, stats, branch.rows(views['image']), rngs[0], freeze=freeze_image, **options)
  text, stats = _embed(modules.text, params, stats, views['text'], rngs[1], **options)
  return image['embedding'], text['embedding'], stats


def features(
  modules: Towers, params: PyTree, stats: PyTree, image: jax.Array | None = None, text: jax.Array | None = None
) -> dict[str, jax.Array]:
  """What the towers say in evaluation mode of normalised images [B, H, W, C], of token ids [B, L], or of both.

  Returns:
    Of images: what the tower returns ('pooled' [B, D], before the projection) and 'embedding' [B, E], unit rows. Of texts:
    'text_embedding' [B, E], unit rows.
  """
  out = {}
  if image is not None:
    out |= _embed(modules.image, params, stats, image, None, train=False)[0]
  if text is not None:
    out['text_embedding'] = _embed(modules.text, params, stats, text, None, train=False)[0]['embedding']
  return out


def _embed(modules, params, stats, x, rng, *, train, microbatches=1, freeze=False):
  """({**what the tower returns, 'embedding': [N, E] unit rows}, stats)."""
  (name, tower), *rest = modules.items()
  options = dict(train=train and not freeze, rng=rng, microbatches=microbatches)
  outs, stats = branch.apply({name: tower}, params, stats, x, **options)
  out = outs[name]
  z = jax.lax.stop_gradient(out['pooled']) if freeze else out['pooled']
  for name, head in rest:
    outs, stats = branch.apply({name: head}, params, stats, z, train=train)
    z = outs[name]
  return {**out, 'embedding': unit(z)}, stats
