"""SigLIP. Zhai et al. 2023, https://arxiv.org/abs/2303.15343; official code: google-research/big_vision, siglip.py."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.inputs.image import Image
from sslax.inputs.text import Text
from sslax.losses.image_text import matching_accuracy, siglip
from sslax.method import Output
from sslax.models.mlp import Identity
from sslax.models.two_towers import TwoTowers
from sslax.ops.views import RandomViews

PyTree = Any


@dataclasses.dataclass(frozen=True)
class SigLIP(TwoTowers):
  """Every image is told from every caption of the batch by a sigmoid: its own says yes, all others no.

  scale = exp(logit_scale) and the bias are learnt, without bounds. `freeze_image` makes it SigLiT: see `CLIP`.
  """

  encoder: nn.Module  # [N, H, W, 3] -> Features
  text: nn.Module  # ids [N, L] -> Features
  augment: RandomViews  # one view of each image
  head: nn.Module = Identity()  # [N, D] -> [N, E]
  text_head: nn.Module = Identity()  # [N, W] -> [N, E]
  init_scale: float = 10.0
  init_bias: float = -10.0  # most pairs are negatives: table 4 of the paper without it
  freeze_image: bool = False
  image: Image = Image()
  caption: Text = Text()

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.init_scale <= 0:
      raise ValueError(f'init_scale must be positive, not {self.init_scale}')

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    params, stats = self.init_towers(rng, views)
    learnt = {'logit_scale': jnp.float32(math.log(self.init_scale)), 'logit_bias': jnp.float32(self.init_bias)}
    return {**params, **learnt}, {'stats': stats}

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    del step
    image, text, stats = self.embed(params, memory['stats'], views, rng)
    scale, bias = jnp.exp(params['logit_scale']), params['logit_bias']
    metrics = {'scale': scale, 'bias': bias, **matching_accuracy(image, text)}
    return siglip(image, text, scale, bias), Output({'stats': stats}, metrics)
