"""Audio-MAE. Huang et al. 2022, https://arxiv.org/abs/2207.06405; official code: facebookresearch/AudioMAE, models_mae.py."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sslax.inputs.waveform import COLOURS, SHOWN_DB, Waveform
from sslax.losses.reconstruction import masked_mse, normalize_patches
from sslax.method import Batch, Features, Input, Method, Output, PyTree
from sslax.models import net, positions
from sslax.models.decoder import Decoder
from sslax.models.local_decoder import LocalDecoder
from sslax.models.norm import one_of
from sslax.models.vit import ViT
from sslax.ops.masks import Masks, draw_noise, from_noise
from sslax.ops.mel import KALDI_FLOOR, log_mel
from sslax.ops.patches import grid_of, patchify, sides, unpatchify

MASKINGS = ('random', 'time', 'frequency', 'time+frequency')
SHOWN = SHOWN_DB / 10 * math.log(10)  # in nats


@dataclasses.dataclass(frozen=True)
class Transposed:
  """The sin-cos positions that the official code gives to patches: those of the grid with its axes exchanged.

  Patches are in order of time, then frequency (64 x 8 of them), and the table is computed for 8 x 64 and laid over them row by
  row (util/patch_embed.py has patch_hw the other way round). No two places share a row, but neighbours in the spectrogram are
  not neighbours in the table. 'sincos_mae' is what was meant; published weights have seen this one.
  """

  def __call__(self, grid: tuple[int, ...], width: int) -> np.ndarray:
    return positions.table(grid[::-1], width, 'sincos_mae').reshape(*grid, width)


@dataclasses.dataclass(frozen=True)
class AudioMAE(Method):
  """The encoder sees a fifth of the patches of a log-mel spectrogram; a decoder predicts the others.

  Spectrograms are Kaldi's: windows of 25 ms, every 10 ms. They are cut to `frames`, or filled up with zeros before they are
  normalised, as in the official code; what is shorter than the window of sound was filled up with silence before that.
  `baseline_loss` among the metrics is the loss of predicting the mean of each patch: a run that stays there has learnt nothing.
  """

  encoder: ViT  # of [B, frames, mels, 1]
  decoder: Decoder | LocalDecoder  # thrown away after pre-training
  mask_ratio: float = 0.8  # of the patches are removed, rounded up; of the times or bands, where `masking` says so
  masking: str = 'random'  # 'time', 'frequency': all patches of a time, of a band of frequencies; 'time+frequency': both
  mask_2d: tuple[float, float] = (0.7, 0.3)  # of times and of bands are removed, where masking='time+frequency'
  norm_pix: bool = True  # each patch is standardised by its own mean and variance
  roll: bool = True  # a random circular shift; it is 0 for sound of one channel in the official code: randint(len([1, N]))
  magnitude: bool = True  # the waveform times Beta(10, 10) + 0.5
  rms: float = 0.0  # root mean square that each waveform is brought to; 0, the paper: as loud as it is
  mels: int = 128
  frames: int = 1024
  mean: float = -4.2677393  # of the log-mel energies of AudioSet, in nats
  std: float = 4.5689974  # half of what they are divided by
  waveform: Waveform = Waveform(seconds=10.0)

  def __post_init__(self) -> None:
    one_of('masking', self.masking, MASKINGS)
    for field, ratios in (('mask_ratio', (self.mask_ratio,)), ('mask_2d', self.mask_2d)):
      if not all(0 < ratio < 1 for ratio in ratios):
        raise ValueError(f'{field} must be in (0, 1), not {getattr(self, field)}')
    for field in ('std', 'mels', 'frames'):
      if getattr(self, field) <= 0:
        raise ValueError(f'{field}={getattr(self, field)} must be more than 0')
    if self.rms < 0:
      raise ValueError(f'rms={self.rms} must not be negative')
    (window, hop), (samples,) = self.windowing, self.waveform.shapes()['waveform'].shape
    heard = 1 + (samples - window) // hop if hop and samples >= window else 0
    if not heard / 2 <= self.frames <= 2 * heard:
      raise ValueError(
        f'frames={self.frames}: waveform, {self.waveform.seconds:g} s at {self.waveform.rate} Hz, gives {heard}, one every 10 '
        'ms; ask for half to twice as many, or change waveform.seconds'
      )
    for field, ours, theirs in (
      ('patch', sides(self.decoder.patch, 2), sides(self.encoder.patch, 2)),
      ('class_token', self.decoder.class_token, self.encoder.class_token),
    ):
      if ours != theirs:
        raise ValueError(f'decoder.{field}={ours} must be encoder.{field}={theirs}')
    if self.decoder.channels != 1:
      raise ValueError(f'decoder.channels={self.decoder.channels} must be 1: a spectrogram has no colours')
    for field, size, side in zip(('frames', 'mels'), (self.frames, self.mels), sides(self.encoder.patch, 2), strict=True):
      if size % side:
        raise ValueError(f'{field}={size} is no multiple of {side}, the side of encoder.patch={self.encoder.patch}')
    if min(self.kept) < 1:
      raise ValueError(f'masking={self.masking!r} leaves no patch of {self.grid[0]} x {self.grid[1]} (time x frequency)')
    area = self.decoder.window if isinstance(self.decoder, LocalDecoder) else self.grid
    if len(area) != 2 or any(n > w and n % w for n, w in zip(self.grid, area, strict=True)):
      raise ValueError(f'decoder.window={area} does not divide {self.grid[0]} x {self.grid[1]} patches (time x frequency)')

  def inputs(self) -> dict[str, Input]:
    return {'waveform': self.waveform}

  @property
  def modules(self) -> dict[str, Any]:
    return {'encoder': self.encoder, 'decoder': self.decoder}

  @property
  def windowing(self) -> tuple[int, int]:
    """(window, hop): 25 and 10 ms in samples, rounded down as Kaldi does."""
    return self.waveform.rate * 25 // 1000, self.waveform.rate // 100

  @property
  def grid(self) -> tuple[int, int]:
    """(times, bands): patches along each axis."""
    times, bands = grid_of((self.frames, self.mels), self.encoder.patch)
    return times, bands

  @property
  def kept(self) -> tuple[int, ...]:
    """How many patches stay, or (times, bands): int(n (1 - ratio)) as in the official code, without its rounding error."""
    if self.masking == 'random':
      return (self._left(math.prod(self.grid), self.mask_ratio),)
    ratios = {'time': (self.mask_ratio, 0.0), 'frequency': (0.0, self.mask_ratio), 'time+frequency': self.mask_2d}
    return tuple(map(self._left, self.grid, ratios[self.masking]))

  def _left(self, n: int, ratio: float) -> int:
    return int(n * (1 - ratio) + 1e-6)

  def levelled(self, waveform: jax.Array) -> jax.Array:
    """[B, N] less the mean of each row, as the official code does before everything else; as loud as `rms` says."""
    x = waveform - waveform.mean(1, keepdims=True)
    return x * (self.rms / jnp.maximum(jnp.sqrt(jnp.square(x).mean(1, keepdims=True)), 1e-5)) if self.rms else x

  def spectrogram(self, waveform: jax.Array) -> jax.Array:
    """[B, N] -> [B, frames, mels, 1], normalised; the official code's `_wav2fbank`."""
    window, hop = self.windowing
    x = log_mel(waveform, rate=self.waveform.rate, definition='kaldi', window=window, hop=hop, n_mels=self.mels)
    x = x[:, : self.frames]
    # ORDER MATTERS: zeros are energies of 1, which are loud, and no zeros any more once they are normalised.
    x = jnp.pad(x, ((0, 0), (0, self.frames - x.shape[1]), (0, 0)))
    return ((x - self.mean) / (2 * self.std))[..., None]

  def disturbed(self, rng: jax.Array, waveform: jax.Array) -> jax.Array:
    """[B, N] -> [B, N]: `_roll_mag_aug` of the official code; row i depends on (rng, i) only."""

    def row(i, x):
      roll, magnitude = jax.random.split(jax.random.fold_in(rng, i))
      x = jnp.roll(x, jax.random.randint(roll, (), 0, len(x))) if self.roll else x
      # The 10th of 19 uniform numbers is Beta(10, 10). jax.random.beta draws until all rows are content: devices would wait for
      # each other, and those of a CPU for ever, in two such loops at once.
      return x * (jnp.sort(jax.random.uniform(magnitude, (19,)))[9] + 0.5) if self.magnitude else x

    return jax.vmap(row)(jnp.arange(len(waveform)), waveform)

  def views(self, rng: jax.Array, batch: Batch) -> jax.Array:
    """[B, frames, mels, 1]."""
    return self.spectrogram(self.disturbed(rng, self.levelled(batch['waveform'])))

  def draw(self, rng: jax.Array, rows: int) -> Masks:
    """Which patches are removed."""
    if self.masking == 'random':
      return from_noise(draw_noise(rng, rows, self.grid), self.kept[0])
    noise = [jax.random.uniform(key, (rows, n)) for key, n in zip(jax.random.split(rng), self.grid, strict=True)]
    time, band = (jnp.argsort(jnp.argsort(u, axis=1), axis=1) < k for u, k in zip(noise, self.kept, strict=True))
    removed = 1.0 - (time[:, :, None] & band[:, None]).reshape(rows, -1)
    return from_noise(removed, math.prod(self.kept))  # a stable sort: what is kept stays in its order

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    encoder_rng, decoder_rng, mask_rng = jax.random.split(rng, 3)
    encoder, _ = net.init(self.encoder, encoder_rng, views)
    removed = self.draw(mask_rng, len(views))
    tokens = self.encode(encoder, views, removed.kept, train=False)
    decoder, _ = net.init(self.decoder, decoder_rng, tokens, removed.restore.reshape(-1, *self.grid))
    return {'encoder': encoder, 'decoder': decoder}, {}

  def encode(self, params: PyTree, x: jax.Array, kept: jax.Array, *, train: bool, rng: jax.Array | None = None) -> jax.Array:
    """[B, frames, mels, 1] -> [B, 1 + K, D]: tokens of the patches `kept` [B, K] after the class token, where there is one."""
    return net.apply(self.encoder, params, {}, x, kept, train=train, rng=rng, method='encode_kept')[0].tokens

  def predict(self, params: PyTree, x: jax.Array, removed: Masks, *, train: bool, rng: jax.Array | None = None) -> jax.Array:
    """[B, T, prod(patch)] in the units of `compare`, for every patch of normalised spectrograms."""
    encoder_rng, decoder_rng = (None, None) if rng is None else jax.random.split(rng)
    tokens = self.encode(params['encoder'], x, removed.kept, train=train, rng=encoder_rng)
    restore = removed.restore.reshape(-1, *self.grid)
    return net.apply(self.decoder, params['decoder'], {}, tokens, restore, train=train, rng=decoder_rng)[0]

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    del step
    mask_rng, rng = jax.random.split(rng)
    removed = self.draw(mask_rng, len(views))
    loss, metrics = self.compare(self.predict(params, views, removed, train=True, rng=rng), views, removed.masked)
    return loss, Output(memory, metrics)

  def compare(self, prediction: jax.Array, x: jax.Array, masked: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """([] loss, metrics) of predicted patches for normalised spectrograms; masked [B, T], 1 = removed."""
    target = patchify(x, self.encoder.patch)
    target = normalize_patches(target)[0] if self.norm_pix else target
    mean = jnp.broadcast_to(target.mean(-1, keepdims=True), target.shape)
    return masked_mse(prediction, target, masked), {'baseline_loss': masked_mse(mean, target, masked)}

  def features(self, params: PyTree, memory: PyTree, batch: Batch) -> Features:
    """Tokens [B, times, bands, D]; `stride` is (samples, mel bands)."""
    del memory
    x = self.spectrogram(self.levelled(batch['waveform']))
    found = net.apply(self.encoder, params['encoder'], {}, x, train=False)[0]
    return dataclasses.replace(found, stride=(found.stride[0] * self.windowing[1], found.stride[1]))

  def augmented(self, rng: jax.Array, batch: Batch) -> Batch | None:
    if not (self.roll or self.magnitude):
      return None
    waveform = self.levelled(batch['waveform'])
    return {'waveform': jnp.stack([self.disturbed(key, waveform) for key in jax.random.split(rng)], 1)}

  def view_pictures(self, views: PyTree) -> dict[str, jax.Array]:
    return {'spectrogram': self.coloured(views, views)}

  def pictures(self, params: PyTree, memory: PyTree, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
    """Reconstructions; where `norm_pix`, with the true mean and variance of each patch."""
    del memory
    x = self.spectrogram(self.levelled(batch['waveform']))
    removed, patch, size = self.draw(rng, len(x)), self.encoder.patch, x.shape[1:3]
    prediction = self.predict(params, x, removed, train=False)
    if self.norm_pix:
      _, mean, std = normalize_patches(patchify(x, patch))
      prediction = prediction * std + mean
    predicted = unpatchify(prediction, patch, size)
    hidden = unpatchify(removed.masked[..., None].repeat(prediction.shape[-1], -1), patch, size)
    grey = hidden.transpose(0, 2, 1, 3)[:, ::-1]
    columns = {'spectrogram': x, 'masked': x, 'prediction': predicted, 'reconstruction': jnp.where(hidden, predicted, x)}
    columns = {name: self.coloured(column, x) for name, column in columns.items()}
    return {**columns, 'masked': jnp.where(grey, 0.5, columns['masked'])}

  def coloured(self, x: jax.Array, true: jax.Array) -> jax.Array:
    """[B, frames, mels, 1] -> [B, mels, frames, 3] in [0, 1]: frequency upwards; black is 80 dB below the loudest of `true`."""
    x, true = (2 * self.std * a[..., 0] + self.mean for a in (x, true))
    loudest = jnp.maximum(true.max((1, 2), keepdims=True), math.log(KALDI_FLOOR) + SHOWN)  # or silence would be brightest
    level = jnp.clip((x - loudest) / SHOWN + 1, 0, 1).swapaxes(1, 2)[:, ::-1]
    return jnp.stack([jnp.interp(level, np.linspace(0, 1, len(COLOURS)), c) for c in COLOURS.T / 255], -1)
