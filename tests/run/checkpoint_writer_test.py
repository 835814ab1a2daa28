"""Saving beside the training: donated buffers, what is kept, odd folders, full disks, kills."""

import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec
from run import checkpoints
from run.checkpoints import abstract, assert_bitwise, make_state, small

import sslax
from sslax.errors import UserError
from sslax.run.checkpoint import Checkpointer, Reader, SaveFailed, integrity, writer

pytestmark = checkpoints.QUIET
collect_what_orbax_left_behind = checkpoints.collect_what_orbax_left_behind
saved = checkpoints.saved
workdir = checkpoints.workdir


def test_the_next_step_may_donate_what_is_being_saved(tmp_path):
  mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  shard = {
    'a': NamedSharding(mesh, PartitionSpec('data')),
    'b': NamedSharding(mesh, PartitionSpec()),
    'c': jax.local_devices()[0],
  }
  host = {k: np.random.default_rng(i).standard_normal((8, 1 << 17)).astype(np.float32) for i, k in enumerate(shard)}
  state = {k: jax.device_put(host[k].copy(), shard[k]) for k in host}
  like = abstract(state)
  overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 7, s), donate_argnums=0)
  steps = {k: overwrite.lower({k: like[k]}).compile() for k in host}
  with Checkpointer(tmp_path, every_steps=1) as c:
    c.save(1, state)
    for k in host:
      jax.block_until_ready(steps[k]({k: state[k]}))
    got, _ = c.restore(like)
  assert_bitwise(got, jax.tree.map(jnp.asarray, host))


def test_keep_and_keep_every_and_pins(tmp_path, monkeypatch):
  pins, host = tmp_path / 'checkpoints/pins', socket.gethostname()
  with Checkpointer(tmp_path, every_steps=1, keep=2, keep_every=4) as c:
    c.save(1, small(1), wait=True)
    reader = Reader(tmp_path)
    with reader.pin(1):
      for step in range(2, 7):
        c.save(step, small(step))
      c.wait()
      assert c.steps() == [1, 4, 5, 6]  # pinned, multiple of 4, the newest two
      assert_bitwise(reader.restore(abstract(small(1)), 1), small(1))
      dead = subprocess.Popen(['true'])
      dead.wait()
      (pins / f'5.{host}.{dead.pid}').write_text('')  # its process is gone
      (pins / '6.other.host.1').write_text('')  # alive for all that we know
      (pins / '4.other.host.1').write_text('')
      os.utime(pins / '4.other.host.1', (0, time.time() - writer.PIN_EXPIRY - 9))
      (pins / 'README').write_text('not a pin')
    for step in (7, 8, 9):
      c.save(step, small(step))
    c.wait()
    assert c.steps() == [4, 6, 8, 9]
  assert sorted(p.name for p in pins.iterdir()) == ['6.other.host.1', 'README']


def test_odd_folders_are_passed_over_and_foreign_files_stay(workdir):
  root = workdir / 'checkpoints'
  (root / '7').mkdir()  # empty
  (root / '1000000').mkdir()
  (root / '1000000/notes.txt').write_text('not ours')
  (root / '8').write_text('a file')
  shutil.copytree(root / '2', root / '03')  # not how a step is written
  shutil.copytree(root / '2', root / 'best')
  (root / '5').symlink_to(root / '1')  # says 5, holds 1
  shutil.copytree(root / '2', root / '6')
  table = json.loads((root / '6/integrity/process_0.json').read_text())
  del table['seal']
  table |= {'format': 99, 'step': 6}
  (root / '6/integrity/process_0.json').write_text(json.dumps({**table, 'seal': integrity.seal(table)}))
  (root / '2/commit_success.txt').unlink()
  foreign = [root / 'backup.orbax-checkpoint-tmp', root / 'pins.deleted', root / '.hidden']
  for p in foreign:
    p.mkdir()
  before = {p.name for p in root.iterdir()}
  for p in (root / '9.orbax-checkpoint-tmp', root / '.4.deleted'):  # ours: left by a kill
    (p / 'state').mkdir(parents=True)

  with Checkpointer(workdir, every_steps=1, keep=1) as c:
    assert {p.name for p in root.iterdir()} == before
    assert c.steps() == [1, 2, 5, 6]
    got, step = c.restore(abstract(make_state()))
    assert step == 2
    assert_bitwise(got, make_state(2))
    assert len(c.damaged) == 2 and 'format is 99' in c.damaged[0] and 'it holds step 1' in c.damaged[1]
    assert c.save(7, make_state(7), wait=True) is True  # the empty folder is moved away, not deleted
  assert {p.name for p in root.iterdir()} == before - {'1', '2'} | {'7', '7.aside-0'}
  assert (root / '1000000/notes.txt').read_text() == 'not ours'


def test_errors_while_deleting_do_not_stop_the_training(tmp_path, monkeypatch, caplog):
  def stuck(self, target):
    if target.name.endswith('.deleted'):
      raise OSError('stale file handle')
    return rename(self, target)

  rename = type(epath.Path(tmp_path)).rename
  with Checkpointer(tmp_path, every_steps=1, keep=1) as c:
    c.save(1, small(1), wait=True)
    monkeypatch.setattr(type(c.root), 'rename', stuck)
    c.save(2, small(2), wait=True)
    assert c.steps() == [1, 2] and 'stale file handle' in caplog.text


