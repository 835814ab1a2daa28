"""CLIP, Radford et al. 2021, https://arxiv.org/abs/2103.00020, and LiT, Zhai et al. 2021, https://arxiv.org/abs/2111.07991.

Official code of CLIP's networks: openai/CLIP; the training follows mlfoundations/open_clip. LiT: google-research/big_vision.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.inputs.image import Image
from sslax.inputs.text import Text
from sslax.losses.image_text import clip, matching_accuracy
from sslax.method import Output
from sslax.models.mlp import Identity
from sslax.models.two_towers import TwoTowers
from sslax.ops.views import RandomViews

PyTree = Any


@dataclasses.dataclass(frozen=True)
class CLIP(TwoTowers):
  """An image and its caption attract each other and repel all other captions and images of the batch (a softmax both ways).

  The temperature is learnt: scale = exp(logit_scale) starts at 1 / temperature and stays in [1, max_scale], held there after each
  step as open_clip does (the paper says at most 100).

  `freeze_image` makes it LiT: the image tower comes from elsewhere, stays in evaluation mode and gets no gradient; its head,
  where there is one, and the text tower learn. Weight decay would still shrink it: set config.optim.freeze='^encoder/', which
  also saves its optimizer state.

    config.graft = ('encoder=runs/simclr',)
  """

  encoder: nn.Module  # [N, H, W, 3] -> Features
  text: nn.Module  # ids [N, L] -> Features
  augment: RandomViews  # one view of each image
  head: nn.Module = Identity()  # [N, D] -> [N, E]; a linear projection in CLIP's ViTs, none in its ResNets
  text_head: nn.Module = Identity()  # [N, W] -> [N, E]
  temperature: float = 0.07  # at first
  max_scale: float = 100.0  # 0: no bounds (LiT)
  freeze_image: bool = False
  image: Image = Image()
  caption: Text = Text()

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.temperature <= 0:
      raise ValueError(f'temperature must be positive, not {self.temperature}')
    if self.max_scale and not 1 <= 1 / self.temperature <= self.max_scale:
      raise ValueError(f'1 / temperature = {1 / self.temperature:.3g} must be between 1 and max_scale={self.max_scale}')

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    params, stats = self.init_towers(rng, views)
    return {**params, 'logit_scale': jnp.float32(-math.log(self.temperature))}, {'stats': stats}

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    del step
    image, text, stats = self.embed(params, memory['stats'], views, rng)
    scale = jnp.exp(params['logit_scale'])
    return clip(image, text, scale), Output({'stats': stats}, {'scale': scale, **matching_accuracy(image, text)})

  def after(self, params: PyTree, memory: PyTree, step: jax.Array) -> tuple[PyTree, PyTree]:
    del step
    if not self.max_scale:
      return params, memory
    return {**params, 'logit_scale': jnp.clip(params['logit_scale'], 0.0, math.log(self.max_scale))}, memory
