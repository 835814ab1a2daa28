import jax
import numpy as np
import pytest
from methods import tiny
from methods.battery import Battery, first_views

from sslax.methods.barlow_twins import BarlowTwins
from sslax.models import branch


def tiny_barlow(**changes):
  fields = dict(encoder=tiny.resnet(), head=tiny.head(bias=False, final_bias=False), augment=tiny.ASYMMETRIC)
  return BarlowTwins(**{**fields, **changes})


class TestBarlowTwins(Battery):
  def make(self):
    return tiny_barlow()

  def make_without_batchnorm(self):
    return tiny_barlow(encoder=tiny.vit(pool='mean'), head=tiny.head(norm='none', final_bias=False))

  @pytest.mark.slow
  def test_loss_written_out(self, trainer, trained):
    """Equations 1 and 2 in float64 on the views of the first step."""
    first, _, history = trained
    outs, _ = jax.jit(lambda v: branch.apply_each(trainer.method.modules, first.params, first.memory['stats'], v, train=True))(
      first_views(trainer.method)
    )
    z = [np.asarray(out['head'], np.float64) for out in outs]
    z = [(x - x.mean(0)) / x.std(0) for x in z]
    c, d = z[0].T @ z[1] / 16, np.eye(8, dtype=bool)
    np.testing.assert_allclose(
      history[0]['loss'], np.square(1 - c[d]).sum() + trainer.method.off_diagonal_weight * np.square(c[~d]).sum(), rtol=1e-3
    )
