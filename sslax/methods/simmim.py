"""SimMIM. Xie et al. 2022, https://arxiv.org/abs/2111.09886; official code: microsoft/SimMIM, models/simmim.py."""

import dataclasses
import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.inputs.image import Image
from sslax.losses.reconstruction import masked_l1
from sslax.method import Batch, Output
from sslax.models import branch, net
from sslax.models.joint_embedding import FromViews
from sslax.models.mlp import MLP
from sslax.models.vit import ViT
from sslax.ops.masks import draw_noise, enlarge, from_noise
from sslax.ops.patches import patchify, reconstruction, sides
from sslax.ops.views import RandomViews

PyTree = Any


@dataclasses.dataclass(frozen=True)
class SimMIM(FromViews):
  """The encoder sees every place, with a learnt token where patches were removed; a linear layer predicts their pixels.

  Whole units of `mask_unit` pixels are removed. The official head is a 1x1 convolution and a PixelShuffle: this one, with the
  pixels of a patch in another order. `baseline_loss` among the metrics is the loss of predicting the mean of each patch, which
  the network, unlike MAE's with norm_pix, must find out itself.
  """

  num_views: ClassVar[int] = 1

  encoder: ViT
  augment: RandomViews
  mask_ratio: float = 0.6  # of the units are removed, rounded up
  mask_unit: int = 32  # pixels, square
  image: Image = Image()

  def __post_init__(self) -> None:
    super().__post_init__()
    if not 0 < self.mask_ratio <= 1:
      raise ValueError(f'mask_ratio must be in (0, 1], not {self.mask_ratio}')
    if self.mask_unit < 1 or any(self.mask_unit % side for side in sides(self.encoder.patch, 2)):
      raise ValueError(f'mask_unit={self.mask_unit} must be a multiple of encoder.patch={self.encoder.patch}')
    if self.augment.size % self.mask_unit:
      raise ValueError(f'augment.size={self.augment.size} is no multiple of mask_unit={self.mask_unit}')

  @property
  def head(self) -> MLP:
    return MLP(features=(3 * math.prod(sides(self.encoder.patch, 2)),))

  @property
  def modules(self) -> dict[str, nn.Module]:
    return {'encoder': self.encoder, 'head': self.head}

  def draw(self, rng: jax.Array, image: jax.Array) -> jax.Array:
    """[B, T] bool, 1 = removed, for images [B, H, W, 3]."""
    h, w = (side // self.mask_unit for side in image.shape[1:3])
    keep = int(h * w * (1 - self.mask_ratio) + 1e-6)
    noise = draw_noise(rng, len(image), (h, w))
    masked = from_noise(noise, keep).masked if keep else jnp.ones(noise.shape, bool)
    down, right = sides(self.encoder.patch, 2)
    return enlarge(masked, (h, w), (self.mask_unit // down, self.mask_unit // right))

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    encoder_rng, head_rng, token_rng = jax.random.split(rng, 3)
    x = branch.flatten_views(views)
    encoder, _ = net.init(self.encoder, encoder_rng, x)
    head, _ = net.init(self.head, head_rng, jnp.zeros((1, 1, self.encoder.num_features)))
    mask_token = nn.initializers.truncated_normal(0.02)(token_rng, (1, 1, self.encoder.num_features))
    return {'encoder': encoder, 'mask_token': mask_token, 'head': head}, {}

  def predict(self, params: PyTree, x: jax.Array, masked: jax.Array, *, train: bool, rng: jax.Array | None = None) -> jax.Array:
    """[B, T, p*p*3] for every patch of normalised images [B, H, W, 3]; masked [B, T], 1 = removed."""

    def filled(vit, x, masked, train):
      return vit.encode(vit.embed(x, masked, params['mask_token'][0, 0]), train)

    out, _ = net.apply(self.encoder, params['encoder'], {}, x, masked, train=train, rng=rng, method=filled)
    tokens = out.tokens[:, int(self.encoder.class_token) :]
    return net.apply(self.head, params['head'], {}, tokens, train=train, whole=True)[0]

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    del step
    mask_rng, rng = jax.random.split(rng)
    x = branch.flatten_views(views)
    masked = self.draw(mask_rng, x)
    target = patchify(x, self.encoder.patch)
    mean = jnp.broadcast_to(target.mean(-1, keepdims=True), target.shape)
    metrics = {'baseline_loss': masked_l1(mean, target, masked)}
    return masked_l1(self.predict(params, x, masked, train=True, rng=rng), target, masked), Output(memory, metrics)

  def pictures(self, params: PyTree, memory: PyTree, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
    """Reconstructions of whole images."""
    del memory
    x = self.normalized(batch)
    masked = self.draw(rng, x)
    prediction = self.predict(params, x, masked, train=False)
    return reconstruction(x, prediction, masked, self.encoder.patch, self.augment.mean, self.augment.std)
