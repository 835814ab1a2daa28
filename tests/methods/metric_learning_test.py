from methods import tiny
from methods.battery import Battery

from sslax.methods.metric_learning import MetricLearning


def tiny_metric(**changes):
  return MetricLearning(**{**dict(encoder=tiny.resnet(), head=tiny.head(norm='none'), augment=tiny.PAIR), **changes})


class TestTriplet(Battery):
  def make(self):
    return tiny_metric()

  def make_without_batchnorm(self, microbatches=1):
    return tiny_metric(encoder=tiny.vit(), mining='all', microbatches=microbatches)


class TestMargin(Battery):
  def make(self):
    return tiny_metric(objective='margin', margin=1.0)
