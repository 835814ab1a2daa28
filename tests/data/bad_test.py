import json

import numpy as np
import pytest

from sslax.data import bad
from sslax.errors import UserError
from sslax.inputs.image import Image

INPUTS = {'image': Image(4)}


class Toy:
  name, classes, num_classes = 'toy', (), 0

  def __init__(self, n, broken=()):
    self.n, self.broken = n, set(broken)

  def __len__(self):
    return self.n

  def __getitem__(self, i):
    return {'image': b'junk' if i in self.broken else np.zeros((4, 4, 3), np.uint8)}

  def where(self, i):
    return f'toy/{i}.png'


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_counts_each_record_once(tmp_path):
  path = tmp_path / 'run' / 'bad_records.jsonl'
  records = bad.BadRecords(Toy(10, [2, 3, 9]), path, 0.5, inputs=INPUTS)
  records.update(np.array([1, 5]), np.array([1, 5]))
  assert (records.count, records.draws) == (0, 0) and not path.exists()
  records.update(np.array([2, 3, 9, 5], np.int32), np.array([4, 4, 0, 5], np.int32))  # 2, 3 -> 4 and 9 -> 0
  records.update(np.array([9, 2]), np.array([0, 4]))
  assert (records.count, records.draws) == (3, 5)
  assert [(x['index'], x['where']) for x in lines(path)] == [(2, 'toy/2.png'), (3, 'toy/3.png'), (9, 'toy/9.png')]
  assert all('no JPEG' in x['reason'] and list(x) == ['index', 'where', 'reason'] for x in lines(path))


def test_what_can_be_read_again_says_so(tmp_path):
  records = bad.BadRecords(Toy(10), tmp_path / 'bad', 0.5, inputs=INPUTS)
  records.update([3], [4])
  assert lines(tmp_path / 'bad')[0]['reason'].startswith('can be read now')


def test_resumed_run_neither_forgets_nor_lists_twice(tmp_path):
  path, source = tmp_path / 'bad', Toy(10, [2, 3, 9])
  bad.BadRecords(source, path, 0.5, inputs=INPUTS).update([2], [4])
  again = bad.BadRecords(source, path, 0.5, inputs=INPUTS)
  assert again.count == 2
  again.update([3, 9], [4, 0])
  assert again.count == 3
  assert [x['index'] for x in lines(path)] == [2, 3, 9]


def test_killed_while_writing(tmp_path):
  path, source = tmp_path / 'bad', Toy(10, [2, 3, 9])
  bad.BadRecords(source, path, 0.5, inputs=INPUTS).update([2], [4])
  path.write_text(path.read_text()[:-8])  # half of the second line
  records = bad.BadRecords(source, path, 0.5, inputs=INPUTS)
  assert records.count == 1
  records.update([3], [4])
  assert bad.BadRecords(source, path, 0.5, inputs=INPUTS).count == 2
  path.write_text('\n[1]\n{"index": "x", "where": 1}\n{"index": 77, "where": "toy/77.png"}\n')
  assert bad.BadRecords(source, path, 0.5, inputs=INPUTS).count == 0


def test_list_of_other_data_is_not_ours(tmp_path):
  path = tmp_path / 'bad'
  path.write_text('{"index": 2, "where": "other/2.png", "reason": "x"}\n')
  assert bad.BadRecords(Toy(10), path, 0.5, inputs=INPUTS).count == 0


def test_limit(tmp_path):
  path = tmp_path / 'bad'
  source = Toy(100, [7, 50])
  records = bad.BadRecords(source, path, 0.01, inputs=INPUTS)
  records.update([7], [8])  # 1 of 100 is allowed
  with pytest.raises(UserError, match=rf'toy: 2 of 100 .*data.max_bad_fraction \(0.01\).*{path}.*raise data.max_bad_fraction'):
    records.update([50], [51])
  with pytest.raises(UserError, match='2 of 100'):  # a restart does not help
    bad.BadRecords(source, path, 0.01, inputs=INPUTS)
  assert bad.BadRecords(source, path, 0.02, inputs=INPUTS).count == 2  # a higher limit does
  assert bad.BadRecords(Toy(100, [7]), path, 0.01, inputs=INPUTS).count == 1  # and so does repairing one
  assert len(lines(path)) == 2


def test_the_reason_is_that_of_the_run(tmp_path):
  """An image above max_pixels is read without complaint by who does not know the limit."""
  records = bad.BadRecords(Toy(10), tmp_path / 'bad', 0.5, inputs={'image': Image(4, max_pixels=15)})
  records.update([3], [4])
  assert '4 x 4 pixels: expected 1 to 15' in lines(tmp_path / 'bad')[0]['reason']


def test_without_a_file():
  records = bad.BadRecords(Toy(100, [7]), None, 0, inputs=INPUTS)
  with pytest.raises(UserError, match=r'1 of 100 .*toy/7.png'):
    records.update([7], [8])
