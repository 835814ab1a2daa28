"""What the tests of pictures look at them with."""

import io

import numpy as np
from PIL import Image

RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 255, 0)


def plain(colour, height=8, width=8):
  return np.full((height, width, 3), colour, np.uint8)


def box(image, colour):
  """(x0, y0, x1, y1) of the pixels of exactly this colour; x1 and y1 are outside."""
  y, x = np.nonzero((np.asarray(image) == colour).all(-1))
  return (x.min(), y.min(), x.max() + 1, y.max() + 1) if len(x) else None


def opened(data):
  return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))
