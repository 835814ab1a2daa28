"""The colours of all pictures, and values as colours."""

import numpy as np
from PIL import Image

from sslax.io import extras

PALETTE = (
  '#0072B2',
  '#D55E00',
  '#009E73',
  '#CC79A7',
  '#E69F00',
  '#56B4E9',
  '#5C5C5C',
)  # Okabe and Ito 2008, no yellow: unseen on white
MARKERS = ('o', '^', 's')  # 7 colours x 3 marks: up to 21 classes that nobody has to tell apart by a shade
DASHES = ('-', '--', ':', '-.')
PAPER, INK, FAINT = (255, 255, 255), (31, 35, 40), (101, 109, 118)
SAME, OTHER = (26, 127, 55), (207, 34, 46)  # white text on either has a contrast above 5:1


def rgb(image: np.ndarray) -> np.ndarray:
  """[H, W, 3] in [0, 1] -> uint8; values outside are clipped."""
  return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def enlarged(image: np.ndarray, side: int) -> np.ndarray:
  """[h, w, 3] uint8 -> [side, side, 3], each pixel a square."""
  return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST))


def heat(values: np.ndarray, side: int) -> np.ndarray:
  """[h, w] -> [side, side, 3] uint8: dark to bright between the smallest and the largest value, each a square."""
  matplotlib = extras.need('matplotlib', 'eval')  # it costs a second: imported where it draws
  span = np.ptp(values)
  colours = matplotlib.colormaps['inferno']((values - values.min()) / (span if span > 0 else 1.0))
  return enlarged(rgb(colours[..., :3]), side)
