"""Optimizers with the conventions of the papers: learning rates that scale with the batch, and rules by parameter path.

An optimizer is a frozen dataclass that a config writes; `build` makes the optax transformation.

LARS keeps the learning rate inside the momentum, SGD and LARC outside. They agree while the rate is constant. When it changes,
the new rate of SGD acts on the whole velocity at once, that of LARS only on gradients to come: it coasts for some 1 / (1 - m)
steps.

Durations are written as 500 (steps), '500 steps', '10 epochs', '1000000 examples' or '5%' of the run. Rules are regexes that
`re.search` looks for in parameter paths such as 'encoder/blocks_0/fc1/kernel'.
"""

from sslax.run.optim.adam import Adam, AdamW
from sslax.run.optim.base import Descent, Optimizer
from sslax.run.optim.lars import Larc, Lars
from sslax.run.optim.partition import Partition
from sslax.run.optim.rules import EXCLUDE
from sslax.run.optim.schedule import Constant, Cosine, Multistep, Schedule
from sslax.run.optim.sgd import Sgd

__all__ = [
  'Adam',
  'AdamW',
  'Constant',
  'Cosine',
  'Descent',
  'EXCLUDE',
  'Larc',
  'Lars',
  'Multistep',
  'Optimizer',
  'Partition',
  'Schedule',
  'Sgd',
]
