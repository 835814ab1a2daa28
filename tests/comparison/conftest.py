"""What the tests of comparisons share."""

import functools

import pytest
from comparison.making import tiny_comparison


@pytest.fixture
def make(tmp_path):
  """`tiny_comparison` in a folder of this test."""
  return functools.partial(tiny_comparison, tmp_path / 'runs')
