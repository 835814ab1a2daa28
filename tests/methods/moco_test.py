import re

import jax
import numpy as np
import pytest
from methods import tiny
from methods.battery import Battery, ShortBattery, Trainer, tiny_batch

from sslax.methods.moco import MoCo
from sslax.models import branch
from sslax.models.norm import BatchNorm
from sslax.ops.normalize import l2_normalize
from sslax.ops.schedules import Ramp


def tiny_moco(**changes):
  fields = dict(encoder=tiny.resnet(norm_groups=4), head=tiny.head(norm='none'), augment=tiny.PAIR, queue_size=32, momentum=0.9)
  return MoCo(**{**fields, **changes})


class TestMoCo(Battery):
  def make(self):
    return tiny_moco()

  def make_without_batchnorm(self):
    return tiny_moco(encoder=tiny.vit())

  def test_loss_and_queue_written_out(self, trainer):
    """Equation 1 in float64 on the real views of the first step; the keys of the target enter the queue, and nothing else."""
    method, state = trainer.method, trainer.init(trainer.batch)
    first = jax.tree.map(np.asarray, state)
    after, metrics = trainer.step(state, trainer.batch)
    views = jax.jit(method.views)(jax.random.split(jax.random.fold_in(jax.random.key(3), 0))[0], tiny_batch())

    @jax.jit
    def rows(views):
      q, _ = branch.apply(method.modules, first.params, first.memory['stats'], views[:, 0], train=True)
      k, _ = branch.apply(method.key_modules, first.memory['target'], first.memory['target_stats'], views[:, 1], train=True)
      return l2_normalize(q['head']), l2_normalize(k['head'])

    q, k = (np.asarray(x, np.float64) for x in rows(views))
    queue, T = first.memory['queue'].astype(np.float64), method.temperature
    losses = [-np.log(np.exp(a @ b / T) / (np.exp(a @ b / T) + np.exp(queue @ a / T).sum())) for a, b in zip(q, k, strict=True)]
    np.testing.assert_allclose(float(metrics['loss']), np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(after.memory['queue'][:16], k, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(after.memory['queue'][16:], first.memory['queue'][16:])
    assert int(after.memory['pointer']) == 16

  def test_target_is_the_average_of_the_parameters(self, trainer):
    state = trainer.init(trainer.batch)
    target = jax.tree.map(np.asarray, state.params)  # it starts as a copy
    for _ in range(2):
      state, _ = trainer.step(state, trainer.batch)
      target = jax.tree.map(lambda t, p: 0.9 * t + 0.1 * np.asarray(p), target, state.params)
    jax.tree.map(lambda t, m: np.testing.assert_allclose(np.asarray(m), t, rtol=1e-5, atol=1e-7), target, state.memory['target'])

  def test_keys_are_normalised_in_other_groups_than_queries(self, trainer):
    key, query = trainer.method.key_modules['encoder'], trainer.method.encoder
    assert (query.norm_groups, query.norm_strided) == (4, False) and (key.norm_groups, key.norm_strided) == (4, True)
    x = np.arange(16, dtype=np.float32)[:, None] ** 2
    rows = {s: np.asarray(BatchNorm(groups=4, strided=s).init_with_output(jax.random.key(0), x, True)[0]) for s in (False, True)}
    for i in range(4):  # contiguous: rows 4i ... 4i + 3 have mean 0; strided: rows i, i + 4, ...
      assert abs(rows[False][4 * i : 4 * i + 4].mean()) < 1e-5 < abs(rows[True][4 * i : 4 * i + 4].mean())
      assert abs(rows[True][i::4].mean()) < 1e-5 < abs(rows[False][i::4].mean())


@pytest.mark.slow
class TestMoCoSymmetric(ShortBattery):
  def make(self):
    return tiny_moco(symmetric=True, encoder=tiny.resnet(), queue_size=64, momentum=Ramp(0.9, 1.0, steps=10))


def collectives(compiled):
  """[(operation, largest operand's elements)] of a compiled step."""
  found = []
  for shape, operation in re.findall(
    r'= (.*?) (all-gather|all-to-all|collective-permute|all-reduce|reduce-scatter)(?:-start)?\(', compiled.as_text()
  ):
    sizes = [int(np.prod([int(n) for n in dims.split(',') if n])) for dims in re.findall(r'\w+\[([\d,]*)\]', shape)]
    found.append((operation, max(sizes)))
  return found


@pytest.mark.slow
def test_no_image_and_no_feature_map_moves_between_devices():
  """Shuffled BatchNorm on 8 devices: what moves are keys, statistics and gradients, never rows of pixels or of maps."""
  batch = tiny_batch(64)
  trainer = Trainer(tiny_moco(encoder=tiny.resnet(norm_groups=8), queue_size=64), devices=8, batch=batch)
  compiled = trainer.step.lower(trainer.init(trainer.batch), trainer.batch).compile()
  pixels, keys = 16 * 16 * 3, 64 * 8  # of one image; of all keys [B, K]
  largest_gradient = max(a.size for a in jax.tree.leaves(trainer.init(trainer.batch).params))
  moved = collectives(compiled)
  assert moved, 'on 8 devices something must be gathered: is this the step?'
  assert max(n for o, n in moved if o == 'all-gather') <= keys < pixels * 64 // 8
  assert [(o, n) for o, n in moved if o not in ('all-gather', 'all-reduce') and n > keys] == []
  assert max(n for o, n in moved if o == 'all-reduce') <= max(largest_gradient, 4096)


@pytest.mark.parametrize(
  'changes, word', [({'temperature': 0.0}, 'temperature'), ({'queue_size': 0}, 'queue_size'), ({'augment': tiny.ONE}, 'count')]
)
def test_impossible_values_are_refused(changes, word):
  with pytest.raises(ValueError, match=word):
    tiny_moco(**changes)


@pytest.mark.slow
def test_a_queue_that_the_batch_does_not_divide_is_refused():
  with pytest.raises(ValueError, match='queue of 40 rows'):
    Trainer(tiny_moco(queue_size=40)).run(1)
