"""SigLIP. Zhai et al. 2023, https://arxiv.org/abs/2303.15343; official code: google-research/big_vision, siglip.py."""

import dataclasses
import math
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from sslax.losses.image_text import matching_accuracy, siglip
from sslax.method import Crop, Method, Output
from sslax.models import two_towers
from sslax.models.mlp import Identity
from sslax.ops.views import RandomViews


@dataclasses.dataclass(frozen=True)
class SigLIP(Method):
  """Every image is told from every caption of the batch by a sigmoid: its own says yes, all others no.

  scale = exp(logit_scale) and the bias are learnt, without bounds. `freeze_image` makes it SigLiT: see `CLIP`.
  """

  uses_text: ClassVar[bool] = True

  encoder: nn.Module  # [N, H, W, 3] -> {'pooled': [N, D]}
  text: nn.Module  # ids [N, L] -> {'pooled': [N, W]}
  augment: RandomViews  # one view of each image
  head: nn.Module = Identity()  # [N, D] -> [N, E]
  text_head: nn.Module = Identity()  # [N, W] -> [N, E]
  init_scale: float = 10.0
  init_bias: float = -10.0  # most pairs are negatives: table 4 of the paper without it
  freeze_image: bool = False
  microbatches: int = 1  # of both towers; see net.apply

  def __post_init__(self):
    if self.augment.count != 1:
      raise ValueError(f'each caption has one view of its image: augment.count must be 1, not {self.augment.count}')
    if self.init_scale <= 0:
      raise ValueError(f'init_scale must be positive, not {self.init_scale}')

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
    learnt = {'logit_scale': jnp.float32(math.log(self.init_scale)), 'logit_bias': jnp.float32(self.init_bias)}
    return {**params, **learnt}, {'stats': stats}

  def loss(self, params, memory, views, rng, step):
    del step
    options = dict(rng=rng, microbatches=self.microbatches, freeze_image=self.freeze_image)
    image, text, stats = two_towers.apply(self.towers, params, memory['stats'], views, **options)
    scale, bias = jnp.exp(params['logit_scale']), params['logit_bias']
    metrics = {'scale': scale, 'bias': bias, **matching_accuracy(image, text)}
    return siglip(image, text, scale, bias), Output({'stats': stats}, metrics)

  def features(self, params, memory, batch):
    """'pooled' [B, D] and 'embedding' [B, E] of batch['image'], 'text_embedding' [B, E] of batch['text']; unit rows."""
    image = self.augment.normalize(batch['image']) if 'image' in batch else None
    return two_towers.features(self.towers, params, memory['stats'], image, batch.get('text'))
