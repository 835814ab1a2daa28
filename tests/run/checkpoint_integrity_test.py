"""Checkpoints come back bitwise or not at all: what rotted, what is missing, and what is not damage."""

import json
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from run import checkpoints
from run.checkpoints import abstract, assert_bitwise, files, make_state

from sslax.errors import UserError
from sslax.run.checkpoint import Checkpointer, Damaged, Reader, integrity, state_hash, store

pytestmark = checkpoints.QUIET
collect_what_orbax_left_behind = checkpoints.collect_what_orbax_left_behind
saved = checkpoints.saved
workdir = checkpoints.workdir


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


def test_state_hash_sees_all_but_the_layout():
  x = jnp.arange(8, dtype=jnp.int32)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  h = state_hash({'a': x})
  assert h == state_hash({'a': jax.device_put(x, NamedSharding(mesh, PartitionSpec('data')))}) == state_hash({'a': np.asarray(x)})
  others = [{'b': x}, {'a': x.astype(jnp.uint32)}, {'a': x.reshape(2, 4)}, {'a': x.at[7].set(0)}, {'a': x, 'b': x}]
  assert len({h, *map(state_hash, others)}) == 1 + len(others)


def test_hashes_are_those_of_earlier_versions():
  """They stand in checkpoints and in status.json: an old run must be read, and a new one by an old version."""
  half = (jnp.ones(3, jnp.bfloat16), jnp.zeros((0, 4), jnp.int32))
  state = {'w': jnp.arange(6, dtype=jnp.float32).reshape(2, 3), 'half': half, 'flag': jnp.array(True)}
  assert state_hash(state) == '7c63d81d0274335a2f1df76962c1391dca72ec685a5ef4a286864fbfb77a2d64'
  body = {'step': 3, 'meta': {'config': {'lr': 0.1, 'name': 'é'}, 'nan': float('nan')}}
  assert integrity.seal(body) == 'c4864956f81363a85e30dde7f3599e43f36a359391cf22a23ae1d63566b30873'


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
  table.write_text(json.dumps({**body, 'seal': integrity.seal(body)}))
  shutil.rmtree(workdir / 'checkpoints/1/state')
  with Checkpointer(workdir, every_steps=1) as c:
    with pytest.raises(Damaged, match='no good checkpoint is left') as e:
      c.restore(abstract(make_state()))
    assert len(c.damaged) == 2 and 'leaf params/encoder/w: sha256' in c.damaged[0] and 'state/_METADATA (missing)' in c.damaged[1]
    assert isinstance(e.value, UserError)  # exit code 2: a restart would end the same way
    with pytest.raises(Damaged, match='leaf params/encoder/w'):
      c.restore(abstract(make_state()), step=2)


def test_an_integrity_file_that_says_something_else_is_damaged(workdir):
  path = workdir / 'checkpoints/2/integrity/process_0.json'
  path.write_text(path.read_text().replace('"lr": 0.1', '"lr": 0.2'))
  reader = Reader(workdir)
  for read in (reader.meta, reader.leaves, reader.digest, lambda step: reader.restore(abstract(make_state()), step)):
    with pytest.raises(Damaged, match=r'2 \(step 2\) .*process_0.json does not hash to its seal; .*_0.json \(bytes changed\)'):
      read(2)


def test_what_is_not_damage_is_not_taken_for_it(workdir, monkeypatch):
  def out_of_memory(*_):
    raise MemoryError('no room')

  monkeypatch.setattr(store, 'load', out_of_memory)
  with Checkpointer(workdir, every_steps=1) as c:
    with pytest.raises(MemoryError):
      c.restore(abstract(make_state()))
    assert c.damaged == []
