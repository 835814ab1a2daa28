from methods import tiny
from methods.battery import Battery

from sslax.methods.swav import SwAV
from sslax.models.prototypes import Prototypes
from sslax.ops.schedules import Ramp

NOW = Ramp(0.0, 1.0, 'step', steps=0)


def tiny_swav(**changes):
  fields = dict(
    encoder=tiny.resnet(),
    head=tiny.head(),
    prototypes=Prototypes(12),
    augment=tiny.CROPS,
    queue_size=32,
    queue_from=NOW,
    train_prototypes=NOW,
  )
  return SwAV(**{**fields, **changes})


class TestSwAV(Battery):
  def make(self):
    return tiny_swav()

  def make_without_batchnorm(self, microbatches=1):
    return tiny_swav(encoder=tiny.vit(), head=tiny.head(norm='none'), microbatches=microbatches)
