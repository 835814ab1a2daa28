import jax
import numpy as np
from methods import tiny
from methods.battery import Battery, first_views

from sslax.methods.vicreg import VICReg
from sslax.models import branch


def tiny_vicreg(**changes):
  fields = dict(encoder=tiny.resnet(), head=tiny.head(bias=False, final_bias=False), augment=tiny.ASYMMETRIC)
  return VICReg(**{**fields, **changes})


class TestVICReg(Battery):
  def make(self):
    return tiny_vicreg()

  def make_without_batchnorm(self):
    return tiny_vicreg(encoder=tiny.vit(pool='mean'), head=tiny.head(norm='none', final_bias=False))

  def test_loss_written_out(self, trainer, trained):
    """Equations 1 to 6 in float64 on the views of the first step, and the terms among the metrics."""
    first, _, history = trained
    outs, _ = jax.jit(lambda v: branch.apply_each(trainer.method.modules, first.params, first.memory['stats'], v, train=True))(
      first_views(trainer.method)
    )
    z = [np.asarray(out['head'], np.float64) for out in outs]
    off = lambda x: np.square(np.cov(x.T)[~np.eye(8, dtype=bool)]).sum() / 8
    variance = np.mean([np.maximum(0, 1 - np.sqrt(x.var(0, ddof=1) + 1e-4)).mean() for x in z])
    terms = {'invariance': np.square(z[0] - z[1]).mean(), 'variance': variance, 'covariance': off(z[0]) + off(z[1])}
    for name, term in terms.items():
      np.testing.assert_allclose(history[0][name], term, rtol=1e-4)
    loss = 25 * terms['invariance'] + 25 * terms['variance'] + terms['covariance']
    np.testing.assert_allclose(history[0]['loss'], loss, rtol=1e-4)
