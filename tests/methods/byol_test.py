import jax
import numpy as np
import pytest
from methods import tiny
from methods.battery import Battery, Trainer, first_views

from sslax.methods.byol import BYOL
from sslax.models import branch
from sslax.ops.schedules import Ramp


def tiny_byol(**changes):
  fields = dict(
    encoder=tiny.resnet(), head=tiny.head(), predictor=tiny.head(), augment=tiny.ASYMMETRIC, momentum=Ramp(0.9, 1.0, steps=10)
  )
  return BYOL(**{**fields, **changes})


class TestBYOL(Battery):
  def make(self):
    return tiny_byol()

  def make_without_batchnorm(self):
    return tiny_byol(encoder=tiny.vit(), head=tiny.head(norm='none'), predictor=tiny.head(norm='none'))

  @pytest.mark.slow
  def test_loss_target_and_schedule_written_out(self, trainer):
    """Equation 2 both ways on the views of the first step; the target is another network and follows the updated parameters."""
    method, state = trainer.method, trainer.init(trainer.batch)
    first = jax.tree.map(np.asarray, state)
    assert not np.array_equal(first.params['head']['dense0']['kernel'], first.memory['target']['head']['dense0']['kernel'])
    state, metrics = trainer.step(state, trainer.batch)

    @jax.jit
    def outputs(views):
      p, _ = branch.apply_each(method.modules, first.params, first.memory['stats'], views, train=True)
      t, _ = branch.apply_each(method.target_modules, first.memory['target'], first.memory['target_stats'], views, train=True)
      return [out['predictor'] for out in p], [out['head'] for out in t]

    p, t = outputs(first_views(method))
    unit = lambda x: np.asarray(x, np.float64) / np.linalg.norm(x, axis=1, keepdims=True)
    loss = sum(np.square(unit(p[a]) - unit(t[b])).sum(1).mean() for a, b in ((0, 1), (1, 0)))
    np.testing.assert_allclose(float(metrics['loss']), loss, rtol=1e-5)
    kernels = [tree['head']['dense0']['kernel'] for tree in (first.memory['target'], state.params, state.memory['target'])]
    np.testing.assert_allclose(kernels[2], 0.9 * kernels[0] + 0.1 * np.asarray(kernels[1]), rtol=1e-5, atol=1e-7)
    assert 'predictor' not in state.memory['target']


@pytest.mark.slow
def test_without_predictor_it_has_no_parameters():
  state, _ = Trainer(tiny_byol(use_predictor=False)).run(1)
  assert set(state.params) == {'encoder', 'head'}
