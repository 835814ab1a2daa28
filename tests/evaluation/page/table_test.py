"""Tables line up, on any terminal, and numbers of a column agree."""

import numpy as np
import pytest

from sslax.errors import UserError
from sslax.evaluation import page
from sslax.evaluation.page import Table
from sslax.evaluation.page.table import cells_of


def test_text_table():
  table = Table(
    'Probes',
    ('probe', 'top-1', 'k'),
    [('5-NN', 0.5, 5), ('linear', np.float32(0.97349), None), ('raw', 1, 200)],
    'Higher is better.',
  )
  assert page.text_table(table) == (
    'Probes\n'
    '| probe  | top-1 |   k |\n'
    '|--------|-------|-----|\n'
    '| 5-NN   | 0.500 |   5 |\n'
    '| linear | 0.973 |   - |\n'
    '| raw    | 1.000 | 200 |\n'
    'Higher is better.'
  )


def test_text_table_is_ascii_and_aligned_whatever_the_cells():
  table = Table('été', ('a', 'b|c'), [('中文 \x1b[31m\n', '93.1 ± 0.2'), ('x|y', '5 ± 1'), ('', 'yes')])
  text = page.text_table(table)
  assert text.isascii() and '\x1b' not in text and '93.1 +- 0.2' in text and r'x\|y' in text
  title, *lines = text.splitlines()
  assert title == r'\xe9t\xe9' and len(lines) == 5 and len({len(line) for line in lines}) == 1
  assert page.text_table(Table('', ('a',), [])) == '| a   |\n|-----|'


@pytest.mark.parametrize(
  ('values', 'want'),
  [
    ([0.5, 0.12345], ['0.500', '0.123']),
    ([93.123, 5], ['93.12', '5.00']),
    ([1.0, 0.9312], ['1.000', '0.931']),
    ([12345.6, 99.0], ['12346', '99']),
    ([1e-5, 0.1], ['1e-05', '0.1']),
    ([0.05, 0.0123], ['0.0500', '0.0123']),
    ([3, 12_000], ['3', '12000']),
    ([float('nan'), 0.25], ['nan', '0.250']),
    ([0.0, None, True], ['0', '-', 'yes']),
  ],
)
def test_numbers_of_a_column_agree(values, want):
  assert [row[0] for row in cells_of(Table('', ('x',), [(v,) for v in values]))[1]] == want


def test_rows_of_other_lengths_are_refused():
  with pytest.raises(UserError, match="Table 't': row 1 has 1 cells for 2 columns"):
    page.text_table(Table('t', ('a', 'b'), [(1, 2), (1,)]))
