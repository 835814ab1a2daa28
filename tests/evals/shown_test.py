"""What a method hands over to be looked at becomes cells of a sheet: images, or arrays as their input shows them."""

import dataclasses

import jax
import numpy as np
from inputs.media import Memory

from sslax.data import pipeline
from sslax.evals.shared import shown
from sslax.evals.views import views_sheet
from sslax.evals.visualisations import sheet
from sslax.inputs.clip import Clip
from sslax.inputs.image import Image
from sslax.method import Method


def test_images_and_arrays_of_an_input():
  inputs = {'image': Image(8), 'video': Clip(frames=3, stride=1, size=4)}
  grey = np.linspace(0, 1, 2 * 8 * 8 * 3, dtype=np.float32).reshape(2, 8, 8, 3)
  np.testing.assert_array_equal(shown(inputs, jax.numpy.asarray(grey)), np.round(255 * grey).astype(np.uint8))
  clips = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4, 3), dtype=np.uint8)
  strips = shown(inputs, {'clip': jax.numpy.asarray(clips)})
  np.testing.assert_array_equal(strips, [np.concatenate(list(clip), 1) for clip in clips])


@dataclasses.dataclass(frozen=True)
class Backwards(Method):
  """Shows clips from the last frame to the first, and how bright the first one is."""

  video: Clip

  def inputs(self):
    return {'video': self.video}

  def init(self, rng, views):
    raise AssertionError

  loss = features = init

  def view_pictures(self, views):
    clip = views['clip']
    return {'view 2': clip[:, 0] / 255, 'view 1': {'clip': clip[:, ::-1]}}


def test_views_that_are_no_images():
  frames = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8, 3), dtype=np.uint8)
  source, method = Memory([{'video': clip} for clip in frames]), Backwards(Clip(frames=3, stride=1, size=8))
  with pipeline.train_batches(source, method.inputs(), batch_size=2, seed=0) as batches:
    clips = frames[next(batches)['index']]
  strip = lambda clip: np.concatenate(list(clip), 1)
  cells = [[strip(clip), strip(clip[::-1]), clip[0]] for clip in clips]
  expected = sheet(cells, column_labels=['original', 'view 1', 'view 2'])
  np.testing.assert_array_equal(views_sheet(method, source, rows=2), expected)
