"""CLIP, Radford et al. 2021, https://arxiv.org/abs/2103.00020, and LiT, Zhai et al. 2021, https://arxiv.org/abs/2111.07991.

Official code of CLIP's networks: openai/CLIP; the training follows mlfoundations/open_clip. LiT: google-research/big_vision.
"""

import dataclasses
import math
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from sslax.losses.image_text import clip, matching_accuracy
from sslax.method import Crop, Method, Output
from sslax.models import two_towers
from sslax.models.mlp import Identity
from sslax.ops.views import RandomViews


@dataclasses.dataclass(frozen=True)
class CLIP(Method):
  """An image and its caption attract each other and repel all other captions and images of the batch (a softmax both ways).

  The temperature is learnt: scale = exp(logit_scale) starts at 1 / temperature and stays in [1, max_scale], held there after each
  step as open_clip does (the paper says at most 100).

  `freeze_image` makes it LiT: the image tower comes from elsewhere, stays in evaluation mode and gets no gradient; its head,
  where there is one, and the text tower learn. Weight decay would still shrink it: set config.optim.freeze='^encoder/', which
  also saves its optimizer state.

    config.graft = ('encoder=runs/simclr',)
  """

  uses_text: ClassVar[bool] = True

  encoder: nn.Module  # [N, H, W, 3] -> {'pooled': [N, D]}
  text: nn.Module  # ids [N, L] -> {'pooled': [N, W]}
  augment: RandomViews  # one view of each image
  head: nn.Module = Identity()  # [N, D] -> [N, E]; a linear projection in CLIP's ViTs, none in its ResNets
  text_head: nn.Module = Identity()  # [N, W] -> [N, E]
  temperature: float = 0.07  # at first
  max_scale: float = 100.0  # 0: no bounds (LiT)
  freeze_image: bool = False
  microbatches: int = 1  # of both towers; see net.apply

  def __post_init__(self):
    if self.augment.count != 1:
      raise ValueError(f'each caption has one view of its image: augment.count must be 1, not {self.augment.count}')
    if self.temperature <= 0:
      raise ValueError(f'temperature must be positive, not {self.temperature}')
    if self.max_scale and not 1 <= 1 / self.temperature <= self.max_scale:
      raise ValueError(f'1 / temperature = {1 / self.temperature:.3g} must be between 1 and max_scale={self.max_scale}')

  @property
  def towers(self) -> two_towers.Towers:
    return two_towers.towers(self.encoder, self.head, self.text, self.text_head)

  def grafts(self) -> tuple[str, ...]:
    """A frozen tower at random initialisation sees nothing."""
    return ('params/encoder', 'memory/stats/encoder') if self.freeze_image else ()

  def crops(self) -> tuple[Crop, ...]:
    return self.augment.crops()

  def views(self, rng, batch):
    """{'image': [B, 1, S, S, 3], 'text': [B, L] ids}"""
    return {'image': self.augment(rng, batch), **{key: batch[key] for key in ('text',) if key in batch}}

  def init(self, rng, views):
    params, stats = two_towers.init(self.towers, rng, views)
    return {**params, 'logit_scale': jnp.float32(-math.log(self.temperature))}, {'stats': stats}

  def loss(self, params, memory, views, rng, step):
    del step
    options = dict(rng=rng, microbatches=self.microbatches, freeze_image=self.freeze_image)
    image, text, stats = two_towers.apply(self.towers, params, memory['stats'], views, **options)
    scale = jnp.exp(params['logit_scale'])
    return clip(image, text, scale), Output({'stats': stats}, {'scale': scale, **matching_accuracy(image, text)})

  def after(self, params, memory, step):
    del step
    if not self.max_scale:
      return params, memory
    return {**params, 'logit_scale': jnp.clip(params['logit_scale'], 0.0, math.log(self.max_scale))}, memory

  def features(self, params, memory, batch):
    """'pooled' [B, D] and 'embedding' [B, E] of batch['image'], 'text_embedding' [B, E] of batch['text']; unit rows."""
    image = self.augment.normalize(batch['image']) if 'image' in batch else None
    return two_towers.features(self.towers, params, memory['stats'], image, batch.get('text'))
