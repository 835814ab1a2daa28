"""The parts that the tests of the joint-embedding methods build from."""

import dataclasses

from sslax.models.mlp import MLP
from sslax.models.resnet import ResNet
from sslax.models.vit import ViT
from sslax.ops.views import MultiCrop, RandomViews, TwoViews

# Crops and flips: compiling colours takes longer than all the rest of these networks. SimCLR's tests have the whole pipeline.
PAIR = RandomViews(size=16, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0)
ONE = dataclasses.replace(PAIR, count=1)
ASYMMETRIC = TwoViews(first=ONE, second=dataclasses.replace(ONE, solarize_prob=0.2))
CROPS = MultiCrop(large=ASYMMETRIC, small=dataclasses.replace(PAIR, size=8, area=(0.05, 0.4)))
GENTLE = RandomViews(size=16, area=(0.7, 1.0), jitter=(0.2, 0.2, 0.2, 0.05), gray_prob=0.0, blur_prob=0.0)


def resnet(**changes):
  fields = dict(depth=18, stem='cifar', stages=(1,), base=8, projection='group', zero_init_residual=False)
  return ResNet(**{**fields, **changes})


def vit(**changes):
  return ViT(**{**dict(width=16, depth=1, heads=2, patch=8), **changes})


def head(*features, **changes):
  return MLP(features=features or (16, 8), **changes)
