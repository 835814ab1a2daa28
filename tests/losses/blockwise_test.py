"""Losses in blocks: the values and gradients of the plain forms, on one device and on eight, in a fraction of the memory."""

import functools

import jax
import numpy as np
import pytest
from losses import corners

from sslax.losses import contrastive, image_text

LABEL = np.random.default_rng(2).integers(0, 9, 512)  # of 48 rows or fewer, some have no positive
QUEUE = np.float32(corners.unit(corners.pairs(50, seed=1)[0]))


def of_units(loss):
  return lambda a, b, *x, **options: loss(contrastive.unit(a), contrastive.unit(b), *x, **options)


# Arrays [N, D] twice and two learnt scalars, so that all have one shape.
LOSSES = {
  'nt_xent': lambda a, b, t, _, block: contrastive.nt_xent(a, b, t, block),
  'info_nce': lambda a, b, t, _, block: contrastive.info_nce(a, b, t, block),
  'queue': lambda a, b, t, _, block: contrastive.info_nce_queue(a, b, QUEUE, t, block),
  'supcon_out': lambda a, b, t, _, block: contrastive.supcon(a + b, LABEL[: len(a)], t, 'out', block),
  'supcon_in': lambda a, b, t, _, block: contrastive.supcon(a + b, LABEL[: len(a)], t, 'in', block),
  'clip': lambda a, b, t, _, block: of_units(image_text.clip)(a, b, 1 / t, block),
  'siglip': lambda a, b, t, bias, block: of_units(image_text.siglip)(a, b, 1 / t, bias, block),
}
SCALARS = np.float32(0.1), np.float32(-3.0)


@functools.cache
def compiled(name, block):
  return jax.jit(jax.value_and_grad(lambda *x: LOSSES[name](*x, block), (0, 1, 2, 3)))


def same(ours, plain, tolerance=1e-6):
  """(value, gradients) within `tolerance`, relative to the norm of each."""
  np.testing.assert_allclose(ours[0], plain[0], rtol=tolerance)
  for a, b in zip(ours[1], plain[1], strict=True):
    assert np.linalg.norm(np.asarray(a) - np.asarray(b)) <= tolerance * np.linalg.norm(b)


@pytest.mark.parametrize('rows, block', [(48, 16), (45, 16), (9, 64)], ids=['whole', 'ragged', 'one'])
@pytest.mark.parametrize('name', LOSSES)
def test_value_and_gradients_of_the_plain_form(name, rows, block):
  arrays = *corners.pairs(rows), *SCALARS
  same(compiled(name, block)(*arrays), compiled(name, 0)(*arrays))
