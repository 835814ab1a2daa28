"""What a URI is made of: schemes, options, splits, and classes from outside the package."""

import inspect
import pathlib
import pickle
import shutil
import subprocess
import sys

import pytest
from data.containers import CIRCLES, make_folder, make_tar, number, numbers, refused, same, shard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sslax.data import schemes, sources
from sslax.data.sources import open_source
from sslax.errors import UserError

pytestmark = pytest.mark.usefixtures('own_cache')

ROOT = pathlib.Path(__file__).resolve().parents[2]


# ------------------------------------------------------------------------------------------------------------------- schemes


def test_every_scheme_states_its_form():
  assert set(sources.names()) >= {'arrayrecord', 'digits', 'folder', 'frames', 'parquet', 'tar', 'text', 'tfds'}
  for scheme, form in zip(sources.names(), sources.forms(), strict=True):
    module = sources._module(scheme)
    assert form.startswith(f'{scheme}:') and '\n' not in form and isinstance(module.SUFFIX, str)
    for option in sources._options(module.open_container):
      assert f'{option}=' in form
    assert list(inspect.signature(module.open_container).parameters)[:2] == ['rest', 'split']


def test_a_file_more_is_a_scheme_more(tmp_path, monkeypatch):
  (tmp_path / 'countdown.py').write_text(
    "FORM, SUFFIX = 'countdown:N[?step=K]', '.countdown'\n"
    'class Countdown:\n'
    '  classes, num_classes = (), 0\n'
    '  def __init__(self, n, step): self.n, self.step = n, step\n'
    '  def __len__(self): return self.n\n'
    "  def read(self, i): return {'text': str((self.n - i) * self.step)}\n"
    "  def where(self, i): return f'countdown {i}'\n"
    "def open_container(rest, split, *, step='1'): return Countdown(int(rest), int(step))\n"
  )
  monkeypatch.setattr(schemes, '__path__', [*schemes.__path__, str(tmp_path)])
  monkeypatch.delitem(sys.modules, 'sslax.data.schemes.countdown', raising=False)
  source = open_source('countdown:5?step=10@[:3]')
  assert [source[i]['text'] for i in range(3)] == ['50', '40', '30']
  refused('countdwn:5', 'Did you mean countdown?')
  refused('/x/y.countdown', 'Did you mean countdown:/x/y.countdown?')
  refused('nothing', 'countdown:N[?step=K]')
  refused('countdown:5?label=3', "countdown: takes no option 'label'. Known: step.")


def test_heavy_imports_happen_for_the_scheme_that_is_used_alone(tmp_path):
  make_folder(tmp_path / 'x', ['a/1.png'])
  shard(tmp_path, 'x.tar', 0, 2)
  (tmp_path / 'x.txt').write_text('x')
  uris = ['digits:', f'folder:{tmp_path}/x', f'tar:{tmp_path}/x.tar', f'text:{tmp_path}/x.txt']
  code = (
    'import sys\nfrom sslax.data.sources import open_source\nfrom sslax.errors import UserError\n'
    f'for uri in {uris}: open_source(uri)\n'
    'try: open_source("nothing:")\nexcept UserError: pass\n'
    'print(sorted({"pyarrow", "array_record", "tensorflow_datasets", "sklearn", "jax"} & set(sys.modules)))\n'
  )
  out = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=100)
  assert out.stdout.strip() == '[]'


# ------------------------------------------------------------------------------------------------------------------- options


def test_options_stand_before_or_after_the_split(tmp_path):
  records = [(f'{i}', {'mp4': b'%d' % i, 'npy': b'n%d' % i, 'json': b'{"c": "%d"}' % (i % 2)}) for i in range(6)]
  path = make_tar(tmp_path / 'train-0.tar', records)
  for uri in (
    f'tar:{tmp_path}?label=c&fields=npy@train[2:]',
    f'tar:{tmp_path}@train[2:]?label=c&fields=npy',
    f'tar:{tmp_path}@train[2:]?fields=npy?label=c',
    f'tar:{path}?fields=npy@[2:]?label=c',
  ):
    source = open_source(uri)
    assert source.classes == ('0', '1') and source.name == uri
    assert [(source[i]['video'], source[i]['npy'], source[i]['label']) for i in range(4)] == [
      (b'%d' % i, b'n%d' % i, i % 2) for i in range(2, 6)
    ]


