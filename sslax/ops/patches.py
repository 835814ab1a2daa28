"""Images, clips and spectrograms as sequences of flat patches, and back."""

import math

import chex
import jax
import jax.numpy as jnp


def sides(patch: int | tuple[int, ...], rank: int) -> tuple[int, ...]:
  """The sides of a patch, one for each of `rank` axes.

  Raises:
    ValueError: it is a patch of another rank.
  """
  found = (patch,) * rank if isinstance(patch, int) else tuple(patch)
  if len(found) != rank:
    raise ValueError(f'patch={patch} has {len(found)} sides, and the input {rank} axes')
  return found


def grid_of(size: tuple[int, ...], patch: int | tuple[int, ...]) -> tuple[int, ...]:
  """Patches along each axis of an input of this size, (H, W) or (T, H, W).

  Raises:
    ValueError: it does not divide into patches.
  """
  p = sides(patch, len(size))
  if any(n % side for n, side in zip(size, p, strict=True)):
    raise ValueError(f'{"x".join(map(str, size))} does not divide into patches of {"x".join(map(str, p))}')
  return tuple(n // side for n, side in zip(size, p, strict=True))


def patchify(x: jax.Array, patch: int | tuple[int, ...]) -> jax.Array:
  """[B, H, W, C] -> [B, h*w, p*p*C], in the order of MAE's official code: patches row by row; in a patch its pixels row by row,
  channels last. The same with more axes than H and W, or with one.

  Args:
    x: [B, *size, C].
    patch: p, the side of a patch in each axis; or one side for each.

  Raises:
    ValueError: it does not divide into patches.
  """
  size = x.shape[1:-1]
  grid, p = grid_of(size, patch), sides(patch, len(size))
  n = len(size)
  split = x.reshape(len(x), *(k for pair in zip(grid, p, strict=True) for k in pair), x.shape[-1])
  order = (0, *range(1, 2 * n, 2), *range(2, 2 * n + 1, 2), 2 * n + 1)
  return split.transpose(order).reshape(len(x), math.prod(grid), math.prod(p) * x.shape[-1])


def unpatchify(patches: jax.Array, patch: int | tuple[int, ...], size: tuple[int, ...]) -> jax.Array:
  """[B, h*w, p*p*C] -> [B, H, W, C], the inverse of `patchify`.

  Args:
    patches: as `patchify` returns them.
    patch: as it was given there.
    size: (H, W), pixels, or whatever the axes were.
  """
  chex.assert_rank(patches, 3)
  n, p, grid = len(size), sides(patch, len(size)), grid_of(size, patch)
  split = patches.reshape(len(patches), *grid, *p, -1)
  order = (0, *(axis for i in range(1, n + 1) for axis in (i, n + i)), 2 * n + 1)
  return split.transpose(order).reshape(len(patches), *size, -1)


def reconstruction(
  x: jax.Array,
  prediction: jax.Array,
  masked: jax.Array,
  patch: int | tuple[int, ...],
  mean: tuple[float, ...] = (0.0, 0.0, 0.0),
  std: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> dict[str, jax.Array]:
  """The pictures of a masked autoencoder: what was there, what the encoder saw, what was predicted, and that among the visible.

  Args:
    x: [B, H, W, C] images, normalised by `mean` and `std`.
    prediction: [B, h*w, p*p*C] in the units of `x`, for every patch.
    masked: [B, h*w] bool, 1 = removed; grey in the picture.
    patch: p, pixels; or the sides of a patch, one an axis.
    mean, std: of each channel.

  Returns:
    {'image', 'masked', 'prediction', 'reconstruction' (predicted where removed)}, each [B, H, W, C] in [0, 1]. The names are in
    alphabetical order, as `jit` returns them.
  """
  chex.assert_rank([x, prediction, masked], [4, 3, 2])
  image, predicted = (picture(x, mean, std) for x in (x, unpatchify(prediction, patch, x.shape[1:3])))
  return {
    'image': image,
    'masked': cover(image, masked, patch),
    'prediction': predicted,
    'reconstruction': cover(image, masked, patch, predicted),
  }


def picture(x: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
  """[B, H, W, C] normalised by the `mean` and `std` of each channel -> in [0, 1], to look at."""
  return jnp.clip(x * jnp.array(std)[None, None, None] + jnp.array(mean)[None, None, None], 0, 1)


def cover(image: jax.Array, masked: jax.Array, patch: int | tuple[int, ...], by: float | jax.Array = 0.5) -> jax.Array:
  """`image` [B, H, W, C] with `by`, a grey or another image, in the patches where `masked` [B, h*w] bool is 1."""
  pixels = math.prod(sides(patch, 2))
  return jnp.where(unpatchify(masked[..., None].repeat(pixels, -1), patch, image.shape[1:3]), by, image)
