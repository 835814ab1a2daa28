"""What keeps the house in order, read from the source: short files, rooms that know no modality, no look behind the contract."""

import re

import pytest

from benchmarks import facts

LONGEST = 350  # lines of a file of code
# The names of old keys; a field of status.json; a scheme of URLs.
NAMED_SO = r"^sslax/run/legacy\.py|images_per_second|data:image/png|\{'image': \.\.\.,"


def test_no_file_is_longer_than_can_be_read():
  assert [(n, path) for n, path in facts.largest(10_000) if n > LONGEST] == []


def test_what_is_for_any_modality_does_not_say_image():
  assert [row for row in facts.found('image', *facts.ANY_MODALITY) if not re.search(NAMED_SO, row)] == []


def test_nobody_asks_a_method_for_more_than_the_contract():
  assert facts.found(r'\b(getattr|hasattr)\((self\.)?(method|inner|evaluation\.card\.method|card\.method)\b', 'sslax/') == []


@pytest.mark.parametrize('pattern, line', [(r'\bgetattr\(', 'sslax/spec.py'), ('"""How configs name things', 'sslax/spec.py:1:')])
def test_lines_are_found(pattern, line):
  assert any(row.startswith(line) for row in facts.found(pattern, 'sslax/spec.py'))