def test_an_option_of_another_scheme_is_refused(tmp_path):
  """Never taken silently: who writes it believes that it has been heard."""
  make_folder(tmp_path / 'x', ['a/1.png'])
  shard(tmp_path, 'x.tar', 0, 2)
  (tmp_path / 'x.txt').write_text('x')
  refused(f'tar:{tmp_path}/x.tar?text=title', "tar: takes no option 'text'. Known: fields, label.")
  refused(f'tar:{tmp_path}/x.tar?lable=x', "no option 'lable'. Did you mean label?")
  refused(f'tar:{tmp_path}/x.tar?label=x&bytes=3', "no option 'bytes'")
  refused(f'text:{tmp_path}/x.txt?label=x', "text: takes no option 'label'. Known: bytes.")
  refused(f'folder:{tmp_path}/x?label=x', "folder: takes no option 'label'. It takes none.")
  refused(f'folder:{tmp_path}/x?label=x@[:1]', "folder: takes no option 'label'")
  refused('digits:?bytes=3', "digits: takes no option 'bytes'")
  refused('digits:captions?bytes=3@train', "digits: takes no option 'bytes'")
  refused(f'parquet:{tmp_path}/x.parquet?label=x', "parquet: takes no option 'label'")
  refused(f'arrayrecord:{tmp_path}/x?text=x', "arrayrecord: takes no option 'text'")
  refused(f'frames:{tmp_path}/x?fields=x', "frames: takes no option 'fields'")
  refused(f'{CIRCLES}:Circles:3?label=x', "Circles: takes no option 'label'. Known: size.")


def test_an_option_has_one_value(tmp_path):
  shard(tmp_path, 'x.tar', 0, 2, json=lambda i: b'{"a&b": %d, "c=d": 5}' % i)
  refused(f'tar:{tmp_path}/x.tar?label=a&label=b', "'label' is given twice")
  refused(f'tar:{tmp_path}/x.tar?label=a?label=b', "'label' is given twice")
  refused(f'tar:{tmp_path}/x.tar?label=&fields=npy', "'label' has no value")
  refused(f'tar:{tmp_path}/x.tar?label=', "'{tmp}/x.tar?label='".replace('{tmp}', str(tmp_path)))
  # An & that no option follows, and an = in a value, are what they are.
  assert open_source(f'tar:{tmp_path}/x.tar?label=a&b')[1]['label'] == 1
  assert open_source(f'tar:{tmp_path}/x.tar?label=c=d').num_classes == 6


def test_a_path_may_hold_a_question_mark(tmp_path):
  make_folder(tmp_path / 'a?b=c', ['x/1.png'])
  assert len(open_source(f'folder:{tmp_path}/a?b=c')) == len(open_source(f'folder:{tmp_path}/a?b=c@[:1]')) == 1
  shard(tmp_path, 'x-y=1.tar', 0, 2)
  assert numbers(open_source(f'tar:{tmp_path}/x?y=1.tar')) == numbers(open_source(f'tar:{tmp_path}/?-y=1.tar')) == [0, 1]
  refused(f'tar:{tmp_path}/x?z=1.tar', "no option 'z'")


# ------------------------------------------------------------------------------------------------------------------- outside


def test_a_class_from_outside_in_one_file():
  source = open_source(f'{CIRCLES}:Circles:100?size=20@train[:10%]')
  assert len(source) == 10 and source.classes == ('one', 'two', 'three') and source.num_classes == 3
  assert source[4]['image'].shape == (20, 20, 3) and source[4]['label'] == 1 and source.where(4) == 'circles train 4'
  test = open_source(f'{CIRCLES}:Circles:100@test[-3:]')
  assert numbers(test) == [97, 98, 99] and test.where(0) == 'circles test 97'
  assert len(open_source(f'{CIRCLES}:Circles:100@[30%:balanced]')) == 30
  module = open_source('third_party.circles:Circles:100@test[-3:]')
  assert all(same(module[i], test[i]) for i in range(3))


def test_paths_to_a_class(tmp_path, monkeypatch):
  shutil.copy(CIRCLES, tmp_path / 'mine.py')
  monkeypatch.chdir(tmp_path)
  assert len(open_source('mine.py:Circles:5')) == len(open_source(f'{tmp_path}/mine.py:Circles:5')) == 5
  monkeypatch.setenv('HOME', str(tmp_path))
  assert number(open_source('~/mine.py:Circles:5@[3:]')[0]) == 3


