"""What is read: on other device counts, in part, from a copy, beside a trainer that deletes."""

import concurrent.futures
import os
import shutil
import subprocess
import threading
import time

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
from run import checkpoints
from run.checkpoints import abstract, assert_bitwise, make_state, small

from sslax.errors import UserError
from sslax.run.checkpoint import Checkpointer, Damaged, Reader, Vanished, integrity, reader, state_hash, store

pytestmark = checkpoints.QUIET
collect_what_orbax_left_behind = checkpoints.collect_what_orbax_left_behind
saved = checkpoints.saved
workdir = checkpoints.workdir


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


def test_leaves_without_arrays(saved):
  reader, want = Reader(saved), make_state(2)
  leaves = reader.leaves(2)
  flat = {'/'.join(path): leaf for path, leaf in integrity.flatten(want)[0].items()}
  assert {n: (x.shape, x.dtype) for n, x in leaves.items()} == {n: (x.shape, x.dtype) for n, x in flat.items()}
  assert leaves['params/encoder/half'].dtype == jnp.bfloat16 and leaves['memory/empty'].shape == (0, 4)
  with pytest.raises(Vanished, match='step 3 is not in'):
    reader.leaves(3)


def test_the_digest_of_a_step_is_that_of_its_values(saved, tmp_path):
  state = make_state(2)
  other = state._replace(memory={**state.memory, 'bank': state.memory['bank'].at[3].add(1)})
  later = state._replace(step=state.step + 5, opt_state=make_state(1).opt_state)
  with Checkpointer(tmp_path, every_steps=1, keep=9, meta={'elsewhere': True}) as c:
    for step, x in ((2, state), (3, later), (4, other)):
      c.save(step, x)
  copy, want = Reader(tmp_path), Reader(saved).digest(2)
  assert len(want) == 64 and copy.digest(2) == copy.digest(3) == want and copy.digest(4) != want
  with pytest.raises(Vanished):
    copy.digest(9)


def test_a_copy_elsewhere_restores(saved, tmp_path):
  subprocess.run(['cp', '-r', saved / 'checkpoints', tmp_path / 'checkpoints'], check=True)
  with Checkpointer(os.path.relpath(tmp_path), every_steps=1) as c:  # and by a relative path
    got, step = c.restore(abstract(make_state()))
  assert step == 2
  assert_bitwise(got, make_state(2))


def test_a_pin_has_a_heartbeat(workdir, monkeypatch):
  monkeypatch.setattr(reader, 'PIN_BEAT', 0.01)
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
  reader, load = Reader(workdir), store.load

  def deleted_meanwhile(folder, *rest):
    shutil.rmtree(folder)
    return load(folder, *rest)

  monkeypatch.setattr(store, 'load', deleted_meanwhile)
  for step in (2, 2, 9):  # while it is read, before, never there
    with pytest.raises(Vanished, match=f'step {step}'):
      reader.restore(abstract(make_state()), step)
  with pytest.raises(Vanished):
    reader.meta(2)
  with pytest.raises(Vanished), reader.pin(2):
    pass
  assert not list((workdir / 'checkpoints/pins').iterdir())


@pytest.mark.slow
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
