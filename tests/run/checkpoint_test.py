"""Checkpoints come back bitwise or not at all: damage, kills, full disks, other device counts, readers beside the trainer."""

import concurrent.futures
import gc
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from sslax.errors import UserError
from sslax.run import checkpoint
from sslax.run.checkpoint import Checkpointer, Damaged, Reader, SaveFailed, Vanished, state_hash
from sslax.step import TrainState

# Orbax leaves coroutines behind when a read fails
pytestmark = pytest.mark.filterwarnings('ignore::RuntimeWarning', 'ignore::pytest.PytestUnraisableExceptionWarning')


@pytest.fixture(autouse=True)
def collect_what_orbax_left_behind():
  yield
  gc.collect()


def make_state(seed=0):
  """Every kind of leaf and of container that a run has."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape, dtype=jnp.float32: jnp.asarray(rng.standard_normal(shape), dtype)
  params = {
    'encoder': {'w': normal(16, 24), 'half': normal(8, 8, dtype=jnp.bfloat16), 'none': {}},
    'head': (normal(8), normal(3)),
  }
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, mask={'encoder': True, 'head': False}))
  memory = {'target': {'w': normal(16, 24)}, 'bank': jnp.arange(64) + seed, 'flag': jnp.array(True), 'empty': jnp.zeros((0, 4))}
  return TrainState(jnp.array(seed, jnp.int32), params, memory, tx.init(params))


def abstract(state, sharding=None):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), state)


def small(step):
  return {'step': jnp.array(step, jnp.int32), 'x': jnp.full((4, 3), step, jnp.float32)}


def assert_bitwise(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert (x.shape, x.dtype) == (y.shape, y.dtype) and np.asarray(x).tobytes() == np.asarray(y).tobytes()


def files(folder):
  return sorted(p for p in Path(folder).rglob('*') if p.is_file())


def damage(path, kind, rng):
  """One flipped bit, a shorter file, an empty one, or none."""
  data = bytearray(path.read_bytes())
  if kind == 'delete':
    path.unlink()
  elif kind == 'flip' and data:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
  else:
    path.write_bytes(data[: rng.randrange(len(data))] if kind == 'truncate' and data else b'')


def damage_arrays(step_dir):
  """Flips a bit in every file with array data; returns their names."""
  hit = [p for p in files(step_dir / 'state') if p.parent.name == 'd']
  for p in hit:
    data = bytearray(p.read_bytes())
    data[len(data) // 2] ^= 4
    p.write_bytes(data)
  return [str(p.relative_to(step_dir)) for p in hit]


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A workdir with steps 1 and 2; treat it as read only."""
  workdir = tmp_path_factory.mktemp('saved')
  with Checkpointer(workdir, every_steps=1, meta={'config': {'lr': 0.1}}) as c:
    c.save(1, make_state(1))
    c.save(2, make_state(2))
  return workdir


@pytest.fixture
def workdir(saved, tmp_path):
  shutil.copytree(saved, tmp_path / 'run')
  return tmp_path / 'run'


def test_round_trip_is_bitwise_and_keeps_the_meta(saved):
  want = make_state(2)
  with Checkpointer(saved, every_steps=5) as c:
    got, step = c.restore(abstract(want))
    assert step == 2 and c.damaged == [] and c.steps() == [1, 2]
    assert_bitwise(got, want)
    assert_bitwise(c.restore(abstract(want), step=1)[0], make_state(1))
    assert c.save(2, make_state(3)) is False
    assert [s for s in range(1, 12) if c.due(s)] == [5, 10]
    with pytest.raises(UserError, match=r'no checkpoint of step 7 .*\[1, 2\]'):
      c.restore(abstract(want), step=7)
  reader = Reader(saved)
  assert reader.latest() == 2 and reader.steps() == [1, 2]
  assert_bitwise(reader.restore(abstract(want), 2), want)
  meta = reader.meta(2)
  assert meta['config'] == {'lr': 0.1} and meta['versions']['jax'] == jax.__version__


