from methods import tiny
from methods.battery import Battery

from sslax.methods.simsiam import SimSiam


def tiny_simsiam(**changes):
  fields = dict(
    encoder=tiny.resnet(),
    head=tiny.head(final_norm='bn_no_affine', bias=False, final_bias=False),
    predictor=tiny.head(bias=False),
    augment=tiny.PAIR,
  )
  return SimSiam(**{**fields, **changes})


class TestSimSiam(Battery):
  def make(self):
    return tiny_simsiam()

  def make_without_batchnorm(self, microbatches=1):
    return tiny_simsiam(
      encoder=tiny.vit(), head=tiny.head(norm='none'), predictor=tiny.head(norm='none'), microbatches=microbatches
    )
