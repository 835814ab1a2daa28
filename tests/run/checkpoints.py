"""What the tests of checkpoints share. A file takes the fixtures that it needs by assigning them: `saved = checkpoints.saved`."""

import gc
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sslax.run.checkpoint import Checkpointer
from sslax.step import TrainState

# Orbax leaves coroutines behind when a read fails
QUIET = pytest.mark.filterwarnings('ignore::RuntimeWarning', 'ignore::pytest.PytestUnraisableExceptionWarning')


@pytest.fixture(autouse=True)
def collect_what_orbax_left_behind():
  yield
  gc.collect()


def make_state(seed=0):
  """Every kind of leaf and of container that a run has."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape, dtype=jnp.float32: jnp.asarray(rng.standard_normal(shape), dtype)
  params = {
    'encoder': {'w': normal(16, 24), 'half': normal(8, 8, dtype=jnp.bfloat16), 'none': {}},
    'head': (normal(8), normal(3)),
  }
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, mask={'encoder': True, 'head': False}))
  memory = {'target': {'w': normal(16, 24)}, 'bank': jnp.arange(64) + seed, 'flag': jnp.array(True), 'empty': jnp.zeros((0, 4))}
  return TrainState(jnp.array(seed, jnp.int32), params, memory, tx.init(params))


def abstract(state, sharding=None):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), state)


def small(step):
  return {'step': jnp.array(step, jnp.int32), 'x': jnp.full((4, 3), step, jnp.float32)}


def assert_bitwise(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert (x.shape, x.dtype) == (y.shape, y.dtype) and np.asarray(x).tobytes() == np.asarray(y).tobytes()


def files(folder):
  return sorted(p for p in Path(folder).rglob('*') if p.is_file())


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A workdir with steps 1 and 2; treat it as read only."""
  workdir = tmp_path_factory.mktemp('saved')
  with Checkpointer(workdir, every_steps=1, meta={'config': {'lr': 0.1}}) as c:
    c.save(1, make_state(1))
    c.save(2, make_state(2))
  return workdir


@pytest.fixture
def workdir(saved, tmp_path):
  shutil.copytree(saved, tmp_path / 'run')
  return tmp_path / 'run'
