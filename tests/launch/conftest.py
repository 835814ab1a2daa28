"""What the tests of launch/tpu share."""

import pytest
from launch.pod import Box


@pytest.fixture
def box(tmp_path):
  box = Box(tmp_path)
  yield box
  box.close()
