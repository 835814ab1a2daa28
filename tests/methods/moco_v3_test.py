import jax
import numpy as np
import pytest
from methods import tiny
from methods.battery import Battery, first_views

from sslax.methods.moco_v3 import MoCoV3
from sslax.models import branch
from sslax.ops.schedules import Ramp


def tiny_moco_v3(**changes):
  fields = dict(
    encoder=tiny.resnet(),
    head=tiny.head(bias=False, final_bias=False, final_norm='bn_no_affine'),
    predictor=tiny.head(),
    augment=tiny.ASYMMETRIC,
    momentum=Ramp(0.9, 1.0, steps=10),
  )
  return MoCoV3(**{**fields, **changes})


class TestMoCoV3(Battery):
  def make(self):
    return tiny_moco_v3()

  def make_without_batchnorm(self):
    return tiny_moco_v3(encoder=tiny.vit(), head=tiny.head(norm='none'), predictor=tiny.head(norm='none'))

  @pytest.mark.slow
  def test_loss_and_momentum_written_out(self, trainer):
    """2 T (ctr(q1, k2) + ctr(q2, k1)) in float64; the average moves with the momentum of the step about to start."""
    method, state = trainer.method, trainer.init(trainer.batch)
    first = jax.tree.map(np.asarray, state)
    state, metrics = trainer.step(state, trainer.batch)

    @jax.jit
    def outputs(views):
      q, _ = branch.apply_each(method.modules, first.params, first.memory['stats'], views, train=True)
      k, _ = branch.apply_each(method.target_modules, first.memory['target'], first.memory['target_stats'], views, train=True)
      return [out['predictor'] for out in q], [out['head'] for out in k]

    q, k = outputs(first_views(method))
    unit = lambda x: np.asarray(x, np.float64) / np.linalg.norm(x, axis=1, keepdims=True)
    T, loss = method.temperature, 0.0
    for a, b in ((0, 1), (1, 0)):
      logits = unit(q[a]) @ unit(k[b]).T / T
      loss += 2 * T * np.mean(np.log(np.exp(logits).sum(1)) - np.diag(logits))
    np.testing.assert_allclose(float(metrics['loss']), loss, rtol=1e-5)
    m = 1 - 0.1 * (1 + np.cos(np.pi * 1 / 10)) / 2
    old, new, target = (t['head']['dense0']['kernel'] for t in (first.memory['target'], state.params, state.memory['target']))
    np.testing.assert_allclose(target, m * old + (1 - m) * np.asarray(new), rtol=1e-5, atol=1e-7)
