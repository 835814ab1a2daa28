"""Mixup and CutMix: each image of a batch is mixed with another one, and so are their targets."""

import chex
import jax
import jax.numpy as jnp


def mix(
  rng: jax.Array,
  images: jax.Array,
  targets: jax.Array,
  mixup_alpha: float,
  cutmix_alpha: float,
  switch_prob: float = 0.5,
  prob: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """x_i <- w x_i + (1 - w) x_j and y_i <- mean(w) y_i + (1 - mean(w)) y_j, with weights w [H, W] that the whole batch shares.

  Mixup (Zhang et al. 2018, https://arxiv.org/abs/1710.09412): w is a constant drawn from Beta(mixup_alpha, mixup_alpha). CutMix
  (Yun et al. 2019, https://arxiv.org/abs/1905.04899): w is 0 in a random box and 1 elsewhere; with l from Beta(cutmix_alpha,
  cutmix_alpha) the box has sqrt(1 - l) of each side before the border cuts it, so mean(w) is l corrected by the box that is left.
  Draws and box are those of timm's Mixup in its default mode 'batch': one w a batch.

  The partner of row i is i ^ 1, its neighbour; timm's is B - 1 - i. In a shuffled batch both are a random other image, but
  reversing the rows of a batch that is split over chips sends every image to another chip, and swapping neighbours sends none
  while a chip has an even number of rows.

  Args:
    rng: key.
    images: [B, H, W, C], B even.
    targets: [B, K] probabilities of the classes.
    mixup_alpha, cutmix_alpha: 0 is without it; one must be positive (0.8 and 1.0 in DeiT and MAE).
    switch_prob: of CutMix where both are positive.
    prob: of mixing this batch at all.

  Returns:
    (images, targets) of the same shapes.

  Raises:
    ValueError: neither alpha is positive, or B is odd.
  """
  chex.assert_rank([images, targets], [4, 2])
  if not (mixup_alpha > 0 or cutmix_alpha > 0):
    raise ValueError(f'mixup_alpha={mixup_alpha}, cutmix_alpha={cutmix_alpha}: one must be positive')
  if len(images) % 2:
    raise ValueError(f'a batch of {len(images)} images does not divide into pairs')
  H, W = images.shape[1:3]
  mixup_rng, cutmix_rng, rng = jax.random.split(rng, 3)
  u = jax.random.uniform(rng, (4,))
  w = jnp.ones((H, W))
  if mixup_alpha > 0:
    w = jnp.full((H, W), jax.random.beta(mixup_rng, mixup_alpha, mixup_alpha))
  if cutmix_alpha > 0:
    ratio = jnp.sqrt(1 - jax.random.beta(cutmix_rng, cutmix_alpha, cutmix_alpha))
    in_box = _interval(H, ratio, u[0])[:, None] & _interval(W, ratio, u[1])[None]
    w = jnp.where(u[2] < (switch_prob if mixup_alpha > 0 else 1.0), jnp.where(in_box, 0.0, 1.0), w)
  w = jnp.where(u[3] < prob, w, 1.0)
  return _blend(images, w.astype(images.dtype)[None, ..., None]), _blend(targets, w.mean()[None, None])


def _interval(size: int, ratio: jax.Array, u: jax.Array) -> jax.Array:
  """[size] bool: half of int(ratio * size) on each side of a uniform centre, halves rounded down, cut at the border."""
  half = jnp.floor(ratio * size) // 2
  center, i = jnp.floor(u * size), jnp.arange(size)
  return (center - half <= i) & (i < center + half)


def _blend(x, w):
  partner = x.reshape(len(x) // 2, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)
  return w * x + (1 - w) * partner
