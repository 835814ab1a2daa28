"""ResNets from torchvision's names."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sslax.models.import_torch.fill import fill, kernel

PyTree = Any


def resnet(
  state: Mapping[str, np.ndarray],
  params: PyTree,
  stats: PyTree,
  *,
  prefix: str | tuple[str, ...] = (),
  ignore: tuple[str, ...] = ('fc.',),
) -> tuple[PyTree, PyTree]:
  """(params, stats) of a `ResNet` from torchvision's names.

  Args:
    state: name -> array; num_batches_tracked is left out.
    params, stats: what the module's init returns (arrays, or shapes under `jax.eval_shape`): structure, shapes, dtypes.
    prefix: cut from the front of names that begin with it, each of a tuple in turn: ('module.', 'backbone.').
    ignore: names that begin so, before or after the cut, are left out.

  Raises:
    UserError: a name that nothing needs, a parameter without a name, or another shape: all are listed.
  """
  leaf = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}

  def rule(path, take):
    module = '.'.join(path[:-1]).replace('_conv', '.0').replace('_bn', '.1').replace('_', '.')  # layer1_0/downsample_bn
    return kernel(path, take(f'{module}.{leaf[path[-1]]}'))

  state = {name: x for name, x in state.items() if not name.endswith('num_batches_tracked')}
  both = fill({'params': params, 'stats': stats}, state, rule, prefix, ignore)
  return both['params'], both['stats']
