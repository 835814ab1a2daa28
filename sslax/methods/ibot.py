"""iBOT. Zhou et al. 2022, https://arxiv.org/abs/2111.07832; code: bytedance/ibot, main_ibot.py. With DINOv2's objective."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.errors import UserError
from sslax.inputs.image import Image
from sslax.losses.distillation import cross_view, masked_patches, update_center, update_patch_center
from sslax.losses.spread import assignment_information, koleo
from sslax.method import Batch, Features, Output
from sslax.models import branch, net
from sslax.models.joint_embedding import FromViews
from sslax.models.prototypes import Prototypes
from sslax.models.transformer import steady
from sslax.models.vit import ViT
from sslax.ops.blocks import block_masks, random_counts
from sslax.ops.patches import cover, picture, sides
from sslax.ops.schedules import Ramp, at
from sslax.ops.sinkhorn import sinkhorn
from sslax.ops.tree import ema, scale_gradient
from sslax.ops.views import MultiCrop

PyTree = Any


@dataclasses.dataclass(frozen=True)
class IBOT(FromViews):
  """DINO on class tokens, and for masked patches the distribution over prototypes that the teacher gives to the unmasked patch.

  The student sees the large crops with a mask token in place of some patches (before positions are added), the small crops whole;
  the teacher sees the large crops whole, without drop path. It starts as a copy, moves after the optimizer, and is what
  `features` uses. L = class_weight DINO + patch_weight masked patches + koleo_weight (KoLeo of the student's class tokens, before
  the head, summed over the large crops). Heads run on masked patches only, as in DINOv2's code; iBOT's runs them on all.

  DINOv2 (Oquab et al. 2023, https://arxiv.org/abs/2304.07193; facebookresearch/dinov2, train/ssl_meta_arch.py) is targets=
  'sinkhorn', koleo_weight=0.1, a patch_head and patch_prototypes of their own, least_block=4, stratified=True.
  """

  encoder: ViT  # with a class token that is also pool
  head: nn.Module  # [N, D] -> [N, K], the bottleneck; without BatchNorm
  prototypes: Prototypes  # weight_norm=True
  augment: MultiCrop
  patch_head: nn.Module | None = None  # of the patches; left out: the same as of the class tokens
  patch_prototypes: Prototypes | None = None  # likewise
  student_temperature: float = 0.1
  teacher_temperature: float | Ramp = 0.04
  patch_temperature: float | Ramp = 0.04  # of the teacher's patches
  momentum: float | Ramp = Ramp(0.996, 1.0)
  center_momentum: float = 0.9
  patch_center_momentum: float = 0.9
  targets: str = 'center'  # 'sinkhorn' over the class tokens, and over the masked patches, of all large crops together
  class_weight: float = 1.0
  patch_weight: float = 1.0
  koleo_weight: float = 0.0
  mask_ratio: tuple[float, float] = (0.1, 0.5)  # of a masked crop's patches
  mask_prob: float = 0.5  # that a crop is masked
  least_block: int = 0  # area of the smallest rectangle in patches; 0: iBOT's (side // 3)^2
  stratified: bool = False  # see ops.blocks.random_counts
  train_prototypes: Ramp = Ramp(0.0, 1.0, 'step', '1 epochs')  # no gradient into the last layers until then
  image: Image = Image()

  def __post_init__(self) -> None:
    if self.augment.large.count < 2:
      raise ValueError(f'the teacher needs two large crops: augment.large.count is {self.augment.large.count}')
    if self.targets not in ('center', 'sinkhorn'):
      raise ValueError(f"targets={self.targets!r} is neither 'center' nor 'sinkhorn'")
    if self.encoder.pool != 'cls':
      raise ValueError("iBOT's encoder has a class token: pool='cls'")
    if not 0 <= self.mask_ratio[0] <= self.mask_ratio[1] <= 1 or not 0 < self.mask_prob <= 1 or not self.capacity:
      raise ValueError(f'mask_ratio={self.mask_ratio}, mask_prob={self.mask_prob} mask no patch of a grid {self.grid}')

  @property
  def grid(self) -> tuple[int, int]:
    """(H, W) of a large crop in patches."""
    down, right = sides(self.encoder.patch, 2)
    size = self.augment.crops()[0].size
    return size // down, size // right

  @property
  def capacity(self) -> int:
    """The most patches of a crop that can be masked."""
    return math.ceil(self.mask_ratio[1] * self.grid[0] * self.grid[1])

  @property
  def modules(self) -> dict[str, nn.Module]:
    return {'encoder': self.encoder, **self.heads[1], **self.heads[0]}

  @property
  def heads(self) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """(of the class tokens, of the patches), under the names of their parameters: patches may have none of their own."""
    shared = {'head': self.head, 'prototypes': self.prototypes}
    own = {'head': self.patch_head, 'prototypes': self.patch_prototypes}
    return shared, {f'patch_{name}' if module else name: module or shared[name] for name, module in own.items()}

  def views(self, rng: jax.Array, batch: Batch) -> PyTree:
    """(([B, G, S, S, 3] large, [B, L, s, s, 3] small), [B, G, H, W] bool, 1 = patch of a large crop that is masked)"""
    augment_rng, mask_rng = jax.random.split(rng)
    crops = self.augment(augment_rng, batch)
    B, G = crops[0].shape[:2]
    counts_rng, blocks_rng = jax.random.split(mask_rng)
    H, W = self.grid
    counts = random_counts(counts_rng, B * G, H * W, self.mask_ratio, self.mask_prob, self.stratified)
    masks = block_masks(blocks_rng, counts, self.grid, self.least_block or (min(H, W) // 3) ** 2)
    return crops, masks.reshape(B, G, H, W)

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    encoder_rng, class_rng, patch_rng = jax.random.split(rng, 3)
    images = branch.flatten_views(views[0][0])
    encoder, stats = net.init(self.encoder, encoder_rng, images)
    pooled = jnp.zeros((len(images), self.encoder.num_features))
    (of_class, class_stats), (of_patch, patch_stats) = (
      branch.init(modules, key, pooled) for modules, key in zip(self.heads, (class_rng, patch_rng), strict=True)
    )
    if jax.tree.leaves((stats, class_stats, patch_stats)):
      raise UserError("iBOT's heads see padding too, which BatchNorm would count: use heads with norm='none' or 'ln'")
    target = {'encoder': encoder, **of_patch, **of_class}  # what patches and class tokens share is of_class
    memory = {'target': jax.tree.map(jnp.copy, target)}
    if self.targets == 'center':
      memory['center'] = jnp.zeros(self.prototypes.count)
      memory['patch_center'] = jnp.zeros((self.patch_prototypes or self.prototypes).count)
    return {**target, 'mask_token': jnp.zeros(self.encoder.num_features)}, memory

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    crops, masks = views
    B, G = masks.shape[:2]
    masked = masks.reshape(B * G, -1)
    first = jnp.argsort(~masked, axis=1, stable=True)[:, : self.capacity]  # [N, M]: masked patches, then others as padding
    valid = jnp.take_along_axis(masked, first, 1)
    grow = at(self.train_prototypes, step)
    params = {name: scale_gradient(part, grow) if 'prototypes' in name else part for name, part in params.items()}

    def encode(vit, x, masked, train):
      return vit.encode(vit.embed(x, masked, params['mask_token']), train)

    options: dict[str, Any] = dict(train=True)
    large, encoder = branch.flatten_views(crops[0]), params['encoder']
    rngs = jax.random.split(rng, len(crops))
    s, _ = net.apply(self.encoder, encoder, {}, large, masked, rng=rngs[0], method=encode, **options)
    pooled = [s.pooled.reshape(B, G, -1)]
    for key, views in zip(rngs[1:], crops[1:], strict=True):
      out, _ = net.apply(self.encoder, encoder, {}, branch.flatten_views(views), rng=key, **options)
      pooled.append(out.pooled.reshape(*views.shape[:2], -1))
    t, _ = net.apply(steady(self.encoder), memory['target']['encoder'], {}, large, train=False, method='encode_images')
    # [V, B, K], [G, B, K], [N, M, K], [N, M, K]
    class_modules, patch_modules = self.heads
    student = _logits(class_modules, params, jnp.moveaxis(jnp.concatenate(pooled, 1), 1, 0))
    teacher = _logits(class_modules, memory['target'], jnp.moveaxis(t.pooled.reshape(B, G, -1), 1, 0))
    student_patch, teacher_patch = (
      _logits(patch_modules, p, jnp.take_along_axis(out.tokens[:, 1:], first[..., None], 1))
      for p, out in ((params, s), (memory['target'], t))
    )

    temperature, patch_temperature = at(self.teacher_temperature, step), at(self.patch_temperature, step)
    if self.targets == 'sinkhorn':
      target = sinkhorn(teacher.reshape(G * B, -1), temperature).reshape(teacher.shape)
      rows = teacher_patch.reshape(-1, teacher_patch.shape[-1])
      target_patch = sinkhorn(rows, patch_temperature, valid=valid.reshape(-1)).reshape(teacher_patch.shape)
    else:
      target = jax.nn.softmax((teacher - memory['center'][None, None]) / temperature)
      target_patch = jax.nn.softmax((teacher_patch - memory['patch_center'][None, None]) / patch_temperature)
      memory = {  # ORDER MATTERS: the targets have the old centres
        **memory,
        'center': update_center(memory['center'], teacher, self.center_momentum),
        'patch_center': update_patch_center(memory['patch_center'], teacher_patch, valid, self.patch_center_momentum),
      }
    metrics = {
      'class_loss': cross_view(target, jax.nn.log_softmax(student / self.student_temperature)),
      'patch_loss': masked_patches(target_patch, jax.nn.log_softmax(student_patch / self.student_temperature), valid),
    }
    loss = self.class_weight * metrics['class_loss'] + self.patch_weight * metrics['patch_loss']
    if self.koleo_weight:
      metrics['koleo'] = sum((koleo(pooled[0][:, g]) for g in range(G)), start=jnp.float32(0))
      loss += self.koleo_weight * metrics['koleo']
    metrics |= {'assignment_information': assignment_information(target[0]), 'masked': masked.mean()}
    return loss, Output(memory, metrics)

  def after(self, params: PyTree, memory: PyTree, step: jax.Array) -> tuple[PyTree, PyTree]:
    online = {name: params[name] for name in memory['target']}
    return params, {**memory, 'target': ema(memory['target'], online, at(self.momentum, step))}

  def features(self, params: PyTree, memory: PyTree, batch: Batch) -> Features:
    del params
    return net.apply(steady(self.encoder), memory['target']['encoder'], {}, self.normalized(batch), train=False)[0]

  def pictures(self, params: PyTree, memory: PyTree, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
    """The first large crop, and what the student sees of it: masked patches are grey."""
    del params, memory
    crops, masks = self.views(rng, batch)
    crop = picture(crops[0][:, 0], self.augment.mean, self.augment.std)
    return {'crop': crop, 'masked': cover(crop, masks[:, 0].reshape(len(crop), -1), self.encoder.patch)}


def _logits(modules, params, x):
  """[A, N, D] -> [A, N, K]: through a head and its prototypes."""
  outs, _ = branch.apply(modules, params, dict.fromkeys(modules, {}), x.reshape(-1, x.shape[-1]), train=True, whole=True)
  return list(outs.values())[-1].scores.reshape(*x.shape[:2], -1)
