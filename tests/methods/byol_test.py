from methods import tiny
from methods.battery import Battery

from sslax.methods.byol import BYOL
from sslax.ops.schedules import Ramp


def tiny_byol(**changes):
  fields = dict(
    encoder=tiny.resnet(), head=tiny.head(), predictor=tiny.head(), augment=tiny.ASYMMETRIC, momentum=Ramp(0.9, 1.0, steps=10)
  )
  return BYOL(**{**fields, **changes})


class TestBYOL(Battery):
  def make(self):
    return tiny_byol()

  def make_without_batchnorm(self, microbatches=1):
    return tiny_byol(encoder=tiny.vit(), head=tiny.head(norm='none'), predictor=tiny.head(norm='none'), microbatches=microbatches)
