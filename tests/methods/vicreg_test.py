from methods import tiny
from methods.battery import Battery

from sslax.methods.vicreg import VICReg


def tiny_vicreg(**changes):
  fields = dict(encoder=tiny.resnet(), head=tiny.head(bias=False, final_bias=False), augment=tiny.ASYMMETRIC)
  return VICReg(**{**fields, **changes})


class TestVICReg(Battery):
  def make(self):
    return tiny_vicreg()

  def make_without_batchnorm(self, microbatches=1):
    return tiny_vicreg(encoder=tiny.vit(pool='mean'), head=tiny.head(norm='none', final_bias=False), microbatches=microbatches)
