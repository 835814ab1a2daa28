"""A small method with all that can be grafted, states of it, and runs that were saved."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sslax.inputs.image import Image
from sslax.method import Features, Method, Output
from sslax.ops import tree
from sslax.run import graft
from sslax.run.checkpoint import Checkpointer
from sslax.step import init_state


@dataclasses.dataclass(frozen=True)
class Toy(Method):
  """A linear encoder with running statistics, a head, and a frozen teacher where asked."""

  width: int = 8
  teacher: bool = False
  bare_teacher: bool = False  # without statistics
  frozen: bool = False  # the encoder comes from elsewhere
  uses_labels: bool = False
  label_classes: int = 10

  def inputs(self):
    return {'image': Image(8)}

  def grafts(self):
    encoder = ('params/encoder', 'memory/stats/encoder') if self.frozen else ()
    return encoder + (('memory/teacher', 'memory/teacher_stats') if self.teacher else ())

  def init(self, rng, views):
    del views

    def network(rng):
      a, b, c = jax.random.split(rng, 3)
      encoder = {'dense': {'kernel': jax.random.normal(a, (192, self.width)), 'bias': jax.random.normal(b, (self.width,))}}
      return {'encoder': encoder, 'head': {'kernel': jax.random.normal(c, (self.width, 4))}}

    one, two = jax.random.split(rng)
    stats = {'encoder': {'mean': jnp.zeros(self.width), 'count': jnp.zeros((), jnp.int32)}, 'head': {}}
    memory = {'stats': stats}
    if self.teacher:
      teacher_stats = {'encoder': {}, 'head': {}} if self.bare_teacher else jax.tree.map(jnp.copy, stats)
      memory |= {'teacher': network(two), 'teacher_stats': teacher_stats}
    return network(one), memory

  def loss(self, params, memory, views, rng, step):
    del rng, step
    x = views['image'].reshape(len(views['image']), -1) / 255.0
    h = x @ params['encoder']['dense']['kernel'] + params['encoder']['dense']['bias'][None]
    encoder = {'mean': memory['stats']['encoder']['mean'] + h.mean(0), 'count': memory['stats']['encoder']['count'] + 1}
    return jnp.mean((h @ params['head']['kernel']) ** 2), Output({**memory, 'stats': {'encoder': encoder, 'head': {}}}, {})

  def features(self, params, memory, batch):
    x = batch['image'].reshape(len(batch['image']), -1) / 255.0
    return Features(pooled=x @ params['encoder']['dense']['kernel'])


SGD = optax.sgd(0.1, 0.9)
BATCH = {'image': np.zeros((8, 8, 8, 3), np.uint8)}


def fresh(method, seed=0):
  return jax.jit(lambda: init_state(method, SGD, seed, BATCH))()


def save(workdir, *states, first=10):
  """Steps 10, 20, ..."""
  with Checkpointer(workdir, every_steps=1) as checkpointer:
    for i, state in enumerate(states):
      checkpointer.save(first * (i + 1), state, wait=True)
  return str(workdir)


def saved(workdir):
  """The workdir of a run with steps 10 and 20, and the states there."""
  states = [moved(fresh(Toy(), seed)) for seed in (1, 2)]
  return save(workdir, *states), [by_path(state) for state in states]


def moved(state):
  """Statistics that are not those of a fresh state."""
  rng = np.random.default_rng(0)
  return state._replace(
    memory=jax.tree.map(lambda x: jnp.asarray(np.float32(x) + rng.random(x.shape)).astype(x.dtype) + 1, state.memory)
  )


def by_path(state):
  return dict(zip(tree.paths(state), map(np.array, jax.tree.leaves(state)), strict=True))


def grafted(entries, method, state=None):
  """{path: values} of a fresh state after the graft, and the paths that it changed."""
  state = fresh(method) if state is None else state
  before, planned = by_path(state), graft.plan(entries, method, jax.eval_shape(lambda: state))
  after = by_path(graft.apply(planned, state))
  return after, sorted(path for path in after if not np.array_equal(after[path], before[path]))