def test_no_checkpoint_is_none(tmp_path):
  with Checkpointer(tmp_path / 'new', every_steps=1) as c:
    assert c.restore(abstract(small(0))) is None
  assert Reader(tmp_path / 'nowhere').latest() is None


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


def test_resume_on_fewer_devices_is_bitwise(tmp_path):
  want = make_state(3)
  digest = state_hash(want)

  def put(devices):
    mesh = jax.make_mesh((devices,), ('fsdp',), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices])
    spec = lambda x: PartitionSpec('fsdp') if x.ndim and x.size and x.shape[0] % devices == 0 else PartitionSpec()
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec(x))), want)

  state = jax.device_put(want, jax.tree.map(lambda x: x.sharding, put(8)))
  for step, devices in enumerate((4, 1), start=1):
    with Checkpointer(tmp_path, every_steps=1) as c:
      c.save(step, state, wait=True)
      state, got = c.restore(put(devices))
    assert got == step and state_hash(state) == digest
    assert all(len(x.sharding.device_set) == devices for x in jax.tree.leaves(state))
  assert_bitwise(state, want)


def test_state_hash_sees_all_but_the_layout():
  x = jnp.arange(8, dtype=jnp.int32)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  h = state_hash({'a': x})
  assert h == state_hash({'a': jax.device_put(x, NamedSharding(mesh, PartitionSpec('data')))}) == state_hash({'a': np.asarray(x)})
  others = [{'b': x}, {'a': x.astype(jnp.uint32)}, {'a': x.reshape(2, 4)}, {'a': x.at[7].set(0)}, {'a': x, 'b': x}]
  assert len({h, *map(state_hash, others)}) == 1 + len(others)


@pytest.mark.parametrize('seed', range(4))
def test_damage_is_never_silently_wrong(workdir, seed):
  rng, like, want = random.Random(seed), abstract(make_state(2)), make_state(2)
  good, names = shutil.copytree(workdir / 'checkpoints/2', workdir / 'good'), files(workdir / 'checkpoints/2')
  found = 0
  for i in range(12):
    shutil.rmtree(workdir / 'checkpoints/2')
    shutil.copytree(good, workdir / 'checkpoints/2')
    path = names[(seed * 12 + i) % len(names)]
    damage(path, rng.choice(['flip', 'flip', 'truncate', 'empty', 'delete']), rng)
    try:
      assert_bitwise(Reader(workdir).restore(like, 2), want)
    except Damaged as e:
      found += 1
      assert 'step 2' in str(e) and path.relative_to(workdir / 'checkpoints/2').as_posix() in str(e)
  assert found  # some of the files matter


def test_bit_rot_falls_back_loudly_and_names_leaf_and_file(workdir, caplog):
  rotten = damage_arrays(workdir / 'checkpoints/2')
  with Checkpointer(workdir, every_steps=1) as c:
    got, step = c.restore(abstract(make_state()))
    assert step == 1
    assert_bitwise(got, make_state(1))
    (message,) = c.damaged
    assert 'step 2' in message and all(name in message for name in rotten)
    assert message in caplog.text
    # the run reaches step 2 again: the good state takes the name, the damaged one stays beside it
    assert c.save(2, make_state(2), wait=True) is True
    assert_bitwise(c.restore(abstract(make_state()))[0], make_state(2))
  assert (workdir / 'checkpoints/2.aside-0/state').is_dir()


