"""arrayrecord: what `write_arrayrecord` writes comes back."""

import io

import numpy as np
import pytest
from data.containers import image
from PIL import Image

from sslax.data.arrayrecord import write_arrayrecord
from sslax.data.decode import decode
from sslax.data.sources import open_source
from sslax.errors import UserError


def test_arrayrecord_round_trip(tmp_path):
  records = [{'image': image(i), 'label': np.int64(i % 3), 'text': [f'é{i}', 'x']} for i in range(5)]
  assert write_arrayrecord(str(tmp_path / 'a.array_record'), records, num_classes=3) == 5
  source = open_source(f'arrayrecord:{tmp_path}/a.array_record')
  assert [source[i] for i in range(5)] == records and (source.num_classes, source.classes) == (3, ())
  assert source.where(4) == f'{tmp_path}/a.array_record record 4'
  digits = open_source('digits:@test[:20]')
  write_arrayrecord(str(tmp_path / 'b.array_record'), digits)
  source = open_source(f'arrayrecord:{tmp_path}/b.array_record')
  assert source.classes == digits.classes
  assert all(
    np.array_equal(decode(source[i]['image']), decode(digits[i]['image'])) and source[i]['label'] == digits[i]['label']
    for i in range(20)
  )
  both = open_source(f'arrayrecord:{tmp_path}/b.array_record,{tmp_path}/a.array_record')
  assert (
    both[20]['image'] == image(0)
    and both.where(20) == f'{tmp_path}/a.array_record record 0'
    and both.where(19).endswith('record 19')
  )


def test_arrayrecord_bare_images(tmp_path):
  from array_record.python.array_record_module import ArrayRecordWriter

  bmp = io.BytesIO()
  Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(bmp, 'BMP')
  bare = [image(0), bmp.getvalue(), image(2)]
  writer = ArrayRecordWriter(str(tmp_path / 'a.array_record'), 'group_size:1')
  for data in bare:
    writer.write(data)
  writer.close()
  source = open_source(f'arrayrecord:{tmp_path}/a.array_record')
  assert [source[i] for i in range(3)] == [{'image': data} for data in bare] and source.num_classes == 0
  writer = ArrayRecordWriter(str(tmp_path / 'b.array_record'), 'group_size:1')
  writer.write(b'something else')
  writer.close()
  with pytest.raises(UserError, match='neither an image'):
    open_source(f'arrayrecord:{tmp_path}/b.array_record')


def test_arrayrecord_writer_asks_for_classes(tmp_path):
  for records, more in (([{'image': image(0), 'label': 1}], {}), ([{'image': image(0), 'label': 3}], {'num_classes': 3})):
    with pytest.raises(ValueError, match='classes'):
      write_arrayrecord(str(tmp_path / 'x.array_record'), records, **more)
  assert not (tmp_path / 'x.array_record').exists()


def test_arrayrecord_damage(tmp_path):
  """A damaged record raises what the pipeline replaces; a cut file does not open."""
  records = [{'image': np.random.default_rng(i).integers(0, 256, (64, 64, 3)).astype(np.uint8)} for i in range(40)]
  path = tmp_path / 'x.array_record'
  write_arrayrecord(str(path), records)
  data = bytearray(path.read_bytes())
  path.write_bytes(data[: len(data) // 2])
  with pytest.raises(UserError, match='x.array_record'):
    open_source(f'arrayrecord:{path}')
  data[200_000:200_100] = bytes(100)
  path.write_bytes(data)
  source, bad = open_source(f'arrayrecord:{path}'), 0
  for i in range(40):
    try:
      assert np.array_equal(decode(source[i]['image']), records[i]['image'])
    except (OSError, ValueError):
      bad += 1
  assert 1 <= bad <= 2
