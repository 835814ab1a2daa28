from methods import tiny
from methods.battery import Battery

from sslax.methods.moco_v3 import MoCoV3
from sslax.ops.schedules import Ramp


def tiny_moco_v3(**changes):
  fields = dict(
    encoder=tiny.resnet(),
    head=tiny.head(bias=False, final_bias=False, final_norm='bn_no_affine'),
    predictor=tiny.head(),
    augment=tiny.ASYMMETRIC,
    momentum=Ramp(0.9, 1.0, steps=10),
  )
  return MoCoV3(**{**fields, **changes})


class TestMoCoV3(Battery):
  def make(self):
    return tiny_moco_v3()

  def make_without_batchnorm(self, microbatches=1):
    return tiny_moco_v3(
      encoder=tiny.vit(), head=tiny.head(norm='none'), predictor=tiny.head(norm='none'), microbatches=microbatches
    )
