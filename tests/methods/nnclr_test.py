from methods import tiny
from methods.battery import Battery

from sslax.methods.nnclr import NNCLR


def tiny_nnclr(**changes):
  fields = dict(
    encoder=tiny.resnet(), head=tiny.head(final_norm='bn'), predictor=tiny.head(), augment=tiny.ASYMMETRIC, queue_size=32
  )
  return NNCLR(**{**fields, **changes})


class TestNNCLR(Battery):
  def make(self):
    return tiny_nnclr()

  def make_without_batchnorm(self, microbatches=1):
    return tiny_nnclr(
      encoder=tiny.vit(), head=tiny.head(norm='none'), predictor=tiny.head(norm='none'), microbatches=microbatches
    )
