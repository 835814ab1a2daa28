"""SwAV. Caron et al. 2020, https://arxiv.org/abs/2006.09882; official code: facebookresearch/swav, main_swav.py."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslax.inputs.image import Image
from sslax.losses.clustering import swapped_prediction
from sslax.losses.spread import assignment_information, embedding_std
from sslax.method import Output
from sslax.models import branch
from sslax.models.joint_embedding import JointEmbedding
from sslax.models.prototypes import Prototypes
from sslax.ops.ring import enqueue, random_units
from sslax.ops.schedules import Ramp, at
from sslax.ops.sinkhorn import sinkhorn
from sslax.ops.tree import scale_gradient
from sslax.ops.views import MultiCrop

PyTree = Any


@dataclasses.dataclass(frozen=True)
class SwAV(JointEmbedding):
  """Each view predicts which prototypes another view is assigned to; a balanced assignment (Sinkhorn-Knopp) of the batch.

  Only the large crops are assigned. Prototypes have unit length after every step, without gradient. For small batches a queue of
  the last projections of each large crop takes part in the assignment from `queue_from` on, once it has been filled.
  """

  encoder: nn.Module  # [N, H, W, 3] -> Features
  head: nn.Module  # [N, D] -> [N, K], with `num_features`
  prototypes: Prototypes
  augment: MultiCrop
  temperature: float = 0.1
  epsilon: float = 0.05  # of Sinkhorn; lower (0.03) where the loss stays at the logarithm of the number of prototypes
  iterations: int = 3
  queue_size: int = 0  # rows for each large crop, a multiple of the batch; 3840 in the official small-batch run; 0: none
  queue_from: Ramp = Ramp(0.0, 1.0, 'step', '15 epochs')
  train_prototypes: Ramp = Ramp(0.0, 1.0, 'step', '313 steps')  # no gradient into the prototypes until then
  image: Image = Image()

  def __post_init__(self) -> None:
    if self.temperature <= 0 or self.epsilon <= 0 or self.queue_size < 0:
      raise ValueError(f'temperature={self.temperature}, epsilon={self.epsilon}, queue_size={self.queue_size} must be positive')
    if self.augment.count < 2:
      raise ValueError('SwAV predicts one view from another: at least 2 crops')

  @property
  def modules(self) -> dict[str, nn.Module]:
    return {'encoder': self.encoder, 'head': self.head, 'prototypes': self.prototypes}

  def init(self, rng: jax.Array, views: PyTree) -> tuple[dict[str, PyTree], PyTree]:
    network_rng, queue_rng = jax.random.split(rng)
    params, stats = branch.init(self.modules, network_rng, branch.flatten_views(views[0]))
    memory = {'stats': stats}
    if self.queue_size:
      for a in range(self.augment.large.count):
        queue = random_units(jax.random.fold_in(queue_rng, a), self.queue_size, self.head.num_features)
        memory[f'queue_{a}'] = {'rows': queue, 'pointer': jnp.zeros((), jnp.int32)}
    return self._unit_prototypes(params), memory

  def loss(self, params: PyTree, memory: PyTree, views: PyTree, rng: jax.Array, step: jax.Array) -> tuple[jax.Array, Output]:
    prototypes = scale_gradient(params['prototypes'], at(self.train_prototypes, step))
    outs, stats = branch.apply_crops(
      self.modules,
      {**params, 'prototypes': prototypes},
      memory['stats'],
      views,
      train=True,
      rng=rng,
    )
    scores, z = jnp.unstack(outs['prototypes'].scores, axis=1), outs['prototypes'].unit
    kernel = jax.lax.stop_gradient(params['prototypes']['kernel'])
    memory, codes = {**memory, 'stats': stats}, []
    for a in range(self.augment.large.count):
      assigned = jax.lax.stop_gradient(scores[a])
      code = sinkhorn(assigned, self.epsilon, self.iterations)
      if self.queue_size:
        queue = memory[f'queue_{a}']
        # The official code starts an empty queue at `queue_from` and waits until it is full: what it holds then is the same.
        filled = (at(self.queue_from, step - self.queue_size // len(assigned)) > 0) & (step * len(assigned) >= self.queue_size)
        both = sinkhorn(jnp.concatenate([assigned, queue['rows'] @ kernel]), self.epsilon, self.iterations)
        code = jnp.where(filled, both[: len(assigned)], code)
        rows, pointer = enqueue(queue['rows'], queue['pointer'], z[:, a])
        memory[f'queue_{a}'] = {'rows': rows, 'pointer': pointer}
      codes.append(code)
    metrics = {
      'embedding_std': embedding_std(z[:, 0]),
      'assignment_information': assignment_information(jax.nn.softmax(scores[0] / self.temperature)),
    }
    return swapped_prediction(scores, codes, self.temperature), Output(memory, metrics)

  def after(self, params: PyTree, memory: PyTree, step: jax.Array) -> tuple[PyTree, PyTree]:
    del step
    return self._unit_prototypes(params), memory

  def _unit_prototypes(self, params):
    kernel = params['prototypes']['kernel']
    return {**params, 'prototypes': {'kernel': kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True)}}
