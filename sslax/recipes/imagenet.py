"""ImageNet, and the views that several papers share."""

from typing import Any, TypeAlias

import ml_collections

from sslax.inputs.image import Image
from sslax.ops.views import MultiCrop, RandomViews, TwoViews
from sslax.recipes.base import IMAGENET
from sslax.spec import spec

Config: TypeAlias = ml_collections.ConfigDict


def imagenet(config: Config, *, batch_size: int, epochs: float) -> None:
  """Data and length; its images are `photos`."""
  config.data.train, config.data.test = 'tfds:imagenet2012@train', 'tfds:imagenet2012@validation'
  config.batch_size, config.num_epochs = batch_size, epochs


def photos(**changes: Any) -> Config:
  """Crops are cut by the host from the full-size file; evaluation at 256 -> 224 pixels."""
  return spec(Image, **{**dict(crop_on='host', resize=256), **changes})


def byol_views(area: tuple[float, float] = (0.08, 1.0)) -> Config:
  """BYOL's two distributions (Grill et al. 2020, table 6), also of Barlow Twins, VICReg and MoCo v3."""
  fields = dict(count=1, area=area, jitter=(0.4, 0.4, 0.2, 0.1), **IMAGENET)
  return spec(
    TwoViews,
    first=spec(RandomViews, blur_prob=1.0, **fields),
    second=spec(RandomViews, blur_prob=0.1, solarize_prob=0.2, **fields),
  )


def dino_views(large: tuple[float, float], small: tuple[float, float], *, count: int = 8, size: int = 96) -> Config:
  """DINO's two crops of 224 pixels and `count` small ones, of which the recipes choose the areas; also iBOT's and DINOv2's."""
  fields = dict(jitter=(0.4, 0.4, 0.2, 0.1), **IMAGENET)
  first = spec(RandomViews, count=1, area=large, blur_prob=1.0, **fields)
  second = spec(RandomViews, count=1, area=large, blur_prob=0.1, solarize_prob=0.2, **fields)
  local = spec(RandomViews, count=count, size=size, area=small, blur_prob=0.5, blur_kernel=23, **fields)
  return spec(MultiCrop, large=spec(TwoViews, first=first, second=second), small=local)


def moco_v2_views(**changes: Any) -> Config:
  """MoCo v2's and SimSiam's two views."""
  return spec(RandomViews, **{**dict(area=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), **IMAGENET), **changes})
