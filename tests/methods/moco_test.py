from methods import tiny
from methods.battery import Battery

from sslax.methods.moco import MoCo


def tiny_moco(**changes):
  fields = dict(encoder=tiny.resnet(norm_groups=4), head=tiny.head(norm='none'), augment=tiny.PAIR, queue_size=32, momentum=0.9)
  return MoCo(**{**fields, **changes})


class TestMoCo(Battery):
  def make(self):
    return tiny_moco()

  def make_without_batchnorm(self, microbatches=1):
    return tiny_moco(encoder=tiny.vit(), microbatches=microbatches)


class TestMoCoSymmetric(Battery):
  def make(self):
    return tiny_moco(symmetric=True, encoder=tiny.resnet(), queue_size=64)
