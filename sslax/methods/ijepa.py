"""I-JEPA. Assran et al. 2023, https://arxiv.org/abs/2301.08243; official code: facebookresearch/ijepa, src/train.py."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.inputs.image import Image
from sslax.losses.distillation import predict_features
from sslax.losses.spread import embedding_std
from sslax.method import Batch, Features, Output
from sslax.models import net
from sslax.models.joint_embedding import FromViews
from sslax.models.transformer import steady
from sslax.models.vit import ViT
from sslax.ops.blocks import multi_block
from sslax.ops.patches import cover, picture, sides
from sslax.ops.schedules import Ramp, at
from sslax.ops.tree import ema
from sslax.ops.views import RandomViews

PyTree = Any
LOSSES = ('smooth_l1', 'l2')


@dataclasses.dataclass(frozen=True)
class IJEPA(FromViews):
  """From the patches of a context block, predict what an average of the encoder makes of the patches of target blocks.

  The target encoder sees the whole image; its tokens are LayerNormed once more, without affine. The encoder sees context patches
  only (gathered, not masked: it computes on so many fewer), and a narrow predictor gets its output and a mask token for each
  patch of one target block at a time. For where the blocks differ from the official code's see `ops.blocks.multi_block`. That
  code also divides the initial weights of block i's two output layers by sqrt(2 i); here they are as the ViT makes them. The
  target starts as a copy, moves after the optimizer, and is what `features` uses: 'pooled' is the mean of its tokens.
  """

  num_views: ClassVar[int] = 1

  encoder: ViT  # class_token=False, pool='mean', positions='sincos_mae'
  predictor: nn.Module  # models.predictor.Predictor
  augment: RandomViews  # one view; the paper's is cropped, and neither flipped nor coloured
  targets: int = 4
  target_area: tuple[float, float] = (0.15, 0.2)
  target_ratio: tuple[float, float] = (0.75, 1.5)
  context_area: tuple[float, float] = (0.85, 1.0)
  context_most: float = 0.5  # of all patches: the context's capacity, hence the encoder's cost; 1: no context is cut
  distance: str = 'smooth_l1'  # the official code; 'l2': the paper
  momentum: float | Ramp = Ramp(0.996, 1.0, 'linear')
  image: Image = Image()

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.encoder.class_token or self.encoder.pool != 'mean':
      raise ValueError("I-JEPA's encoder has no class token: class_token=False, pool='mean'")
    if self.encoder.positions == 'learnt':
      raise ValueError("I-JEPA's positions are fixed, as the predictor's: positions='sincos_mae'")
    if self.distance not in LOSSES:
      raise ValueError(f'distance={self.distance!r} is none of {", ".join(LOSSES)}')
    if self.targets < 1 or not 0 < self.context_most <= 1:
      raise ValueError(f'targets={self.targets} must be at least 1 and context_most={self.context_most} in (0, 1]')
    jax.eval_shape(lambda: self._blocks(jax.random.key(0), 1))  # refuses areas that leave no context

  @property
  def modules(self) -> dict[str, nn.Module]:
    return {'encoder': self.encoder, 'predictor': self.predictor}

  @property
  def grid(self) -> tuple[int, int]:
    """(H, W) in patches."""
    down, right = sides(self.encoder.patch, 2)
    return self.augment.size // down, self.augment.size // right

  def views(self, rng: jax.Array, batch: Batch) -> PyTree:
    """([B, 1, S, S, 3], Blocks)"""
    augment_rng, blocks_rng = jax.random.split(rng)
    images = self.augment(augment_rng, batch)
    return images, self._blocks(blocks_rng, len(images))

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    encoder_rng, predictor_rng = jax.random.split(rng)
    images, blocks = views
    encoder, _ = net.init(self.encoder, encoder_rng, images[:, 0])
    features = jnp.zeros((*blocks.context.shape, self.encoder.num_features))
    valid = jnp.concatenate([blocks.context_valid, blocks.target_valid[:, 0]], 1)
    predictor, _ = net.init(self.predictor, predictor_rng, features, blocks.context, blocks.target[:, 0], valid, self.grid)
    return {'encoder': encoder, 'predictor': predictor}, {'target': jax.tree.map(jnp.copy, encoder)}

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    del step
    images, blocks = views[0][:, 0], views[1]
    B, M, L = blocks.target.shape
    encoder_rng, predictor_rng = jax.random.split(rng)
    out, _ = net.apply(steady(self.encoder), memory['target'], {}, images, train=False, method='encode_images')
    tokens = jax.nn.standardize(out.tokens, axis=-1, epsilon=1e-5)  # [B, T, D]
    target = jnp.take_along_axis(tokens, blocks.target.reshape(B, M * L, 1), 1).reshape(B, M, L, -1)

    def encode(vit, x, ids, valid, train):
      return vit.encode(jnp.take_along_axis(vit.embed(x), ids[..., None], 1), train, valid).tokens

    visible = (images, blocks.context, blocks.context_valid)
    context, _ = net.apply(self.encoder, params['encoder'], {}, *visible, train=True, rng=encoder_rng, method=encode)

    # One row of the predictor is one image and one of its target blocks: [B, M, ...] -> [B M, ...].
    def each(x):
      return jnp.broadcast_to(x[:, None], (B, M, *x.shape[1:])).reshape(B * M, *x.shape[1:])

    target_valid = blocks.target_valid.reshape(B * M, L)
    valid = jnp.concatenate([each(blocks.context_valid), target_valid], 1)
    inputs = (each(context), each(blocks.context), blocks.target.reshape(B * M, L), valid)
    predict = lambda predictor, *inputs, train: predictor(*inputs, self.grid, train=train)
    prediction, _ = net.apply(self.predictor, params['predictor'], {}, *inputs, train=True, rng=predictor_rng, method=predict)
    loss = predict_features(prediction, target.reshape(B * M, L, -1), target_valid, self.distance)
    # Collapse is that the target depends on the place only: compare images at one place, and not their means over places.
    spread = jax.vmap(embedding_std, in_axes=1)(tokens).mean()
    metrics = {'embedding_std': spread, 'context_patches': blocks.context_valid.sum(1).mean()}
    return loss, Output(memory, metrics)

  def after(self, params: PyTree, memory: PyTree, step: jax.Array) -> tuple[PyTree, PyTree]:
    return params, {'target': ema(memory['target'], params['encoder'], at(self.momentum, step))}

  def features(self, params: PyTree, memory: PyTree, batch: Batch) -> Features:
    del params
    return net.apply(steady(self.encoder), memory['target'], {}, self.normalized(batch), train=False)[0]

  def pictures(self, params: PyTree, memory: PyTree, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
    """The view, the patches of its context and those of all targets; the rest is grey."""
    del params, memory
    images, blocks = self.views(rng, batch)
    images = picture(images[:, 0], self.augment.mean, self.augment.std)

    def only(ids, valid):
      kept = jnp.zeros((len(ids), self.grid[0] * self.grid[1]), bool).at[jnp.arange(len(ids))[:, None], ids].max(valid)
      return cover(images, ~kept, self.encoder.patch)

    target = [x.reshape(len(images), -1) for x in (blocks.target, blocks.target_valid)]
    return {'view': images, 'context': only(blocks.context, blocks.context_valid), 'targets': only(*target)}

  def _blocks(self, rng, rows):
    areas = (self.target_area, self.target_ratio, self.context_area)
    return multi_block(rng, rows, self.grid, self.targets, *areas, self.context_most)
