"""VideoMAE. Tong et al. 2022, https://arxiv.org/abs/2203.12602; official code: MCG-NJU/VideoMAE @ 14ef8d8."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.inputs.clip import Clip
from sslax.losses.reconstruction import masked_mse
from sslax.method import Batch, Features, Input, Method, Output
from sslax.models import net
from sslax.models.decoder import Decoder
from sslax.models.vit import ViT
from sslax.ops.masks import Masks, draw_noise, from_noise
from sslax.ops.patches import grid_of, patchify, sides, unpatchify
from sslax.ops.photometric import normalize, to_float

PyTree = Any

GREY = 0.5  # of what was removed, in pictures


@dataclasses.dataclass(frozen=True)
class VideoMAE(Method):
  """The encoder sees a tenth of the tubelets of a clip; a small decoder predicts the pixels of the others.

  What is removed is removed in all frames (tubes): a place that could be seen a moment before or after would be copied, not
  understood. Removed tubelets never enter the encoder. `baseline_loss` among the metrics is the loss of predicting the mean of
  each target, of each channel: a run that stays there has learnt nothing.

  Targets are of pixels in [0, 1], whatever `mean` and `std`. The networks of the paper are `ViT(class_token=False, pool='mean',
  positions='sincos_line', weight_init='xavier')` and `Decoder(class_token=False, positions='sincos_line', embed_bias=False)`;
  keys have a bias here, which nothing depends on. The official code leaves the first layer of the decoder as PyTorch makes it
  and cuts the mask token's normal at one standard deviation; both are those of MAE's decoder here. transformers computes the same
  with `use_mean_pooling=False`; by default it leaves out the encoder's last norm, which the official code has.
  """

  encoder: ViT  # clips [B, T, S, S, 3]; `patch` (t, s, s) frames and pixels is a tubelet
  decoder: Decoder  # thrown away after pre-training
  mask_ratio: float = 0.9  # of the places of a frame are removed, rounded down
  norm_pix: bool = True  # each channel of a tubelet is standardised by its own mean and variance
  mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # ImageNet's, of what the encoder sees
  std: tuple[float, float, float] = (0.229, 0.224, 0.225)
  clip: Clip = Clip(size=224)

  def __post_init__(self) -> None:
    if not 0 < self.mask_ratio < 1:
      raise ValueError(f'mask_ratio={self.mask_ratio} must be in (0, 1)')
    patch = sides(self.encoder.patch, 3)
    for field, ours, theirs in (
      ('patch', sides(self.decoder.patch, 3), patch),
      ('class_token', self.decoder.class_token, self.encoder.class_token),
    ):
      if ours != theirs:
        raise ValueError(f'decoder.{field}={ours} must be encoder.{field}={theirs}')
    frames, size = self.clip.frames, self.clip.size
    for field, value, side in zip(('frames', 'size', 'size'), (frames, size, size), patch, strict=True):
      if value % side:
        raise ValueError(f'clip.{field}={value} is no multiple of {side} of encoder.patch={patch}')
    if self.norm_pix and math.prod(patch) < 2:
      raise ValueError(f'norm_pix=True needs more than one pixel in a tubelet: encoder.patch={patch}')
    _, h, w = self.grid
    if self.keep == h * w:
      raise ValueError(f'mask_ratio={self.mask_ratio} removes none of the {h}x{w} places of a frame')
    if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
      raise ValueError(f'mean={self.mean} and std={self.std} must be three numbers, those of std positive')

  def inputs(self) -> dict[str, Input]:
    return {'clip': self.clip}

  @property
  def modules(self) -> dict[str, nn.Module]:
    return {'encoder': self.encoder, 'decoder': self.decoder}

  @property
  def grid(self) -> tuple[int, ...]:
    """(t, h, w) tubelets of a clip."""
    return grid_of((self.clip.frames, self.clip.size, self.clip.size), self.encoder.patch)

  @property
  def keep(self) -> int:
    """How many places of a frame are seen; as in masking_generator.py, rounding errors included."""
    _, h, w = self.grid
    return h * w - int(self.mask_ratio * (h * w))

  def views(self, rng: jax.Array, batch: Batch) -> tuple[jax.Array, Masks]:
    """(clips [B, T, S, S, 3], Masks of their tubelets)."""
    return batch['clip'], self.draw(rng, len(batch['clip']))

  def draw(self, rng: jax.Array, rows: int) -> Masks:
    """Tubes: which of t*h*w tubelets are removed, of each row the same places in all t slots."""
    t, h, w = self.grid
    # Ranks of places, no two of them equal. Two equal numbers among the noise, repeated, could be parted in the middle of a tube.
    rank = from_noise(draw_noise(rng, rows, (h, w)), self.keep).restore
    return from_noise(jnp.tile(rank, (1, t)), t * self.keep)

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    encoder_rng, decoder_rng = jax.random.split(rng)
    clip, removed = views
    x = self.normalized(clip)
    encoder, _ = net.init(self.encoder, encoder_rng, x)
    tokens = self.encode(encoder, x, removed.kept, train=False)
    decoder, _ = net.init(self.decoder, decoder_rng, tokens, self.on_grid(removed.restore))
    return {'encoder': encoder, 'decoder': decoder}, {}

  def normalized(self, clip: jax.Array) -> jax.Array:
    """[B, T, S, S, 3] float32, as the encoder sees it."""
    return normalize(to_float(clip), self.mean, self.std)

  def on_grid(self, x: jax.Array) -> jax.Array:
    """[B, t*h*w] -> [B, t, h, w]."""
    return x.reshape(len(x), *self.grid)

  def encode(self, params: PyTree, x: jax.Array, kept: jax.Array, *, train: bool, rng: jax.Array | None = None) -> jax.Array:
    """[B, T, S, S, 3] normalised -> [B, K, D]: tokens of the tubelets `kept` [B, K], after the class token where there is one."""
    out, _ = net.apply(self.encoder, params, {}, x, kept, train=train, rng=rng, method='encode_kept')
    return out.tokens

  def predict(self, params: PyTree, clip: jax.Array, removed: Masks, *, train: bool, rng: jax.Array | None = None) -> jax.Array:
    """[B, t*h*w, p*3], (pixels - shift) / scale of `units`, for every tubelet of clips [B, T, S, S, 3]."""
    tokens = self.encode(params['encoder'], self.normalized(clip), removed.kept, train=train, rng=rng)
    prediction, _ = net.apply(self.decoder, params['decoder'], {}, tokens, self.on_grid(removed.restore), train=train)
    return prediction

  def tubelets(self, clip: jax.Array) -> jax.Array:
    """[B, T, S, S, 3] -> [B, t*h*w, p, 3] in [0, 1]: the p pixels of each tubelet, frame by frame and row by row."""
    flat = patchify(to_float(clip), self.encoder.patch)
    return flat.reshape(*flat.shape[:2], -1, 3)

  def units(self, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(shift, scale), both [B, t*h*w, 1, 3], of the targets (pixels - shift) / scale of `tubelets`."""
    mean = pixels.mean(2, keepdims=True)
    if not self.norm_pix:
      return jnp.zeros_like(mean), jnp.ones_like(mean)
    # Unlike MAE's: each channel by itself, and eps outside of the root (engine_for_pretraining.py).
    return mean, jnp.std(pixels, 2, ddof=1, keepdims=True) + 1e-6

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    del step
    clip, removed = views
    loss, metrics = self.compare(self.predict(params, clip, removed, train=True, rng=rng), clip, removed.masked)
    return loss, Output(memory, metrics)

  def compare(self, prediction: jax.Array, clip: jax.Array, masked: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """([] loss, metrics) of predicted tubelets of clips [B, T, S, S, 3]; masked [B, t*h*w], 1 = removed."""
    pixels = self.tubelets(clip)
    shift, scale = self.units(pixels)
    target = (pixels - shift) / scale
    mean = jnp.broadcast_to(target.mean(2, keepdims=True), target.shape)
    target, mean = (x.reshape(*masked.shape, -1) for x in (target, mean))
    return masked_mse(prediction, target, masked), {'baseline_loss': masked_mse(mean, target, masked)}

  def features(self, params: PyTree, memory: PyTree, batch: Batch) -> Features:
    del memory
    return net.apply(self.encoder, params['encoder'], {}, self.normalized(batch['clip']), train=False)[0]

  def view_pictures(self, views: PyTree) -> dict[str, Batch]:
    clip, removed = views
    return {'clip': {'clip': clip}, 'masked': self.covered(self.tubelets(clip), removed.masked, GREY)}

  def pictures(self, params: PyTree, memory: PyTree, batch: Batch, rng: jax.Array) -> dict[str, Batch]:
    """Reconstructions of whole clips; where `norm_pix`, with the true mean and variance of each tubelet."""
    del memory
    clip, removed = self.views(rng, batch)
    pixels = self.tubelets(clip)
    shift, scale = self.units(pixels)
    prediction = self.predict(params, clip, removed, train=False).reshape(pixels.shape) * scale + shift
    return {
      'clip': {'clip': clip},
      'masked': self.covered(pixels, removed.masked, GREY),
      'prediction': self.covered(prediction, removed.masked, prediction),
      'reconstruction': self.covered(pixels, removed.masked, prediction),
    }

  def covered(self, pixels: jax.Array, masked: jax.Array, by: jax.Array | float) -> Batch:
    """`tubelets` in [0, 1], those where `masked` is 1 replaced by `by`, as arrays that `Clip` shows."""
    flat = jnp.where(masked[..., None, None], by, pixels).reshape(*masked.shape, -1)
    clip = unpatchify(flat, self.encoder.patch, (self.clip.frames, self.clip.size, self.clip.size))
    return {'clip': jnp.round(255 * jnp.clip(clip, 0, 1)).astype(jnp.uint8)}
