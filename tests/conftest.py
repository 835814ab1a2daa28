"""Eight fake devices, quick compilation, strict JAX: set before anything imports jax."""

import os
import pathlib
import platform
import sys

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = ' '.join(
  ['--xla_force_host_platform_device_count=8', '--xla_backend_optimization_level=0']
  # SSE4_2, AVX or AVX2: what a processor of that kind computes
  + [f'--xla_cpu_max_isa={isa}' for isa in os.environ.get('SSLAX_TEST_ISA', '').split()]
)
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import absl.flags
import jax
import pytest

ISA = os.environ.get('SSLAX_TEST_ISA', '')
CACHE = pathlib.Path(
  os.environ.get(
    'SSLAX_TEST_CACHE',
    pathlib.Path(__file__).parent / '.cache' / f'jax-{jax.__version__}-{platform.machine()}{ISA and "-" + ISA}',
  )
)
jax.config.update('jax_compilation_cache_dir', str(CACHE))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
jax.config.update('jax_numpy_rank_promotion', 'raise')

if not absl.flags.FLAGS.is_parsed():  # Grain's workers ask for parsed flags
  absl.flags.FLAGS(sys.argv[:1])

ROOT = pathlib.Path(__file__).resolve().parents[1]


LONGEST = ('trainer_test', 'compare_test', 'evaluate_test', 'collapse_test', 'notebook_test', 'processes_test')


def pytest_collection_modifyitems(items):
  """The longest modules first, so that with `--dist loadscope` no process is left alone with one of them at the end."""
  names = [item.module.__name__.rpartition('.')[2] for item in items]
  order = sorted(range(len(items)), key=lambda i: (names[i] not in LONGEST, i))
  items[:] = [items[i] for i in order]


def _beside(name, variable):
  places = [pathlib.Path(os.environ[variable])] if variable in os.environ else [ROOT.parent / 'shared' / name]
  return next((p for p in places if p.is_dir()), None)


@pytest.fixture(scope='session')
def golden():
  """The folder of reference values (tests/golden holds copies)."""
  return pathlib.Path(__file__).parent / 'golden'


@pytest.fixture(scope='session')
def real_data():
  """The folder of real data sets, beside the project or in SSLAX_TEST_DATA."""
  path = _beside('data', 'SSLAX_TEST_DATA')
  if path is None:
    pytest.skip('no real data: put it in ../shared/data or set SSLAX_TEST_DATA')
  return path
