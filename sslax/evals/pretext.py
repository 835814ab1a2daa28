"""A picture of the pretext task: images of a data set and the views that a method makes of them."""

import jax
import numpy as np
from PIL import Image

from sslax.data import decode, host, pipeline
from sslax.evals import visualisations
from sslax.method import Method


def sheet(method: Method, config, source, *, images: int = 8, seed: int = 0) -> Image.Image:
  """One row an image: the original, then its views as the loss sees them, with the normalisation undone.

  Args:
    config: the run's; `data.*` says who crops and from what.
    images: rows.
    seed: of the choice of images and of the views.
  """
  batches = iter(
    pipeline.train_batches(
      source, batch_size=images, seed=seed, image_size=config.data.image_size, crops=method.crops(), crop_on=config.data.crop_on,
      max_pixels=config.data.max_pixels, threads=1, cache=False,
    )
  )  # fmt: skip
  batch = next(batches)
  if hasattr(batches, 'close'):
    batches.close()
  batch.pop('wanted')
  views = jax.jit(method.views)(jax.random.key(seed), batch)
  views = [np.asarray(leaf) for leaf in jax.tree.leaves(views) if getattr(leaf, 'ndim', 0) == 5]
  if not views:  # a method whose views are no crops: show what it is given
    views = [np.asarray(batch['image'])[:, None] / 255.0]
  augment = getattr(method, 'augment', None)
  mean, std = getattr(augment, 'mean', (0.0,) * 3), getattr(augment, 'std', (1.0,) * 3)
  side = max(config.data.image_size, max(v.shape[2] for v in views))
  originals = [original(source, int(i), side, config.data.max_pixels) for i in batch['index']]
  labels = None
  if 'label' in batch:
    labels = [source.classes[k] if source.classes else str(k) for k in batch['label'].tolist()]
  return visualisations.views_sheet(np.stack(originals), views, mean, std, labels)


def original(source, index: int, side: int, max_pixels: int) -> np.ndarray:
  """[side, side, 3] uint8: record `index`, its central square."""
  return host.resize_center_crop(decode.decode(source[index]['image'], max_pixels=max_pixels), side, side)
