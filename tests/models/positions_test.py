"""A table of positions of one's own, where a network takes the name of a known one."""

import dataclasses

import jax
import numpy as np
import pytest

from sslax.models import net, positions
from sslax.models.decoder import Decoder
from sslax.models.vit import ViT
from sslax.spec import build, spec

FIELDS = dict(width=16, depth=1, heads=2, patch=4)


@dataclasses.dataclass(frozen=True)
class Louder:
  """MAE's table, times something."""

  times: float = 1.0

  def __call__(self, grid, width):
    return self.times * positions.sincos(*grid, width, 'sincos_mae')


@pytest.mark.parametrize('network', [ViT, Decoder])
def test_a_table_of_ones_own(network):
  """It stands where the name of a known table stands, in a config, too; parameters are the same."""
  if network is ViT:
    inputs = (np.random.default_rng(0).random((2, 8, 12, 3), np.float32),)
  else:
    inputs = np.random.default_rng(0).random((2, 4, 16), np.float32), np.arange(6).reshape(1, 2, 3).repeat(2, 0)
  outs = []
  for table in ('sincos_mae', spec(Louder), spec(Louder, times=2.0)):
    model = build(spec(network, **FIELDS, positions=table))
    params, _ = net.init(model, jax.random.key(0), *inputs)
    out, _ = net.apply(model, params, {}, *inputs, train=False)
    outs.append(np.asarray(jax.tree.leaves(out)[0]))
  np.testing.assert_array_equal(outs[0], outs[1])
  assert np.abs(outs[0] - outs[2]).max() > 1e-2
  if network is ViT:
    assert 'cls_position' not in params and 'positions' not in params['patches']


def test_a_table_of_another_shape_is_refused():
  with pytest.raises(ValueError, match=r'gave \[2, 3\] for the grid \(2, 3\), and not \[2, 3, 16\]'):
    positions.table((2, 3), 16, lambda grid, width: np.zeros(grid))


@pytest.mark.parametrize('network', [ViT, Decoder])
def test_other_names_are_refused(network):
  with pytest.raises(ValueError, match="positions='sincos' is none of"):
    network(**FIELDS, positions='sincos')
