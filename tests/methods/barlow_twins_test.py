from methods import tiny
from methods.battery import Battery

from sslax.methods.barlow_twins import BarlowTwins


def tiny_barlow(**changes):
  fields = dict(encoder=tiny.resnet(), head=tiny.head(bias=False, final_bias=False), augment=tiny.ASYMMETRIC)
  return BarlowTwins(**{**fields, **changes})


class TestBarlowTwins(Battery):
  def make(self):
    return tiny_barlow()

  def make_without_batchnorm(self, microbatches=1):
    return tiny_barlow(encoder=tiny.vit(pool='mean'), head=tiny.head(norm='none', final_bias=False), microbatches=microbatches)
