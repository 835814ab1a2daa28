from methods import tiny
from methods.battery import Battery

from sslax.methods.dino import DINO
from sslax.models.prototypes import Prototypes
from sslax.ops.schedules import Ramp

NOW = Ramp(0.0, 1.0, 'step', steps=0)


def tiny_dino(**changes):
  fields = dict(
    encoder=tiny.vit(drop_path=0.1), head=tiny.head(norm='none', activation='gelu', kernel_init='trunc_normal_0.02'),
    prototypes=Prototypes(12, weight_norm=True, learn_scale=True), augment=tiny.CROPS, momentum=Ramp(0.9, 1.0, steps=10),
    teacher_temperature=Ramp(0.04, 0.07, 'linear', steps=5), train_prototypes=NOW,
  )  # fmt: skip
  return DINO(**{**fields, **changes})


class TestDINO(Battery):
  def make(self):
    return tiny_dino()

  def make_without_batchnorm(self, microbatches=1):
    return tiny_dino(encoder=tiny.vit(), microbatches=microbatches)


class TestDINOSinkhornResNet(Battery):
  def make(self):
    return tiny_dino(encoder=tiny.resnet(), targets='sinkhorn')
