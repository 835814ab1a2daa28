"""What every method must pass. A method's test inherits Battery and supplies a tiny instance:

class TestSimCLR(Battery):
  def make(self): return SimCLR(...)
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sslax.method import Facts, settled
from sslax.models import net
from sslax.ops import fsdp as fsdp_rule
from sslax.run.checkpoint import Checkpointer, state_hash
from sslax.run.sharding import state_sharding
from sslax.step import init_state, jit_step

SEED = 3


def tiny_batch(rows=16, size=16, seed=0):
  """Real-looking images: smooth blobs, no two alike."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (rows, 4, 4, 3)).astype(np.float32)
  image = np.asarray(jax.image.resize(coarse, (rows, size, size, 3), 'linear')).clip(0, 255).astype(np.uint8)
  return {'image': image, 'label': rng.integers(0, 4, rows).astype(np.int32), 'index': np.arange(rows, dtype=np.int32)}


def mesh_of(devices, fsdp=1):
  axes = dict(axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:devices])
  return jax.make_mesh((devices // fsdp, fsdp), ('data', 'fsdp'), **axes)


class Trainer:
  """init and step of a method on some devices; `run` returns the state and the metrics of each step.

  fsdp: devices that the weights are split over.
  microbatches: pieces that the networks run in.
  """

  def __init__(self, method, devices=1, batch=None, fsdp=1, microbatches=1):
    batch = tiny_batch() if batch is None else batch
    rows, classes = len(batch['index']), 1 + int(max(batch['label'], default=0))
    self.method = settled(method, Facts(rows, 100, 10.0, 10 * rows, classes))
    self.mesh = mesh_of(devices, fsdp)
    self.tx = optax.chain(optax.clip_by_global_norm(10.0), optax.sgd(0.05, momentum=0.9))
    self.rows, self.state = NamedSharding(self.mesh, P(('data', 'fsdp'))), NamedSharding(self.mesh, P())
    self.batch = self.place(batch)
    init = functools.partial(init_state, self.method, self.tx, SEED)
    if fsdp > 1:
      abstract = jax.eval_shape(init, self.batch)
      self.state = state_sharding(self.mesh, abstract, net.groups(self.method.modules, abstract.params))
    self.init = jax.jit(init, out_shardings=self.state)
    self.step = jit_step(self.method, self.tx, SEED, self.state, self.rows, microbatches)

  def place(self, batch):
    return jax.device_put(batch, self.rows)

  def put(self, state):
    """A copy of a state on these devices: the step donates it."""
    return jax.device_put(jax.tree.map(np.asarray, state), self.state)

  def run(self, steps, state=None, batches=None):
    state = self.init(self.batch) if state is None else state
    history = []
    for i in range(steps):
      state, metrics = self.step(state, self.batch if batches is None else self.place(batches[i]))
      history.append({k: float(v) for k, v in metrics.items()})
    return state, history


def first_views(method):
  """What the loss sees at step 0 of a Trainer."""
  views_rng, _ = jax.random.split(jax.random.fold_in(jax.random.key(SEED), 0))
  return jax.jit(method.views)(views_rng, tiny_batch())


class ShortBattery:
  """The first three checks, which share a run, and the slow last one: for variants of a method that has passed all eight."""

  rows = 16  # images in a batch
  frozen = ()  # parts of memory that do not move on purpose: a frozen teacher
  tolerance = 2e-4  # of parameters after 3 steps on 8 devices against 1: sums in another order

  def make(self):
    raise TypeError('a Battery needs make() -> Method')

  def batch(self, seed=0):
    """What the method learns from; one that needs more than images and labels adds it here."""
    return tiny_batch(self.rows, seed=seed)

  @pytest.fixture(scope='class')
  @classmethod
  def trainer(cls):
    return Trainer(cls().make(), batch=cls().batch())

  @pytest.fixture(scope='class')
  @classmethod
  def trained(cls, trainer):
    first = jax.tree.map(np.asarray, trainer.init(trainer.batch))
    state, history = trainer.run(3)
    return first, jax.tree.map(np.asarray, state), history

  def test_1_compiles_once_and_keeps_its_structure(self, trainer, trained):
    first, last, history = trained
    assert trainer.step._cache_size() == 1, 'the step compiled more than once'
    assert jax.tree.structure(first) == jax.tree.structure(last)
    assert [(a.shape, a.dtype) for a in jax.tree.leaves(first)] == [(a.shape, a.dtype) for a in jax.tree.leaves(last)]
    assert all(np.isfinite(list(m.values())).all() and m['finite'] for m in history)
    assert 'encoder' in first.params

  def test_2_every_parameter_moves(self, trained):
    first, last, _ = trained
    assert still(first.params, last.params) == []

  def test_3_every_leaf_of_memory_moves(self, trained):
    first, last, _ = trained
    prefixes = tuple(f"['{name}']" for name in self.frozen)
    stuck = still(first.memory, last.memory)
    assert [path for path in stuck if not path.startswith(prefixes or '-')] == []
    assert all(any(path.startswith(prefix) for path in stuck) for prefix in prefixes), 'declared frozen, but it moves'

  def make_without_batchnorm(self):
    """For check 8; None where the method cannot do without."""
    return None

  @pytest.mark.slow
  def test_8_eight_devices_or_microbatches_and_split_weights_are_one_device(self, monkeypatch):
    """Loss and parameters after four steps; pytest -s shows by how much they differ."""
    monkeypatch.setattr(fsdp_rule, 'MIN_SHARDED_SIZE', 64)  # or these networks would not be split at all
    method, batch = self.make_without_batchnorm(), self.batch()
    if method is None:
      return  # said by make_without_batchnorm
    one, eight = Trainer(method, 1, batch), Trainer(method, 8, batch)
    split = Trainer(method, 2, batch, fsdp=2, microbatches=4)
    start = jax.tree.map(np.asarray, one.init(one.batch))
    state, history = one.run(4, one.put(start))
    differ = []
    for other in (eight, split):
      theirs, metrics = other.run(4, other.put(start))
      ours = np.concatenate([np.ravel(x) for x in jax.tree.leaves(state.params)])
      theirs = np.concatenate([np.ravel(x) for x in jax.tree.leaves(theirs.params)])
      losses = [np.array([m['loss'] for m in h]) for h in (history, metrics)]
      differ += [np.max(np.abs(losses[1] - losses[0]) / np.abs(losses[0])), np.max(np.abs(theirs - ours))]
      np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5, atol=1e-6)  # a cosine may be near 0
      np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)
    leaves = jax.tree.leaves(split.state)
    assert any('fsdp' in sharding.spec for sharding in leaves), 'nothing was split'
    print(f'\n| {type(self).__name__[4:]} | ' + ' | '.join(f'{x:.1e}' for x in differ) + ' |')


