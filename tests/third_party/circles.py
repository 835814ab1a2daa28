"""A third party's source in one file, outside the package: pictures of circles, whose class is how many there are.

open_source('tests/third_party/circles.py:Circles:1000?size=32@train[:10%]'), or the same as config.data.train.
"""

import numpy as np


class Circles:
  """`circles.py:Circles:N[?size=PIXELS]@train` or `@test`: N pictures of one, two or three circles, drawn when they are read."""

  def __init__(self, rest: str, split: str, *, size: str = '16'):
    if split not in ('', 'train', 'test'):
      raise ValueError(f'no split {split!r}: there are train and test')
    self._n, self._size, self._split = int(rest), int(size), split or 'train'
    self.classes, self.num_classes = ('one', 'two', 'three'), 3

  def __len__(self):
    return self._n

  def labels(self):
    return np.arange(self._n) % 3

  def read(self, i):
    rng = np.random.default_rng([i, self._split == 'test'])
    y, x = np.mgrid[: self._size, : self._size] / self._size
    image, circles = np.zeros((self._size, self._size, 3), np.uint8), []
    for _ in range(1 + i % 3):
      centre, radius = rng.uniform(0.2, 0.8, 2), rng.uniform(0.05, 0.2)
      circles.append([*centre, radius])
      image[np.hypot(y - centre[0], x - centre[1]) < radius] = rng.integers(128, 256, 3)
    image[0, 0] = i % 256, i // 256, 7  # so that a test knows it again
    return {'image': image, 'circles': circles, 'label': i % 3}

  def where(self, i):
    return f'circles {self._split} {i}'
