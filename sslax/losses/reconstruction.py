"""Losses of masked autoencoders: predicted against true pixels of the removed patches."""

import chex
import jax
import jax.numpy as jnp


def normalize_patches(patches: jax.Array, eps: float = 1e-6) -> tuple[jax.Array, jax.Array, jax.Array]:
  """((x - mean) / std, mean, std) of each patch over its pixels and channels: MAE's norm_pix_loss (He et al. 2022, section 3).

  std = sqrt(var + eps) with the unbiased variance, as torch.var in the official code.

  Args:
    patches: [B, T, P].
    eps: added to the variance.

  Returns:
    [B, T, P], [B, T, 1], [B, T, 1].
  """
  chex.assert_rank(patches, 3)
  mean = patches.mean(-1, keepdims=True)
  std = jnp.sqrt(patches.var(-1, ddof=1, keepdims=True) + eps)
  return (patches - mean) / std, mean, std


def masked_mse(prediction: jax.Array, target: jax.Array, masked: jax.Array) -> jax.Array:
  """Squared error, the mean over the removed patches of the whole batch: He et al. 2022, https://arxiv.org/abs/2111.06377.

  Args:
    prediction, target: [B, T, P].
    masked: [B, T], 1 = removed; only these count.

  Returns:
    [] loss; 0 where nothing is removed.
  """
  chex.assert_rank([prediction, target, masked], [3, 3, 2])
  each = jnp.square(prediction - target).mean(-1)
  return jnp.sum(each * masked) / jnp.maximum(masked.sum(), 1)


def masked_l1(prediction: jax.Array, target: jax.Array, masked: jax.Array, channels: int = 3) -> jax.Array:
  """Absolute error, the mean over the removed pixels: Xie et al. 2022, https://arxiv.org/abs/2111.09886, equation 1.

  sum |x - y| m / (sum m + 1e-5) / channels with m of each pixel, as in the official code.

  Args:
    prediction, target: [B, T, P], P = pixels x channels.
    masked: [B, T], 1 = removed; only these count.
    channels: of the image.

  Returns:
    [] loss; 0 where nothing is removed.
  """
  chex.assert_rank([prediction, target, masked], [3, 3, 2])
  pixels = masked.sum() * (target.shape[-1] // channels)
  return jnp.sum(jnp.abs(prediction - target).sum(-1) * masked) / (pixels + 1e-5) / channels
