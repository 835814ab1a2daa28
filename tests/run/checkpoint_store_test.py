"""The folder is the one that the user named, whatever is in its name."""

import os

import pytest
from run import checkpoints
from run.checkpoints import abstract, assert_bitwise, small

from sslax.errors import UserError
from sslax.run.checkpoint import Checkpointer, Reader, SaveFailed, integrity, store

pytestmark = checkpoints.QUIET
collect_what_orbax_left_behind = checkpoints.collect_what_orbax_left_behind


def names(folder):
  return sorted(os.listdir(folder))


# A name, and another of which it is a pattern.
@pytest.mark.parametrize('name, other', [('run[lr=0.1]', 'runl'), ('runs[1]', 'runs1'), ('a?b', 'axb'), ('*', 'all'), ('[', ']')])
def test_a_name_is_no_pattern(tmp_path, monkeypatch, name, other):
  ours, theirs = (tmp_path / n / 'checkpoints' for n in (name, other))
  for folder in (ours, theirs):
    for left in ('1.orbax-checkpoint-tmp/state/ocdbt.process_0', '3.orbax-checkpoint-tmp/state', '.4.deleted/state'):
      (folder / left).mkdir(parents=True)
  with Checkpointer(tmp_path / name, every_steps=1) as c:
    assert names(ours) == []  # what a killed trainer left
    c.save(2, small(2), wait=True)
    assert_bitwise(c.restore(abstract(small(0)))[0], small(2))
    assert c.damaged == []
    reader = Reader(tmp_path / name)
    with reader.pin(2):
      assert_bitwise(reader.restore(abstract(small(0)), 2), small(2))

    with monkeypatch.context() as patch:
      patch.setattr(integrity.Integrity, '_write', lambda *_: (ours / '30.orbax-checkpoint-tmp').touch() or 1 / 0)
      c.save(3, small(3))
      with pytest.raises(SaveFailed, match='step 3 .*ZeroDivisionError'):
        c.wait()
    assert names(ours) == ['2', '30.orbax-checkpoint-tmp', 'pins']  # that of the failed save has gone, and no other
    c.save(3, small(3), wait=True)
    assert c.steps() == [2, 3]
  assert names(theirs) == ['.4.deleted', '1.orbax-checkpoint-tmp', '3.orbax-checkpoint-tmp']


def test_a_path_stays_one_of_its_kind(tmp_path):
  """Orbax makes others from the one that it is given, and looks for files with those."""
  (tmp_path / 'runs[1]' / 'checkpoints' / '1').mkdir(parents=True)
  path = store.root_of(tmp_path / 'runs[1]')
  (globbed,), (listed,) = path.glob('?'), path.iterdir()
  for derived in (
    path / '1',
    path.parent,
    path.with_name('x'),
    globbed,
    listed,
    (path / '1').rename(path / '2'),
    store.root_of('gs://b/x'),
  ):
    assert type(derived) is store.LiteralPath
  assert globbed == listed == path / '1'


def test_urls_are_not_made_local():
  path = store.root_of('gs://bucket/runs[1]')
  assert str(path) == 'gs://bucket/runs[1]/checkpoints' and not store.is_local(path)


@pytest.mark.parametrize('name', ['back\\slash', 'latin-\udce9'])
def test_a_name_that_tensorstore_writes_elsewhere_is_refused(tmp_path, name):
  for begin in (lambda: Checkpointer(tmp_path / name, every_steps=1), lambda: Reader(tmp_path / name)):
    with pytest.raises(UserError, match='no checkpoint can be kept in .*Rename the folder') as e:
      begin()
    str(e.value).encode()  # it can be printed
  assert names(tmp_path) == []
