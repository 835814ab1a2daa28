"""MAE. He et al. 2022, https://arxiv.org/abs/2111.06377; official code: facebookresearch/mae, models_mae.py."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.inputs.image import Image
from sslax.losses.reconstruction import masked_mse, normalize_patches
from sslax.method import Batch, Output
from sslax.models import branch, net
from sslax.models.decoder import Decoder
from sslax.models.joint_embedding import FromViews
from sslax.models.vit import ViT
from sslax.ops.masks import KINDS, Masks, draw_noise, from_noise
from sslax.ops.patches import grid_of, patchify, reconstruction, sides
from sslax.ops.views import RandomViews

PyTree = Any


@dataclasses.dataclass(frozen=True)
class MAE(FromViews):
  """The encoder sees a quarter of the patches; a small decoder predicts the pixels of the others.

  Removed patches never enter the encoder: its blocks cost what K + 1 tokens cost. `baseline_loss` among the metrics is the loss
  of predicting the mean of each patch: a run that stays there has learnt nothing.
  """

  num_views: ClassVar[int] = 1

  encoder: ViT
  decoder: Decoder  # thrown away after pre-training
  augment: RandomViews  # crop and flip; the paper found no use for colours (table 1e)
  mask_ratio: float = 0.75  # of the patches are removed, rounded up
  masking: str = 'random'  # 'block', 'grid' (table 1f)
  norm_pix: bool = True  # each patch's pixels are standardised by their own mean and variance
  image: Image = Image()

  def __post_init__(self) -> None:
    super().__post_init__()
    if not 0 < self.mask_ratio < 1:
      raise ValueError(f'mask_ratio must be in (0, 1), not {self.mask_ratio}')
    if self.masking not in KINDS:
      raise ValueError(f'masking={self.masking!r} is none of {", ".join(map(repr, KINDS))}')
    for field, ours, theirs in (
      ('patch', self.decoder.patch, self.encoder.patch),
      ('class_token', self.decoder.class_token, self.encoder.class_token),
    ):
      if ours != theirs:
        raise ValueError(f'decoder.{field}={ours} must be encoder.{field}={theirs}')
    size, (down, right) = self.augment.size, sides(self.encoder.patch, 2)
    if size % down or size % right:
      raise ValueError(f'augment.size={self.augment.size} is no multiple of encoder.patch={self.encoder.patch}')
    if self.keep((size // down) * (size // right)) < 1:
      raise ValueError(f'mask_ratio={self.mask_ratio} leaves no patch of {self.augment.size} pixels')

  @property
  def modules(self) -> dict[str, nn.Module]:
    return {'encoder': self.encoder, 'decoder': self.decoder}

  def keep(self, T: int) -> int:
    """How many of T patches stay: int(T (1 - ratio)), as in the official code, without its rounding error (ratio 0.9 of 100)."""
    return int(T * (1 - self.mask_ratio) + 1e-6)

  def grid(self, image: jax.Array) -> tuple[int, ...]:
    """Rows and columns of the patches of images [B, H, W, 3]."""
    return grid_of(image.shape[1:3], self.encoder.patch)

  def draw(self, rng: jax.Array, image: jax.Array) -> Masks:
    """Which patches of images [B, H, W, 3] are removed."""
    h, w = self.grid(image)
    keep = self.keep(h * w)
    return from_noise(draw_noise(rng, len(image), (h, w), self.masking, h * w - keep), keep)

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    encoder_rng, decoder_rng, mask_rng = jax.random.split(rng, 3)
    x = branch.flatten_views(views)
    encoder, _ = net.init(self.encoder, encoder_rng, x)
    removed = self.draw(mask_rng, x)
    tokens = self.encode(encoder, x, removed.kept, train=False)
    decoder, _ = net.init(self.decoder, decoder_rng, tokens, removed.restore.reshape(len(x), *self.grid(x)))
    return {'encoder': encoder, 'decoder': decoder}, {}

  def encode(self, params: PyTree, x: jax.Array, kept: jax.Array, *, train: bool, rng: jax.Array | None = None) -> jax.Array:
    """[B, H, W, 3] -> [B, 1 + K, D]: tokens of the patches `kept` [B, K] after the class token, where there is one."""
    out, _ = net.apply(self.encoder, params, {}, x, kept, train=train, rng=rng, method='encode_kept')
    return out.tokens

  def predict(self, params: PyTree, x: jax.Array, removed: Masks, *, train: bool, rng: jax.Array | None = None) -> jax.Array:
    """[B, T, p*p*3] in the units of `target`, for every patch of normalised images [B, H, W, 3]."""
    tokens = self.encode(params['encoder'], x, removed.kept, train=train, rng=rng)
    restore = removed.restore.reshape(len(x), *self.grid(x))
    prediction, _ = net.apply(self.decoder, params['decoder'], {}, tokens, restore, train=train)
    return prediction

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    del step
    mask_rng, rng = jax.random.split(rng)
    x = branch.flatten_views(views)
    removed = self.draw(mask_rng, x)
    loss, metrics = self.compare(self.predict(params, x, removed, train=True, rng=rng), x, removed.masked)
    return loss, Output(memory, metrics)

  def compare(self, prediction: jax.Array, x: jax.Array, masked: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """([] loss, metrics) of predicted patches for normalised images [B, H, W, 3]; masked [B, T], 1 = removed."""
    target = patchify(x, self.encoder.patch)
    if self.norm_pix:
      target, _, _ = normalize_patches(target)
    mean = jnp.broadcast_to(target.mean(-1, keepdims=True), target.shape)
    return masked_mse(prediction, target, masked), {'baseline_loss': masked_mse(mean, target, masked)}

  def pictures(self, params: PyTree, memory: PyTree, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
    """Reconstructions of whole images; where `norm_pix`, with the true mean and variance of each patch."""
    del memory
    x = self.normalized(batch)
    removed = self.draw(rng, x)
    prediction = self.predict(params, x, removed, train=False)
    if self.norm_pix:
      _, mean, std = normalize_patches(patchify(x, self.encoder.patch))
      prediction = prediction * std + mean
    return reconstruction(x, prediction, removed.masked, self.encoder.patch, self.augment.mean, self.augment.std)