def test_a_wrong_leaf_is_named_and_no_checkpoint_left_is_an_error(workdir):
  table = workdir / 'checkpoints/2/integrity/process_0.json'
  body = json.loads(table.read_text())
  del body['seal']
  body['leaves']['params/encoder/w']['sha256'][''] = '0' * 64  # stands for rot that the storage layer does not see
  table.write_text(json.dumps({**body, 'seal': checkpoint._seal(body)}))
  shutil.rmtree(workdir / 'checkpoints/1/state')
  with Checkpointer(workdir, every_steps=1) as c:
    with pytest.raises(Damaged, match='no good checkpoint is left') as e:
      c.restore(abstract(make_state()))
    assert len(c.damaged) == 2 and 'leaf params/encoder/w: sha256' in c.damaged[0] and 'state/_METADATA (missing)' in c.damaged[1]
    assert isinstance(e.value, UserError)  # exit code 2: a restart would end the same way
    with pytest.raises(Damaged, match='leaf params/encoder/w'):
      c.restore(abstract(make_state()), step=2)


def test_what_is_not_damage_is_not_taken_for_it(workdir, monkeypatch):
  def out_of_memory(*_):
    raise MemoryError('no room')

  monkeypatch.setattr(checkpoint, '_orbax_load', out_of_memory)
  with Checkpointer(workdir, every_steps=1) as c:
    with pytest.raises(MemoryError):
      c.restore(abstract(make_state()))
    assert c.damaged == []


def test_keep_and_keep_every_and_pins(tmp_path, monkeypatch):
  pins, host = tmp_path / 'checkpoints/pins', checkpoint.socket.gethostname()
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
      os.utime(pins / '4.other.host.1', (0, time.time() - checkpoint.PIN_EXPIRY - 9))
      (pins / 'README').write_text('not a pin')
    for step in (7, 8, 9):
      c.save(step, small(step))
    c.wait()
    assert c.steps() == [4, 6, 8, 9]
  assert sorted(p.name for p in pins.iterdir()) == ['6.other.host.1', 'README']


def test_a_pin_has_a_heartbeat(workdir, monkeypatch):
  monkeypatch.setattr(checkpoint, 'PIN_BEAT', 0.01)
  with Reader(workdir).pin(1):
    (pin,) = (workdir / 'checkpoints/pins').iterdir()
    os.utime(pin, (0, 0))
    for _ in range(500):
      if pin.stat().st_mtime > 0:
        break
      time.sleep(0.01)
    assert time.time() - pin.stat().st_mtime < 60
  assert not pin.exists()


def test_a_deleted_step_is_vanished_not_damaged(workdir, monkeypatch):
  reader, load = Reader(workdir), checkpoint._orbax_load

  def deleted_meanwhile(folder, *rest):
    shutil.rmtree(folder)
    return load(folder, *rest)

  monkeypatch.setattr(checkpoint, '_orbax_load', deleted_meanwhile)
  for step in (2, 2, 9):  # while it is read, before, never there
    with pytest.raises(Vanished, match=f'step {step}'):
      reader.restore(abstract(make_state()), step)
  with pytest.raises(Vanished):
    reader.meta(2)
  with pytest.raises(Vanished), reader.pin(2):
    pass
  assert not list((workdir / 'checkpoints/pins').iterdir())


def test_a_reader_beside_a_busy_trainer_gets_right_values_or_vanished(tmp_path):
  done = threading.Event()

  def train():
    with Checkpointer(tmp_path, every_steps=1, keep=1) as c:
      for step in range(1, 16):
        c.save(step, small(step))
    done.set()

  with concurrent.futures.ThreadPoolExecutor() as pool:
    trainer, reader, seen = pool.submit(train), Reader(tmp_path), []
    while not done.is_set() and trainer.running():
      if (step := reader.latest()) is None:
        continue
      try:
        got = reader.restore(abstract(small(0)), step)  # not pinned: the harder case
      except Vanished:
        continue
      assert_bitwise(got, small(step))
      seen.append(step)
    trainer.result()
  assert seen == sorted(seen) and len(set(seen)) > 2 and reader.steps() == [15]