def test_user_mistakes(tmp_path):
  for wrong in ({'every_steps': 0}, {'every_steps': 1, 'keep': 0}, {'every_steps': 1, 'keep_every': -1}):
    with pytest.raises(UserError, match='must be >= 1'):
      Checkpointer(tmp_path, **wrong)
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='cannot create .*file/checkpoints'):
    Checkpointer(tmp_path / 'file', every_steps=1)
  with Checkpointer(tmp_path, every_steps=1) as c:
    for leaf in (1.0, np.ones(2), jax.random.key(0)):
      with pytest.raises(TypeError, match='state leaf a/0'):
        c.save(1, {'a': [leaf]})
    with pytest.raises(ValueError, match='same name'):
      c.save(1, {'a': {'b': jnp.ones(2)}, 'a.b': jnp.ones(2)})


@pytest.fixture(params=['limit', 'tmpfs'])
def tight(request, tmp_path):
  """(workdir, fill, free): somewhere that runs out of space between the two calls."""
  if request.param == 'limit':
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield (
      tmp_path,
      lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard)),
      lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)),
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    return
  mount = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', tmp_path], capture_output=True, text=True)
  if mount.returncode:
    pytest.skip(f'cannot mount a tmpfs (needs root): {mount.stderr.strip()}')
  ballast = tmp_path / 'ballast'
  yield tmp_path, lambda: ballast.write_bytes(bytes(shutil.disk_usage(tmp_path).free - 200_000)), ballast.unlink
  subprocess.run(['umount', tmp_path], check=True)


def test_disk_full_is_one_line_and_older_steps_survive(tight):
  workdir, fill, free = tight
  state = lambda seed: {'x': jnp.asarray(np.random.default_rng(seed).standard_normal((1024, 256)), jnp.float32)}  # 1 MB
  c = Checkpointer(workdir, every_steps=1)
  c.save(1, state(1), wait=True)
  fill()
  try:
    c.save(2, state(2))  # the error of an asynchronous save surfaces with the next call
    with pytest.raises(SaveFailed) as e:
      c.save(3, state(3))
  finally:
    free()
  message = str(e.value)
  assert '\n' not in message and str(workdir / 'checkpoints/2') in message and 'bytes free' in message
  assert sorted(p.name for p in (workdir / 'checkpoints').iterdir()) == ['1']  # no leftovers that would keep the disk full
  assert_bitwise(c.restore(abstract(state(1)))[0], state(1))
  assert c.save(2, state(2), wait=True) and c.steps() == [1, 2]
  c.close()


def test_a_folder_that_goes_away_is_a_failed_save(tmp_path, monkeypatch):
  def gone(*_):
    shutil.rmtree(tmp_path / 'checkpoints')
    raise OSError('no such device')

  with Checkpointer(tmp_path, every_steps=1) as c:
    monkeypatch.setattr(integrity, 'Integrity', gone)
    with pytest.raises(SaveFailed, match='could not save step 1 .*no such device'):
      c.save(1, small(1))


TRAINERS = r"""
import os, sys
reports = os.dup(1)
os.dup2(2, 1)  # what a library prints goes to the log, not between the reports
import jax.numpy as jnp
from sslax.run import checkpoint
checkpoint.store.orbax()
for i in range(3):  # one import for all; nothing has started a thread yet
  if os.fork() == 0:
    c = checkpoint.Checkpointer(f'{sys.argv[1]}/{i}', every_steps=1, keep=4)
    for step in range(1, 10**6):
      c.save(step, {'step': jnp.array(step, jnp.int32), 'x': jnp.full((4, 3), step, jnp.float32)})
      os.write(reports, f'{i} {os.getpid()} {step}\n'.encode())  # one write: atomic on a pipe that three processes share
for i in range(3):
  os.wait()
"""


@pytest.mark.slow
def test_kill_during_saves_leaves_complete_checkpoints_only(tmp_path):
  rng = random.Random(0)
  env = {**os.environ, 'PYTHONPATH': str(Path(sslax.__file__).parents[1])}
  kill_at, last, pids = [rng.randrange(2, 7) for _ in range(3)], [0, 0, 0], {}
  with open(tmp_path / 'log', 'w+') as log:
    parent = subprocess.Popen([sys.executable, '-c', TRAINERS, tmp_path], stdout=subprocess.PIPE, stderr=log, env=env, text=True)
    try:
      for line in parent.stdout:
        i, pid, step = map(int, line.split())
        last[i] = step
        if i not in pids and last[i] >= kill_at[i]:
          pids[i] = pid
          time.sleep(rng.random() * 0.1)  # anywhere in the save that follows
          os.kill(pid, signal.SIGKILL)
      assert parent.wait() == 0 and len(pids) == 3, (tmp_path / 'log').read_text()
    finally:
      parent.kill()
      parent.wait()
      parent.stdout.close()
  for i, step in enumerate(last):
    found = Reader(tmp_path / str(i)).steps()
    assert found and step - 1 <= found[-1] <= step + 1, (found, step)  # nothing that a later save waited for is lost
    with Checkpointer(tmp_path / str(i), every_steps=1, keep=4) as c:
      assert c.steps() == found and not [name for name in os.listdir(c.root) if 'tmp' in name]
      for s in found:
        assert_bitwise(c.restore(abstract(small(s)), step=s)[0], small(s))
      assert c.restore(abstract(small(0)))[1] == found[-1] and c.damaged == []
      assert c.save(found[-1] + 1, small(found[-1] + 1), wait=True)
