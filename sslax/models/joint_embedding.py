"""What methods have in common that learn from views of images: where the views come from, and the branch that embeds them.

Both classes are abstract: they hold no state and no field of their own, and a method that inherits one is final as any other.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax

from sslax.inputs.image import Image
from sslax.method import Batch, Features, Input, Method
from sslax.models import branch, net
from sslax.ops import views as view_ops
from sslax.ops.views import MultiCrop, RandomViews, TwoViews

PyTree = Any
Views = RandomViews | TwoViews | MultiCrop


class FromViews(Method):
  """A method of views of images: a subclass has the fields `encoder`, `augment` and `image`.

  Parameters are those of `modules`, running statistics, if any, memory['stats'].
  """

  encoder: nn.Module  # images [N, H, W, 3] -> Features
  augment: Views  # how views are made of an image, and how images are normalised
  image: Image  # how an image gets here

  num_views: ClassVar[int] = 0  # that augment must make; 0: any number

  def __post_init__(self) -> None:
    if self.num_views and self.augment.count != self.num_views:
      raise ValueError(
        f'{type(self).__name__} takes {self.num_views} view{"s" if self.num_views > 1 else ""} of each image: '
        f'augment.count must be {self.num_views}, not {self.augment.count}'
      )

  def inputs(self) -> dict[str, Input]:
    return {'image': self.image.of_views(self.augment.crops())}

  @property
  def modules(self) -> dict[str, nn.Module]:
    return {'encoder': self.encoder}

  def views(self, rng: jax.Array, batch: Batch) -> PyTree:
    """[B, V, S, S, 3], or one such array for each size of crops."""
    return self.augment(rng, batch)

  def normalized(self, batch: Batch) -> jax.Array:
    """[B, H, W, 3] float32: whole images as the encoder sees its views."""
    return self.augment.normalize(batch['image'])

  def features(self, params: PyTree, memory: PyTree, batch: Batch) -> Features:
    stats = memory['stats']['encoder'] if 'stats' in memory else {}
    return net.apply(self.encoder, params['encoder'], stats, self.normalized(batch), train=False)[0]

  def augmented(self, rng: jax.Array, batch: Batch) -> Batch:
    return {'image': self.augment.pair()(rng, batch)}

  def view_pictures(self, views: PyTree) -> dict[str, jax.Array]:
    return view_ops.pictures(views, self.augment.mean, self.augment.std)


class JointEmbedding(FromViews):
  """A method that compares embeddings of views: `modules` one after the other, running statistics in memory['stats']."""

  head: nn.Module  # [N, D] -> [N, K]; thrown away after pre-training

  @property
  def modules(self) -> dict[str, nn.Module]:
    return {'encoder': self.encoder, 'head': self.head}

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    params, stats = branch.init(self.modules, rng, branch.flatten_views(jax.tree.leaves(views)[0]))
    return params, {'stats': stats}

  def encode(self, params: PyTree, stats: PyTree, views: jax.Array, rng: jax.Array) -> tuple[dict[str, PyTree], PyTree]:
    """(outputs of every module [B*V, ...] in training mode, stats): all views [B, V, S, S, 3] together, interleaved."""
    return branch.apply(self.modules, params, stats, branch.flatten_views(views), train=True, rng=rng)

  def encode_each(
    self, params: PyTree, stats: PyTree, views: jax.Array, rng: jax.Array
  ) -> tuple[list[dict[str, PyTree]], PyTree]:
    """(for each view the outputs of every module [B, ...] in training mode, stats): each view has its own batch statistics."""
    return branch.apply_each(self.modules, params, stats, views, train=True, rng=rng)
