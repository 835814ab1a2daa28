"""Names of topologies, and the devices behind them."""

import jax
import pytest
from run.trainer import TINY, run

from sslax.errors import UserError
from sslax.planning.target import GIB, out_of_memory, target
from sslax.planning.topology import CHIPS, parse


def test_names_of_topologies():
  assert parse('local') is None
  two = parse('2*v5e:4x4')
  assert (two.chip, two.shape, two.slices, two.chips) == ('v5e', (4, 4), 2, 32)
  assert two.libtpu == dict(topology_name='v5e:4x4', num_slices=2)
  assert parse('v6e:1x1').libtpu['chips_per_host_bounds'] == (1, 1, 1)  # Colab
  assert parse('v5p:2x2x2').chips == 8 and 'chips_per_host_bounds' not in parse('v5p:2x2x2').libtpu
  assert parse('v4:2x2x1').libtpu['chip_config_name'] == 'megacore'
  assert all(0 < chip.peak < 1e16 and chip.hbm >= 16 for chip in CHIPS.values())


@pytest.mark.parametrize(
  'name, hint', [('v5f:4x4', 'v5e:4x4'), ('v5e-4x4', 'v5e:4x4'), ('v5e:4x4x4', '2 dimensions'), ('v5p:2x2', 'v5p:2x2x'),
                 ('locale', 'local'), ('0*v5e:4x4', 'v5e:4x4'), ('v5e:0x4', 'v5e:'), ('', 'v5e'), ('2*v6f:4x4', 'v6e:4x4')],
)  # fmt: skip
def test_a_misspelt_topology_is_refused_with_what_is_near(name, hint):
  with pytest.raises(ValueError, match='topology|slice') as error:
    parse(name)
  assert hint in str(error.value), error.value


@pytest.mark.slow
def test_a_misspelt_topology_does_not_wait_for_jax():
  code, output = run('plan', f'--config={TINY}', '--topology=v5e:4x4,v5x:4x4')
  assert code == 2 and 'v5e:4x4' in output and 'Traceback' not in output, output
  code, output = run('plan', '--topology=local,v5e:4x4', f'--config={TINY}')
  assert code == 2 and 'local' in output, output


def test_without_the_compiler_for_tpus(monkeypatch):
  from jax.experimental import topologies

  def missing(*_, **__):
    raise RuntimeError('JAX TPU support not installed; cannot generate TPU topology.')

  monkeypatch.setattr(topologies, 'get_topology_desc', missing)
  for name in ('TPU_SKIP_MDS_QUERY', 'TPU_ACCELERATOR_TYPE', 'TPU_WORKER_HOSTNAMES', 'ALLOW_MULTIPLE_LIBTPU_LOAD'):
    monkeypatch.setenv(name, 'kept')
  with pytest.raises(UserError, match=r'pip install "jax\[tpu\]==' + jax.__version__):
    target(parse('v5e:4x4'))


@pytest.mark.parametrize(
  'message, numbers',
  [
    (
      'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (36.09G) exceeds '
      'available HBM (15.75G).',
      (36.09 * GIB, 15.75 * GIB),
    ),
    ('... the total memory required for HLO temporaries (8.00T) exceeds available HBM (512.00M).', (8 * 1024 * GIB, GIB / 2)),
    (
      'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 18.30G of 15.75G hbm. Exceeded hbm capacity by 2.55G.',
      (18.3 * GIB, 15.75 * GIB),
    ),
    ('INTERNAL: Mosaic failed to compile', None),
  ],
)
def test_running_out_of_memory_is_numbers(message, numbers):
  assert out_of_memory(message) == (numbers and tuple(round(n) for n in numbers))
