import numpy as np
import pytest
from PIL import Image
from run.trainer import TINY, run


@pytest.mark.slow
def test_a_sheet_of_views(tmp_path):
  out = tmp_path / 'views.png'
  code, output = run('show', f'--config={TINY}', f'--out={out}', '--images=4')
  assert code == 0, output
  picture = np.asarray(Image.open(out).convert('L'), np.float32)
  assert picture.std() > 20, 'nothing to see'
  code, _ = run('show', f'--config={TINY}', f'--out={tmp_path / "again.png"}', '--images=4')
  assert (tmp_path / 'again.png').read_bytes() == out.read_bytes(), 'the same seed is the same sheet'


def test_crops_of_the_host(tmp_path, real_data):
  out = tmp_path / 'views.png'
  photos = f'folder:{real_data / "imagenet_sample"}'
  code, output = run(
    'show',
    f'--config={TINY}:photos',
    f'--config.data.train={photos}',
    '--config.method.augment.size=96',
    f'--out={out}',
    '--images=3',
  )
  assert code == 0 and Image.open(out).height > 3 * 96, output


@pytest.mark.slow
def test_mistakes(tmp_path):
  for out, word in (('views.txt', '.png'), (f'{tmp_path}/missing/views.png', 'missing')):
    code, output = run('show', f'--config={TINY}', f'--out={out}')
    assert code == 2 and word in output and 'Traceback' not in output, output