def test_a_class_need_not_know_how_to_be_pickled(tmp_path):
  """A worker process opens the URI: it cannot import a file by name, and a lock cannot travel."""
  text = CIRCLES.read_text().replace('import numpy as np', 'import threading\n\nimport numpy as np')
  (tmp_path / 'locked.py').write_text(text.replace('self._n,', 'self.lock = threading.Lock()\n    self._n,'))
  source = open_source(f'{tmp_path}/locked.py:Circles:9@[2:4]')
  with pytest.raises(TypeError, match='pickle'):
    pickle.dumps(source._container)
  code = f'import pickle; source = pickle.loads({pickle.dumps(source)!r}); print(source.name, len(source), source.where(1))'
  out = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=100)
  assert out.stdout.split() == [source.name, '2', 'circles', 'train', '3']


def test_what_is_missing_is_named(tmp_path):
  (tmp_path / 'mine.py').write_text(
    'import numpy\nNUMBER = 5\n'
    'class Half:\n  classes = ()\n  def __init__(self, rest, split): pass\n  def __len__(self): return 3\n'
    'class Other:\n  def __init__(self): pass\n'
    'class Empty(Half):\n  num_classes = 0\n  read = where = None\n  def __len__(self): return 0\n'
    'class Picky(Half):\n  def __init__(self, rest, split): raise ValueError(f"{rest} is no\\nnumber")\n'
    'class Away(Half):\n  def __init__(self, rest, split): open("/no-such-place/x")\n'
  )
  mine = f'{tmp_path}/mine.py'
  refused(f'{mine}:Half:x', 'mine.py:Half is no container: it lacks read, where, num_classes')
  refused(f'{mine}:Other:x', 'mine.py:Other refused')
  refused(f'{mine}:Picky:x@train', "mine.py:Picky refused ('x', 'train'): x is no number")
  refused(f'{mine}:Away:x', 'FileNotFoundError')
  refused(f'{mine}:Empty:x', 'selects no record')
  refused(f'{mine}:NUMBER:x', 'is no class')
  message = refused(f'{mine}:Hlaf:x', "mine.py has no 'Hlaf'. Did you mean Half?")
  assert '.make' not in message and message.startswith(f"'{mine}:Hlaf:x': ")
  refused(f'{tmp_path}/yours.py:Half:x', 'yours.py')
  refused('no_such_package.module:Half:x', "cannot import 'no_such_package.module'")
  refused(f'{mine}:', f'Name a class in that file: {mine}:NAME:REST')
  refused(f'{mine}:Ha lf:x', 'Name a class in that file')
  (tmp_path / 'needs.py').write_text('import no_such_package\n')
  refused(f'{tmp_path}/needs.py:Half:x', 'no_such_package')


# ------------------------------------------------------------------------------------------------------------------ any text

PARTS = '@ [ ] : .. % , - 0 12 5.5 train test balanced { } * ? & = ?label= ?bytes=9 ?fields= &x=y / ~ \0 \n x é'.split(' ')
OURS = ['no.py:X:', 'no.where:X:', 'os.path:join:', 'os:path:', f'{CIRCLES}:Circles:', 'third_party.circles:Circles:']


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(
  st.sampled_from(['', *OURS, *(f'{scheme}:' for scheme in sources.names() if scheme != 'tfds'), 'digits:@train', 'gs:']),
  st.lists(st.sampled_from(PARTS), max_size=8).map(''.join) | st.text(max_size=30),
)
@example(f'{CIRCLES}:Circles:', '10?size=x')
@example(f'{CIRCLES}:Circles:', '10@[5:balanced]?size=4')
@example('digits:@train', '[:-0%]')
@example('text:', '\ud800*')
@example('digits:@train', '[:' + '9' * 5000 + ']')
@example('digits:@train', '[:' + '9' * 400 + '%]')
@example('digits:@train', '[' + '9' * 400 + '%:balanced]')
def test_any_text_opens_or_is_a_user_error(head, rest):
  """No traceback, whatever is written; what opens gives records."""
  try:
    source = open_source(f'{head}/no-such-place/{rest}' if head[:-1] in sources.names() and head != 'digits:' else head + rest)
  except UserError as error:
    assert str(error)
  else:
    assert len(source) >= 1 and source[0] and source.where(len(source) - 1)


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.integers(1, 30), st.integers(-35, 35), st.integers(-35, 35))
def test_a_range_is_that_of_python(n, a, b):
  """Of a list with the same numbers; what a list would give empty, or not have, is refused."""
  uri, inside = f'{CIRCLES}:Circles:{n}@[{a}:{b}]', list(range(n))[slice(a, b)]
  if max(abs(a), abs(b)) > n or not inside:
    refused(uri, 'beyond the' if max(abs(a), abs(b)) > n else 'selects no record')
  else:
    assert numbers(open_source(uri)) == inside
