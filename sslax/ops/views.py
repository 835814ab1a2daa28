"""Random views of a batch: the augmentation pipeline of SimCLR, BYOL, DINO and their kin, on device."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sslax.errors import UserError
from sslax.ops import geometry, photometric
from sslax.ops.patches import picture
from sslax.ops.randaugment import rand_augment

Batch = dict[str, jax.Array]


class Crop(NamedTuple):
  """Random-resized crops that the host cuts from the full-size image (Inception style)."""

  count: int  # type: ignore[assignment]  # views of this kind; hides tuple.count, which nobody asks a crop for
  size: int  # pixels, square
  area: tuple[float, float] = (0.08, 1.0)  # fraction of the image's area
  ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height, drawn log-uniformly


@dataclasses.dataclass(frozen=True)
class RandomViews:
  """`count` random views of each image: a cropping, and colours in SimCLR's order (Chen et al. 2020, appendix A).

  Crop, flip, RandAugment, turn and shear, colour jitter, grey, blur, solarize, noise, normalise, erase. A step with probability
  or strength 0 is not traced. The defaults are SimCLR's at ImageNet size with strength 1; BYOL and DINO set the fields.

  What row i gets depends on (rng, i, view) only: not on the other rows, the batch size or the sharding.

  Attributes:
    count: views of each image.
    size: pixels, square.
    area, ratio: of the random crop, see `geometry.random_crop_box`.
    interpolation: 'bicubic' or 'bilinear', both antialiased; bicubic is clipped to [0, 1].
    flip: probability of mirroring left to right.
    jitter: strengths of brightness, contrast, saturation, hue; see `photometric.color_jitter`.
    jitter_prob, gray_prob, blur_prob, solarize_prob: probability of each.
    brightness_impl: 'v2' multiplies, 'v1' adds (SimCLR's first release).
    blur_sigma: bounds of the blur's standard deviation in pixels, drawn uniformly.
    blur_kernel: taps, odd; 0: SimCLR's tenth of the size, 2 * int(size // 10 / 2) + 1 (23 at 224; 1, hence no blur, below 20).
    solarize_threshold: values from here on are inverted.
    mean, std: of each channel, after the colours; the default leaves [0, 1].
    rotate, shear: largest angle in degrees, either way; for digits and other small images, where colours say nothing.
    erase_prob: probability of setting one rectangle of 2 to 20 % of the view to 0 after normalising (Zhong et al. 2017).
    noise: standard deviation of Gaussian noise on [0, 1], clipped.
    rand_augment: operations in sequence of `randaugment.rand_augment`; 2 is timm's 'rand-m9-mstd0.5-inc1', 0 none.

  Raises:
    ValueError: a field's value makes no sense; names the field.
  """

  count: int = 2
  size: int = 224
  area: tuple[float, float] = (0.08, 1.0)
  ratio: tuple[float, float] = (3 / 4, 4 / 3)
  interpolation: str = 'bicubic'
  flip: float = 0.5
  jitter: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2)
  jitter_prob: float = 0.8
  brightness_impl: str = 'v2'
  gray_prob: float = 0.2
  blur_prob: float = 0.5
  blur_sigma: tuple[float, float] = (0.1, 2.0)
  blur_kernel: int = 0
  solarize_prob: float = 0.0
  solarize_threshold: float = 0.5
  mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
  std: tuple[float, float, float] = (1.0, 1.0, 1.0)
  rotate: float = 0.0
  shear: float = 0.0
  erase_prob: float = 0.0
  noise: float = 0.0
  rand_augment: int = 0

  def __post_init__(self) -> None:
    def check(field, good, wants):
      if not good:
        raise ValueError(f'{field} must be {wants}, got {getattr(self, field)!r}')

    check('count', self.count >= 1, 'at least 1')
    check('size', self.size >= 1, 'at least 1')
    for field in ('flip', 'jitter_prob', 'gray_prob', 'blur_prob', 'solarize_prob', 'erase_prob'):
      check(field, 0 <= getattr(self, field) <= 1, 'a probability in [0, 1]')
    for field in ('area', 'ratio', 'blur_sigma'):
      bounds = getattr(self, field)
      check(field, len(bounds) == 2 and 0 < bounds[0] <= bounds[1], 'two positive bounds in order')
    check('area', self.area[1] <= 1, 'a fraction of the image, at most 1')
    check('interpolation', self.interpolation in ('bicubic', 'bilinear'), "'bicubic' or 'bilinear'")
    check(
      'jitter', len(self.jitter) == 4 and min(self.jitter) >= 0, 'four strengths (brightness, contrast, saturation, hue) >= 0'
    )
    check('jitter', self.jitter[3] <= 0.5, 'at most 0.5 in its last entry, the hue')
    check('brightness_impl', self.brightness_impl in ('v1', 'v2'), "'v2' or 'v1'")
    check('blur_kernel', self.blur_kernel == 0 or self.blur_kernel % 2 == 1, 'odd, or 0 for a tenth of the size')
    check('blur_kernel', 0 <= self.blur_kernel // 2 < self.size, 'positive and less than twice the size')
    check('mean', len(self.mean) == 3, 'three numbers')
    check('std', len(self.std) == 3 and min(self.std) > 0, 'three positive numbers')
    check('rotate', 0 <= self.rotate <= 180, 'degrees in [0, 180]')
    check('shear', 0 <= self.shear < 90, 'degrees in [0, 90)')
    check('noise', self.noise >= 0, 'at least 0')
    check('rand_augment', self.rand_augment >= 0, 'at least 0')

  def __call__(self, rng: jax.Array, batch: Batch, group: int = 0) -> jax.Array:
    """The views of a batch.

    Args:
      rng: key.
      batch: `crops` (`crops_{group}` from group 1 on) [B, V, S, S, 3] if the host cropped, else `image` [B, H, W, 3]; uint8, or
        float in [0, 1].
      group: which of the host's crops are these views'.

    Returns:
      [B, V, S, S, 3] float32, V = count, S = size.

    Raises:
      UserError: the batch has neither, or the host's crops have another count or size.
    """
    key = f'crops_{group}' if group else 'crops'
    if key in batch:
      images = batch[key]
      if images.shape[1:] != (self.count, self.size, self.size, 3):
        raise UserError(
          f"batch['{key}'] has shape {images.shape}, these views want [B, {self.count}, {self.size}, {self.size}, 3]: "
          'let the host cut what RandomViews.crops() says'
        )
      view = jax.vmap(self._of_crop)  # over V: each crop has its own view
    elif 'image' in batch:
      images = batch['image']
      view = jax.vmap(self._of_image, in_axes=(0, None))  # over V: all views are of one image
    else:
      raise UserError(f"views need batch['image'] or batch['{key}'], the batch has {', '.join(sorted(batch)) or 'nothing'}")

    def views(row_rng, x):
      return view(jax.random.split(row_rng, self.count), x)

    return jax.vmap(views)(jax.random.split(rng, len(images)), images)

  def crops(self) -> tuple[Crop, ...]:
    """What the host should cut, where it crops."""
    return (Crop(self.count, self.size, (self.area[0], self.area[1]), (self.ratio[0], self.ratio[1])),)

  def pair(self) -> 'RandomViews':
    """Two views in [0, 1] from this distribution, for evaluators: `features` normalises."""
    return dataclasses.replace(self, count=2, mean=(0.0,) * 3, std=(1.0,) * 3)

  def normalize(self, image: jax.Array) -> jax.Array:
    """A whole image [..., H, W, 3], uint8 or float in [0, 1], as the encoder sees its views: for `features`."""
    return photometric.normalize(photometric.to_float(image), self.mean, self.std)

  def _of_image(self, rng, x):
    """[H, W, 3] -> a view [S, S, 3]."""
    box_rng, flip_rng, rng = jax.random.split(rng, 3)
    box = geometry.random_crop_box(box_rng, x.shape[0], x.shape[1], self.area, self.ratio)
    mirror = jax.random.bernoulli(flip_rng, self.flip) if self.flip else False
    x = geometry.crop_and_resize(photometric.to_float(x), box, self.size, self.interpolation, flip=mirror)
    return self._colour(rng, jnp.clip(x, 0, 1))

  def _of_crop(self, rng, x):
    """[S, S, 3] that the host cut -> a view [S, S, 3]."""
    flip_rng, rng = jax.random.split(rng)
    x = photometric.to_float(x)
    if self.flip:
      x = jnp.where(jax.random.bernoulli(flip_rng, self.flip), geometry.flip(x), x)
    return self._colour(rng, x)

  def _colour(self, rng, x):
    """Everything after crop and flip; ORDER MATTERS: it is SimCLR's."""
    rng, jitter_rng, noise_rng, erase_rng = jax.random.split(rng, 4)
    u = jax.random.uniform(rng, (8,))  # one draw for all scalars
    if self.rand_augment:
      x = rand_augment(jax.random.fold_in(rng, len(u)), x, self.rand_augment)  # no split more: the other draws stay as they were
    if self.rotate or self.shear:
      x = geometry.affine(x, self.rotate * (2 * u[0] - 1), self.shear * (2 * u[1] - 1))
    if self.jitter_prob and any(self.jitter):
      x = jnp.where(u[2] < self.jitter_prob, photometric.color_jitter(jitter_rng, x, *self.jitter, self.brightness_impl), x)
    if self.gray_prob:
      x = jnp.where(u[3] < self.gray_prob, photometric.grayscale(x), x)
    if self.blur_prob and self.blur_taps > 1:
      sigma = self.blur_sigma[0] + u[4] * (self.blur_sigma[1] - self.blur_sigma[0])
      x = jnp.where(u[5] < self.blur_prob, photometric.gaussian_blur(x, sigma, self.blur_taps), x)
    if self.solarize_prob:
      x = jnp.where(u[6] < self.solarize_prob, photometric.solarize(x, self.solarize_threshold), x)
    if self.noise:
      x = jnp.clip(x + self.noise * jax.random.normal(noise_rng, x.shape), 0, 1)
    x = self.normalize(x)
    if self.erase_prob:
      box = geometry.random_crop_box(erase_rng, self.size, self.size, (0.02, 0.2), (0.3, 1 / 0.3))
      x = jnp.where((u[7] < self.erase_prob) & geometry.inside(x, box), 0, x)
    return x

  @property
  def blur_taps(self) -> int:
    """Taps of the blur: `blur_kernel`, or SimCLR's rule for 0."""
    return self.blur_kernel or 2 * (self.size // 10 // 2) + 1


@dataclasses.dataclass(frozen=True)
class TwoViews:
  """Two views from different distributions (BYOL's T and T'): [B, 2, S, S, 3], `first` and `second` with one view each."""

  first: RandomViews
  second: RandomViews

  def __post_init__(self) -> None:
    if self.first.count != 1 or self.second.count != 1 or self.first.size != self.second.size:
      raise ValueError(
        f'two views need first and second with count=1 and one size, got counts {self.first.count}, {self.second.count} and '
        f'sizes {self.first.size}, {self.second.size}'
      )

  @property
  def count(self) -> int:
    return 2

  def __call__(self, rng: jax.Array, batch: Batch) -> jax.Array:
    return jnp.concatenate(make_views(rng, batch, (self.first, self.second)), axis=1)

  def crops(self) -> tuple[Crop, ...]:
    return self.first.crops() + self.second.crops()

  @property
  def mean(self) -> tuple[float, float, float]:
    return self.first.mean

  @property
  def std(self) -> tuple[float, float, float]:
    return self.first.std

  def pair(self) -> RandomViews:
    return self.first.pair()

  def normalize(self, image: jax.Array) -> jax.Array:
    return self.first.normalize(image)


@dataclasses.dataclass(frozen=True)
class MultiCrop:
  """Large views and some small ones (Caron et al. 2020, section 3.2): ([B, V, S, S, 3], [B, L, s, s, 3]).

  `small` may be left out: then ([B, V, S, S, 3],).
  """

  large: RandomViews | TwoViews
  small: RandomViews | None = None

  @property
  def count(self) -> int:
    """Views in all."""
    return self.large.count + (self.small.count if self.small else 0)

  def __call__(self, rng: jax.Array, batch: Batch) -> tuple[jax.Array, ...]:
    large_rng, small_rng = jax.random.split(rng)
    large = self.large(large_rng, batch)
    return (large, self.small(small_rng, batch, len(self.large.crops()))) if self.small else (large,)

  def crops(self) -> tuple[Crop, ...]:
    return self.large.crops() + (self.small.crops() if self.small else ())

  @property
  def mean(self) -> tuple[float, float, float]:
    return self.large.mean

  @property
  def std(self) -> tuple[float, float, float]:
    return self.large.std

  def pair(self) -> RandomViews:
    return self.large.pair()

  def normalize(self, image: jax.Array) -> jax.Array:
    return self.large.normalize(image)


def make_views(rng: jax.Array, batch: Batch, groups: tuple[RandomViews, ...]) -> tuple[jax.Array, ...]:
  """The views of each group, [B, V_g, S_g, S_g, 3] each, with a key of its own."""
  return tuple(group(jax.random.fold_in(rng, g), batch, g) for g, group in enumerate(groups))


def pictures(views: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, jax.Array]:
  """Views for people: {'view 1': [B, S, S, 3] in [0, 1], ...} of all arrays [B, V, S, S, 3] among `views`."""
  columns = [view for leaf in jax.tree.leaves(views) if leaf.ndim == 5 for view in jnp.unstack(leaf, axis=1)]
  return {f'view {i}': picture(view, mean, std) for i, view in enumerate(columns, 1)}
