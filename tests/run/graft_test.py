"""What a fresh state takes from another run is bit for bit what is there; what does not fit is refused before any compilation."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run.toy import BATCH, SGD, Toy, by_path, fresh, grafted, moved, save, saved

from sslax.errors import UserError
from sslax.methods.averaged import Averaged
from sslax.models import net
from sslax.ops import fsdp
from sslax.run import graft, sharding
from sslax.step import init_state


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return saved(tmp_path_factory.mktemp('runs') / 'toy')


ENCODER = ['memory/stats/encoder/count', 'memory/stats/encoder/mean', 'params/encoder/dense/bias', 'params/encoder/dense/kernel']


@pytest.mark.parametrize('form', ['{}', 'encoder={}', '{}@20', '{}@10'])
def test_the_encoder_of_a_run(run, form):
  workdir, states = run
  after, changed = grafted((form.format(workdir),), Toy())
  assert changed == ENCODER
  for path in changed:
    np.testing.assert_array_equal(after[path], states[0 if '@10' in form else 1][path])


def test_any_part_of_a_run(run):
  workdir, (first, last) = run
  entries = (f'memory/teacher={workdir}:params', f'memory/teacher_stats={workdir}@10:memory/stats', f'params/head={workdir}')
  for given in (entries, ' '.join(entries)):
    after, changed = grafted(given, Toy(teacher=True))
    teacher = [path for path in after if path.startswith('memory/teacher')]
    assert changed == sorted([*teacher, 'params/head/kernel']) and len(teacher) == 5
    for path in teacher:
      source = first if 'teacher_stats' in path else last
      theirs = path.replace('memory/teacher_stats', 'memory/stats').replace('memory/teacher', 'params')
      np.testing.assert_array_equal(after[path], source[theirs])
    np.testing.assert_array_equal(after['params/head/kernel'], last['params/head/kernel'])


@pytest.mark.slow
def test_wrapped_methods_on_both_sides(run, tmp_path):
  workdir, (_, last) = run
  wrapped = Averaged(Averaged(Toy()))
  after, changed = grafted((workdir,), wrapped)
  assert changed == sorted(path.replace('memory/', 'memory/inner/inner/') for path in ENCODER)
  np.testing.assert_array_equal(after['memory/inner/inner/stats/encoder/mean'], last['memory/stats/encoder/mean'])
  state = moved(fresh(wrapped, 3))
  after, changed = grafted((save(tmp_path / 'wrapped', state),), Toy())
  assert changed == ENCODER
  np.testing.assert_array_equal(after['memory/stats/encoder/mean'], by_path(state)['memory/inner/inner/stats/encoder/mean'])


def test_names_of_runs(run, tmp_path, monkeypatch):
  """A workdir may have '=' in its name; a colon of 'gs://' ends no name."""
  shutil.copytree(run[0], tmp_path / 'lr=0.1')
  monkeypatch.chdir(tmp_path)
  assert grafted(('lr=0.1@10',), Toy())[1] == ENCODER and grafted(('encoder=lr=0.1',), Toy())[1] == ENCODER
  found = graft._SOURCE.fullmatch('gs://bucket/run@30:params/head')
  assert (found['place'], found['step'], found['part']) == ('gs://bucket/run', '30', 'params/head')
  assert graft._SOURCE.fullmatch('gs://bucket/run')['place'] == 'gs://bucket/run'


def test_sharded(run, monkeypatch):
  """Saved on one device, wanted in pieces on eight; the state that comes out may be donated."""
  monkeypatch.setattr(fsdp, 'MIN_SHARDED_SIZE', 1)
  workdir, (_, last) = run
  mesh = sharding.make_mesh(4, 2)
  init = lambda: init_state(Toy(), SGD, 0, BATCH)
  shapes = jax.eval_shape(init)
  where = sharding.state_sharding(mesh, shapes, net.groups({}, shapes.params))
  state = jax.jit(init, out_shardings=where)()
  planned = graft.plan((workdir,), Toy(), state)
  for _ in range(2):
    after = graft.apply(planned, state)
    assert jax.tree.all(jax.tree.map(lambda x, s: x.sharding == s, after, where))
    kernel = after.params['encoder']['dense']['kernel']
    assert kernel.addressable_data(0).shape == (96, 8)
    for path in ENCODER:
      np.testing.assert_array_equal(by_path(after)[path], last[path])
    jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)(after.params['encoder'])


@pytest.mark.parametrize(
  'entries,method,words',
  [
    (('{}',), Toy(width=7), r'params/encoder/dense/kernel is float32\[192,7\], and there params/encoder/\S* is float32\[192,8\]'),
    (('{}',), Toy(width=7), r'(?s)does not fit.*dense/bias .*memory/stats/encoder/mean is float32\[7\]'),
    (('params={}:memory',), Toy(), 'there memory/head/kernel is none'),
    (('params/encoder={}:params/head',), Toy(), 'there params/head/dense/bias is none'),
    (('params/encoder={}:params/encodr',), Toy(), "has nothing at params/encodr. Did you mean params/encoder"),
    (('params/encodr={}:params/encoder',), Toy(), "the state has nothing at params/encodr. Did you mean params/encoder"),
    (('opt_state={}',), Toy(), 'the state has nothing at opt_state. .*params/head'),
    (('memory/teacher={}:params',), Toy(), 'nothing at memory/teacher'),
    (('{}x',), Toy(), 'toyx is no run with checkpoints. Did you mean .*/toy'),
    (('{}@15',), Toy(), 'has no checkpoint of step 15; there are 10, 20'),
    (('{}', 'params/encoder={}'), Toy(), 'params/encoder/dense/bias comes from both'),
    (('encoder={}:params/encoder',), Toy(), 'write params/encoder={}'),
    (('={}',), Toy(), 'is none of RUN'),
    (('encoder=',), Toy(), 'is none of RUN'),
    (('params/head=x.safetensors',), Toy(), 'can only become the encoder'),
    (('x.pth',), Toy(), 'not pickled files'),
    (('x.safetensors',), Toy(), 'cannot be read as safetensors'),
    ((), Toy(teacher=True), r"and memory/teacher_stats .*'memory/teacher=RUN:params', 'memory/teacher_stats=RUN:memory/stats'"),
    ((), Toy(frozen=True), r"Toy needs params/encoder and memory/stats/encoder from .*=\"\('RUN',\)\" where RUN"),
    (('memory/teacher={}:params',), Toy(teacher=True), 'Toy needs memory/teacher_stats from'),
    (('memory/teacher/head={}:params/head', 'memory/teacher_stats={}:memory/stats'), Toy(teacher=True), 'memory/teacher from'),
  ],
)  # fmt: skip
def test_what_does_not_fit(run, entries, method, words):
  with pytest.raises(UserError, match=words.replace('{}', run[0])):
    graft.plan(tuple(entry.replace('{}', run[0]) for entry in entries), method, jax.eval_shape(lambda: fresh(method)))


def test_another_type_does_not_fit(run):
  shapes = jax.eval_shape(lambda: fresh(Toy()))
  shapes.params['head']['kernel'] = jax.ShapeDtypeStruct((8, 4), jnp.bfloat16)
  with pytest.raises(UserError, match=r'head/kernel is bfloat16\[8,4\], and there params/head/kernel is float32\[8,4\]'):
    graft.plan((f'params/head={run[0]}',), Toy(), shapes)


def test_a_part_without_leaves_needs_none(run):
  """The statistics of a network that keeps none."""
  method = Toy(teacher=True, bare_teacher=True)
  for entries in (('memory/teacher={}:params',), ('memory/teacher={}:params', 'memory/teacher_stats={}:memory/stats')):
    _, changed = grafted(tuple(entry.format(run[0]) for entry in entries), method)
    assert len(changed) == 3


def test_a_source_that_goes_away(run, tmp_path):
  shutil.copytree(run[0], tmp_path / 'run')
  state = fresh(Toy())
  planned = graft.plan((str(tmp_path / 'run'),), Toy(), state)
  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '20')
  with pytest.raises(UserError, match='has deleted it'):
    graft.apply(planned, state)


def test_a_step_that_goes_away_while_it_is_planned(run, tmp_path, monkeypatch):
  def meanwhile(step):
    shutil.rmtree(tmp_path / 'run' / 'checkpoints' / str(step))
    return step

  shutil.copytree(run[0], tmp_path / 'run')
  monkeypatch.setattr(graft, '_agreed', meanwhile)
  with pytest.raises(UserError, match='step 20 is not in .*its run has deleted it; start again'):
    graft.plan((str(tmp_path / 'run'),), Toy(), fresh(Toy()))
