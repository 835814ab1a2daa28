from methods import tiny
from methods.battery import Battery

from sslax.methods.supcon import SupCon


def tiny_supcon(**changes):
  return SupCon(**{**dict(encoder=tiny.resnet(), head=tiny.head(norm='none'), augment=tiny.PAIR), **changes})


class TestSupCon(Battery):
  def make(self):
    return tiny_supcon()

  def make_without_batchnorm(self):
    return tiny_supcon(encoder=tiny.vit())