def test_a_checkpoint_of_another_config_is_refused_with_its_first_paths(saved):
  reader, like = Reader(saved), abstract(make_state())
  one = SingleDeviceSharding(jax.devices()[0])

  def refused(change, *lines):
    params = {**like.params, 'encoder': {**like.params['encoder'], **change}}
    wanted = like._replace(params={k: v for k, v in params.items() if v is not None})
    with Checkpointer(saved, every_steps=1) as c, pytest.raises(UserError) as e:
      c.restore(wanted)
    assert not isinstance(e.value, Damaged) and c.damaged == []
    for line in lines:
      assert line in str(e.value)

  leaf = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=one)
  refused({'w': leaf((16, 25), jnp.float32)}, 'params/encoder/w: checkpoint float32[16,24], config float32[16,25]')
  refused({'w': leaf((16, 24), jnp.bfloat16)}, 'params/encoder/w: checkpoint float32[16,24], config bfloat16[16,24]')
  refused({'new': leaf((2,), jnp.float32)}, 'params/encoder/new: checkpoint has none, config float32[2]')
  refused({'half': None}, 'params/encoder/half: checkpoint bfloat16[8,8], config has none')

  encoder = {'params': {'encoder': {'w': leaf((16, 24), jnp.float32)}}}
  with pytest.raises(UserError, match='and [0-9]+ more'):
    reader.restore(encoder, 2)
  got = reader.restore(encoder, 2, partial=True)
  assert_bitwise(got, {'params': {'encoder': {'w': make_state(2).params['encoder']['w']}}})
  with pytest.raises(UserError, match=r'params/x: checkpoint has none, config float32\[2\]'):
    reader.restore({'params': {'x': leaf((2,), jnp.float32)}}, 2, partial=True)


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
  (root / '6/integrity/process_0.json').write_text(json.dumps({**table, 'seal': checkpoint._seal(table)}))
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


def test_a_copy_elsewhere_restores(saved, tmp_path):
  subprocess.run(['cp', '-r', saved / 'checkpoints', tmp_path / 'checkpoints'], check=True)
  with Checkpointer(os.path.relpath(tmp_path), every_steps=1) as c:  # and by a relative path
    got, step = c.restore(abstract(make_state()))
  assert step == 2
  assert_bitwise(got, make_state(2))


def test_errors_while_deleting_do_not_stop_the_training(tmp_path, monkeypatch, caplog):
  def stuck(self, target):
    if target.name.endswith('.deleted'):
      raise OSError('stale file handle')
    return rename(self, target)

  rename = type(epath.Path(tmp_path)).rename
  with Checkpointer(tmp_path, every_steps=1, keep=1) as c:
    c.save(1, small(1), wait=True)
    monkeypatch.setattr(type(c._root), 'rename', stuck)
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


TRAINERS = r"""
import os, sys
reports = os.dup(1)
os.dup2(2, 1)  # what a library prints goes to the log, not between the reports
import jax.numpy as jnp
from sslax.run import checkpoint
checkpoint._orbax()
for i in range(3):  # one import for all; nothing has started a thread yet
  if os.fork() == 0:
    c = checkpoint.Checkpointer(f'{sys.argv[1]}/{i}', every_steps=1, keep=4)
    for step in range(1, 10**6):
      c.save(step, {'step': jnp.array(step, jnp.int32), 'x': jnp.full((4, 3), step, jnp.float32)})
      os.write(reports, f'{i} {os.getpid()} {step}\n'.encode())  # one write: atomic on a pipe that three processes share
for i in range(3):
  os.wait()
"""


def test_kill_during_saves_leaves_complete_checkpoints_only(tmp_path):
  rng = random.Random(0)
  env = {**os.environ, 'PYTHONPATH': str(Path(checkpoint.__file__).parents[2])}
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
      assert c.steps() == found and not list(c._root.glob('*tmp*'))
      for s in found:
        assert_bitwise(c.restore(abstract(small(s)), step=s)[0], small(s))
      assert c.restore(abstract(small(0)))[1] == found[-1] and c.damaged == []
      assert c.save(found[-1] + 1, small(found[-1] + 1), wait=True)