class Battery(ShortBattery):
  """Eight checks; `make` is the only thing that a subclass must supply."""

  def test_4_save_restore_continue_is_bit_equal(self, trainer, tmp_path):
    batches = [self.batch(seed=i) for i in range(4)]
    straight, history = trainer.run(4, batches=batches)
    half, _ = trainer.run(2, batches=batches[:2])
    checkpointer = Checkpointer(tmp_path, every_steps=1, keep=1, meta={})
    checkpointer.save(2, half, wait=True)
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), half)
    del half
    restored, step = checkpointer.restore(abstract)
    checkpointer.close()
    resumed, tail = trainer.run(2, restored, batches[2:])
    assert step == 2 and int(resumed.step) == 4
    assert tail == history[2:]
    assert state_hash(resumed) == state_hash(straight)

  @pytest.mark.slow
  def test_5_eight_devices_are_one(self, trainer, trained):
    _, one, history = trained
    on_eight = Trainer(trainer.method, devices=8, batch=self.batch())
    eight, history8 = on_eight.run(3, on_eight.put(trainer.init(trainer.batch)))
    for a, b in zip(history, history8, strict=True):
      np.testing.assert_allclose(b['loss'], a['loss'], rtol=1e-5, atol=1e-6)  # a cosine may be near 0
    for path, a in jax.tree_util.tree_leaves_with_path(one.params):
      b = functools.reduce(lambda tree, key: tree[key.key], path, eight.params)
      np.testing.assert_allclose(np.asarray(b), a, rtol=self.tolerance, atol=self.tolerance, err_msg=jax.tree_util.keystr(path))

  def test_6_labels_do_not_leak(self, trainer, trained):
    batch = self.batch()
    batch['label'] = np.roll(batch['label'], 1)  # another partition, not only other names
    permuted, _ = trainer.run(3, batches=[batch] * 3)
    same = state_hash(permuted.params) == state_hash(jax.device_put(trained[1].params, trainer.state))
    assert same != trainer.method.uses_labels, (
      'labels changed the parameters' if not same else 'declared uses_labels, but labels change nothing'
    )

  def evaluation_batch(self, seed=0):
    """The arrays of a batch as `features` takes them."""
    batch, arrays = self.batch(seed), {}
    for value in self.make().inputs().values():
      arrays |= value.evaluated(batch)
    return arrays

  def test_7_features(self, trainer, trained):
    _, last, _ = trained
    features = jax.jit(trainer.method.features)
    batch = self.evaluation_batch()
    out = features(last.params, last.memory, batch)
    assert out.pooled.shape[0] == self.rows and out.pooled.ndim == 2 and out.pooled.dtype == jnp.float32
    assert np.isfinite(out.pooled).all()
    other = self.evaluation_batch(seed=1)  # batch statistics would change with the other rows
    mixed = {key: np.concatenate([x[:4], other[key][4:]]) for key, x in batch.items()}
    same = features(last.params, last.memory, mixed).pooled[:4]
    np.testing.assert_allclose(same, out.pooled[:4], rtol=1e-5, atol=1e-5, err_msg='rows depend on each other')
    assert np.ptp(np.asarray(out.pooled), axis=0).max() > 1e-3, 'all examples have the same features'


def still(first, last):
  """Paths of leaves that did not move at all."""
  pairs = zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(last), strict=True)
  return [jax.tree_util.keystr(path) for (path, a), b in pairs if np.array_equal(a, b)]
