"""What the tests of the optimizers share: a small tree, its gradients, and a few steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sslax.method import Facts
from sslax.models import net
from sslax.models.vit import ViT
from sslax.ops import tree
from sslax.run.optim import Constant

STEPS = 6
FACTS = Facts(batch_size=256, total_steps=STEPS, steps_per_epoch=2, num_records=512, num_classes=10)
PLAIN = dict(learning_rate=1.0, scaling='none', schedule=Constant(), warmup='0')  # Sgd(**PLAIN): w <- w - g


def params(seed=0):
  """A tree like a small ResNet's: convolution, BatchNorm, dense with bias, and a kernel of zeros."""
  normal = np.random.default_rng(seed).standard_normal
  return {
    'encoder': {
      'conv1': {'kernel': normal((3, 3, 2, 4), np.float32)},
      'bn1': {'scale': normal(4, np.float32), 'bias': normal(4, np.float32)},
    },
    'head': {
      'dense0': {'kernel': normal((4, 5), np.float32), 'bias': normal(5, np.float32)},
      'zero': {'kernel': np.zeros((5, 2), np.float32)},
    },
  }


def gradients():
  """One for each step; the second kernel's is zero at the third, so that its norm is."""
  out = [params(seed) for seed in range(1, STEPS + 1)]
  for i, g in enumerate(out):
    g['head']['zero']['kernel'] = params(100 + i)['head']['dense0']['kernel'][:, :2].repeat(2, 0)[:5]
  out[2]['head']['dense0']['kernel'] = np.zeros((4, 5), np.float32)
  return out


def vit(scan=False, **changes):
  return ViT(width=16, depth=3, heads=2, patch=8, scan=scan, **changes)


def vit_shapes(scan=False, **changes):
  """{'encoder': a ViT's, 'head': a kernel's}; groups are `groups_of` it."""
  encoder, _ = jax.eval_shape(lambda: net.init(vit(scan, **changes), jax.random.key(0), jnp.zeros((1, 16, 16, 3))))
  return {'encoder': encoder, 'head': {'kernel': jax.ShapeDtypeStruct((16, 10), jnp.float32)}}


def groups_of(start):
  """A ViT's where there are blocks."""
  modules = {'encoder': vit()} if any('blocks' in path for path in tree.paths(start)) else {}
  return net.groups(modules, start)


def build(optimizer, start, **facts):
  """(the transformation, the learning rate); `facts` that differ."""
  shapes = jax.eval_shape(lambda: start)
  return optimizer.build(FACTS._replace(**facts), shapes, groups_of(shapes))


def run(optimizer, start, grads):
  """[the parameters after each step], jitted with the state donated, and the schedule."""
  tx, rate = build(optimizer, start)
  step = jax.jit(lambda w, state, g: update(tx, w, state, g), donate_argnums=(0, 1))
  w, state, out = jax.tree.map(jnp.array, start), jax.jit(tx.init)(start), []
  for g in grads:
    w, state = step(w, state, g)
    out.append(jax.tree.map(np.array, w))
  assert step._cache_size() == 1
  return out, rate


def update(tx, w, state, g):
  updates, state = tx.update(g, state, w)
  return optax.apply_updates(w, updates), state


def moves(optimizer, start=None, g=None):
  """{path: what one step of the optimizer takes off}."""
  start = start or params()
  g = g or jax.tree.map(np.zeros_like, start)
  after = by_path(run(optimizer, start, [g])[0][0])
  return {path: w - after[path] for path, w in by_path(start).items()}


def by_path(t):
  return dict(zip(tree.paths(t), map(np.float64, jax.tree.leaves(t)), strict=True))


def decayed(path):
  return path.rpartition('/')[2] == 'kernel'


def cosine(step, peak=1.0, end=0.0, total=STEPS):
  return end + (peak - end) * (1 + np.cos(np.pi * step / total)) / 2
