"""What a config takes on TPUs that you do not have: python -m sslax.plan --config=configs/mae.py:imagenet --topology=v5e:4x4

Compiles the real step and runs nothing. Memory of a chip by kind, FLOPs, the most images/s that arithmetic allows, collectives;
when it does not fit, the first of microbatches, remat and FSDP that makes it fit. Needs `pip install 'jax[tpu]'`, and no TPU.

  --topology=v5e:4x4,v6e:4x4,2*v5e:4x4        one row each
  --topology=local                            the devices of this machine (default)
  --largest_batch                             and the largest batch that fits

Exit codes: 0 done, 2 user error; that a step does not fit is a result.
"""

import pathlib
import sys
from typing import Any

from absl import flags

from sslax.planning import topology
from sslax.run import cli


class Topologies(flags.ListParser):
  """A list of topologies; a name that is none is refused where it is read."""

  def parse(self, argument: Any) -> list[str]:
    names = super().parse(argument)
    for name in names:
      topology.parse(name)
    if 'local' in names and len(names) > 1:
      raise ValueError('local stands alone: what is compiled for a topology leaves the devices of this machine alone')
    return names


flags.DEFINE(
  Topologies(), 'topology', ['local'], 'v5e:4x4, v5p:2x2x2, 2*v5e:4x4 (two slices), v6e:1x1, local; several give a table.',
  serializer=flags.CsvListSerializer(','),
)  # fmt: skip
ADVISE = flags.DEFINE_bool('advise', True, 'When it does not fit, look for what makes it fit.')
LARGEST = flags.DEFINE_bool('largest_batch', False, 'Look for the largest batch that fits.')
TABLE = flags.DEFINE_bool('table', False, 'One row a topology, in Markdown.')
OPTIMIZE = flags.DEFINE_bool(
  'optimize', False, 'For TPUs: compile with all optimisations, as a training does. Some ten times slower, and what is said '
  'of memory is about the same.',
)  # fmt: skip
NUM_EXAMPLES = flags.DEFINE_integer('num_examples', 1_281_167, 'Size of the training set, which is not read.', lower_bound=1)
HBM = flags.DEFINE_float('hbm', 0.0, 'GiB of a device, instead of what it has.', lower_bound=0.0)
JSON = flags.DEFINE_string('json', '', 'Write the plans there.')


def main() -> None:
  names = flags.FLAGS.topology
  if 'local' in names:
    cli.start_jax()
  else:
    import jax

    # No chip of this machine is touched. The cache is off: what it stores for a topology, jax 0.10 cannot read again.
    jax.config.update('jax_platforms', 'cpu')
    if not OPTIMIZE.value:
      jax.config.update('jax_optimization_level', 'O1')  # the search for what fits into memory has its own level, which stays
  from sslax.planning.study import study

  study(
    flags.FLAGS.config,
    [topology.parse(name) for name in names],
    command=[word for word in sys.argv[1:] if word.startswith('--config')],
    num_examples=NUM_EXAMPLES.value,
    hbm=round(HBM.value * 2**30) or None,
    seek_advice=ADVISE.value,
    seek_largest=LARGEST.value,
    table=TABLE.value or len(names) > 1,
    out=pathlib.Path(JSON.value) if JSON.value else None,
  )


if __name__ == '__main__':
  cli.define_config()
  flags.declare_key_flag('config')  # so that --help shows it
  # Topologies first: reading the config imports jax, and a typo should not wait for that.
  sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: not word.startswith('--topology='))
  cli.run(main)
