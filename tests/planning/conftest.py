"""The tiny step on the eight devices, compiled once."""

import pytest
from run.trainer import TINY

from sslax.planning.plan import plan
from sslax.planning.target import GIB, target
from sslax.spec import _module_of_file


@pytest.fixture(scope='package')
def config():
  return _module_of_file(str(TINY)).get_config()


@pytest.fixture(scope='package')
def here(config):
  """The tiny step on the eight devices, compiled once."""
  return plan(config, target(None, hbm=GIB), num_examples=1000)
