import jax
import numpy as np
from methods import tiny
from methods.battery import Battery, first_views

from sslax.methods.nnclr import NNCLR
from sslax.models import branch
from sslax.ops.normalize import l2_normalize


def tiny_nnclr(**changes):
  fields = dict(
    encoder=tiny.resnet(), head=tiny.head(final_norm='bn'), predictor=tiny.head(), augment=tiny.ASYMMETRIC, queue_size=32
  )
  return NNCLR(**{**fields, **changes})


class TestNNCLR(Battery):
  def make(self):
    return tiny_nnclr()

  def make_without_batchnorm(self):
    return tiny_nnclr(encoder=tiny.vit(), head=tiny.head(norm='none'), predictor=tiny.head(norm='none'))

  def test_loss_and_queue_written_out(self, trainer):
    """Each projection is replaced by its nearest neighbour of the queue, which then takes the first view's projections."""
    method, state = trainer.method, trainer.init(trainer.batch)
    first = jax.tree.map(np.asarray, state)
    state, metrics = trainer.step(state, trainer.batch)
    outs, _ = jax.jit(lambda v: branch.apply_each(method.modules, first.params, first.memory['stats'], v, train=True))(
      first_views(method)
    )
    z, p = ([np.asarray(l2_normalize(out[name]), np.float64) for out in outs] for name in ('head', 'predictor'))
    loss = 0.0
    for a, b in ((0, 1), (1, 0)):
      neighbours = np.stack([max(first.memory['queue'], key=lambda row, x=x: row @ x) for x in z[a]])
      logits = neighbours @ p[b].T / method.temperature
      loss += np.mean(np.log(np.exp(logits).sum(1)) - np.diag(logits)) / 2
    np.testing.assert_allclose(float(metrics['loss']), loss, rtol=1e-4)
    np.testing.assert_allclose(state.memory['queue'][:16], z[0], rtol=1e-3, atol=1e-4)
