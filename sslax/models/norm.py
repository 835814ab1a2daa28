"""Batch normalisation with PyTorch's running statistics and with groups of rows. Flax's own keeps the biased variance."""

import dataclasses
from collections.abc import Collection

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


class BatchNorm(nn.Module):
  """Batch normalisation over all axes but the last (Ioffe & Szegedy 2015, algorithms 1-2), statistics in float32.

  As in PyTorch and TensorFlow, the batch is normalised by its biased variance and the running variance takes the unbiased
  one. Under jit with a sharded batch the statistics are those of the global batch.

  `groups` = g > 1 normalises g groups of B/g rows apart, each by its own statistics; the running ones move by the mean over
  the groups. Contiguous groups (rows i*B/g ... (i+1)*B/g - 1) are what g devices without synchronisation would do, and cost no
  communication when g is a multiple of the number of devices. Strided groups (rows i, i+g, i+2g, ...) mix rows from all over
  the batch: a key encoder with strided and a query encoder with contiguous groups does what MoCo's ShuffleBN does (He et al.
  2020, section 3.3), without moving images.

  Args:
    momentum: running <- momentum * running + (1 - momentum) * batch (PyTorch's momentum is 1 - this).
    eps: added to the variance.
    use_scale, use_bias: learn gamma, beta.
    scale_init: initial gamma; 0 makes a residual branch start as the identity.
    groups, strided: see above.
    dtype: of the output.
  """

  momentum: float = 0.9
  eps: float = 1e-5
  use_scale: bool = True
  use_bias: bool = True
  scale_init: float = 1.0
  groups: int = 1
  strided: bool = False
  dtype: str = 'float32'

  def __post_init__(self) -> None:
    if not 0 <= self.momentum <= 1:
      raise ValueError(f'momentum={self.momentum} is not in [0, 1]')
    if self.groups < 1:
      raise ValueError(f'groups={self.groups} is not positive')
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """[B, ..., C] -> [B, ..., C]. Raises ValueError where the groups do not divide B or hold one value a channel."""
    (B, *space, C), g = x.shape, self.groups
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, (C,), jnp.float32)
    running_var = self.variable('batch_stats', 'var', jnp.ones, (C,), jnp.float32)
    scale = self.param('scale', nn.initializers.constant(self.scale_init), (C,)) if self.use_scale else None
    bias = self.param('bias', nn.initializers.zeros, (C,)) if self.use_bias else None

    def wide(v):  # [C] -> [1, ..., 1, C]
      return v.reshape((1,) * (x.ndim - 1) + (C,))

    y = x.astype(jnp.float32) - wide(lax.stop_gradient(running_mean.value))  # no gradient between microbatches
    if train:
      if B % g:
        raise ValueError(f'BatchNorm: {B} rows do not divide into groups={g}')
      n = x.size // (g * C)
      if n < 2:
        raise ValueError(f'BatchNorm: one value per channel (input {x.shape}, groups={g}) has no variance; use larger batches')
      y = y.reshape((B // g, g, *space, C) if self.strided else (g, B // g, *space, C))
      axes = tuple(a for a in range(y.ndim - 1) if a != (1 if self.strided else 0))
      # One pass and one all-reduce. E[y^2] - E[y]^2 would cancel for a large mean: y is centred on the running mean.
      mean = jnp.mean(y, axes, keepdims=True)
      var = jnp.maximum(jnp.mean(jnp.square(y), axes, keepdims=True) - jnp.square(mean), 0.0)
      y = ((y - mean) * lax.rsqrt(var + self.eps)).reshape(x.shape)
      if not self.is_initializing():
        m, mean, var = self.momentum, *lax.stop_gradient((mean.reshape(g, C).mean(0), var.reshape(g, C).mean(0)))
        running_mean.value += (1 - m) * mean  # the mean of the centred y: hence no `m * running`
        running_var.value = m * running_var.value + (1 - m) * n / (n - 1) * var
    else:
      y = y * wide(lax.rsqrt(running_var.value + self.eps))
    y = y if scale is None else y * wide(scale)
    y = y if bias is None else y + wide(bias)
    return y.astype(self.dtype)


def one_of(field: str, value: object, known: Collection[object]) -> None:
  """Raises ValueError unless `value` is in `known`; for the fields of modules."""
  if value not in known:
    raise ValueError(f'{field}={value!r} is none of {", ".join(map(repr, known))}')


def strided(module: nn.Module) -> nn.Module:
  """The network with its BatchNorm in strided groups of rows, where it has groups (see `BatchNorm`); the same one otherwise."""
  groups = {f.name for f in dataclasses.fields(module)} >= {'norm_groups', 'norm_strided'} and module.norm_groups > 1
  return module.clone(norm_strided=True) if groups else module
