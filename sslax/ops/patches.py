"""Images as sequences of flat patches, and back."""

import chex
import jax
import jax.numpy as jnp


def patchify(image: jax.Array, patch: int) -> jax.Array:
  """[B, H, W, C] -> [B, h*w, p*p*C], in the order of MAE's official code: patches row by row; in a patch its pixels row by row,
  channels last.

  Args:
    image: [B, H, W, C], H = h p and W = w p.
    patch: p, pixels.

  Raises:
    ValueError: the image does not divide into patches.
  """
  chex.assert_rank(image, 4)
  B, H, W, C = image.shape
  if H % patch or W % patch:
    raise ValueError(f'images of {H}x{W} pixels do not divide into patches of {patch}')
  x = image.reshape(B, H // patch, patch, W // patch, patch, C)
  return x.swapaxes(2, 3).reshape(B, (H // patch) * (W // patch), patch * patch * C)


def unpatchify(patches: jax.Array, patch: int, size: tuple[int, int]) -> jax.Array:
  """[B, h*w, p*p*C] -> [B, H, W, C], the inverse of `patchify`.

  Args:
    patches: as `patchify` returns them.
    patch: p, pixels.
    size: (H, W), pixels.
  """
  chex.assert_rank(patches, 3)
  B, H, W = patches.shape[0], *size
  x = patches.reshape(B, H // patch, W // patch, patch, patch, -1)
  return x.swapaxes(2, 3).reshape(B, H, W, -1)


def reconstruction(
  x: jax.Array,
  prediction: jax.Array,
  masked: jax.Array,
  patch: int,
  mean: tuple[float, ...] = (0.0, 0.0, 0.0),
  std: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> dict[str, jax.Array]:
  """The pictures of a masked autoencoder: what was there, what the encoder saw, what was predicted, and that among the visible.

  Args:
    x: [B, H, W, C] images, normalised by `mean` and `std`.
    prediction: [B, h*w, p*p*C] in the units of `x`, for every patch.
    masked: [B, h*w] bool, 1 = removed; grey in the picture.
    patch: p, pixels.
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


def cover(image: jax.Array, masked: jax.Array, patch: int, by: float | jax.Array = 0.5) -> jax.Array:
  """`image` [B, H, W, C] with `by`, a grey or another image, in the patches where `masked` [B, h*w] bool is 1."""
  return jnp.where(unpatchify(masked[..., None].repeat(patch * patch, -1), patch, image.shape[1:3]), by, image)
