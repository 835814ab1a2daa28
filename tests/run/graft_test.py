"""What a fresh state takes from elsewhere is bit for bit what is there; what does not fit is refused before anything compiles."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from models.import_torch_test import timm_state, torchvision_state
from PIL import Image

from sslax.errors import UserError
from sslax.method import Method, Output
from sslax.methods.averaged import Averaged
from sslax.models import branch, import_torch
from sslax.models.resnet import ResNet
from sslax.models.vit import ViT
from sslax.ops import fsdp, tree
from sslax.run import graft, loop, sharding
from sslax.run.checkpoint import Checkpointer
from sslax.run.config import base_config
from sslax.run.faults import StopRequest
from sslax.run.optim import Sgd
from sslax.spec import spec
from sslax.step import init_state


@dataclasses.dataclass(frozen=True)
class Toy(Method):
  """A linear encoder with running statistics, a head, and a frozen teacher where asked."""

  width: int = 8
  teacher: bool = False
  bare_teacher: bool = False  # without statistics
  frozen: bool = False  # the encoder comes from elsewhere
  uses_labels: bool = False
  num_classes: int = 10

  def grafts(self):
    encoder = ('params/encoder', 'memory/stats/encoder') if self.frozen else ()
    return encoder + (('memory/teacher', 'memory/teacher_stats') if self.teacher else ())

  def init(self, rng, views):
    del views

    def network(rng):
      a, b, c = jax.random.split(rng, 3)
      encoder = {'dense': {'kernel': jax.random.normal(a, (192, self.width)), 'bias': jax.random.normal(b, (self.width,))}}
      return {'encoder': encoder, 'head': {'kernel': jax.random.normal(c, (self.width, 4))}}

    one, two = jax.random.split(rng)
    stats = {'encoder': {'mean': jnp.zeros(self.width), 'count': jnp.zeros((), jnp.int32)}, 'head': {}}
    memory = {'stats': stats}
    if self.teacher:
      teacher_stats = {'encoder': {}, 'head': {}} if self.bare_teacher else jax.tree.map(jnp.copy, stats)
      memory |= {'teacher': network(two), 'teacher_stats': teacher_stats}
    return network(one), memory

  def loss(self, params, memory, views, rng, step):
    del rng, step
    x = views['image'].reshape(len(views['image']), -1) / 255.0
    h = x @ params['encoder']['dense']['kernel'] + params['encoder']['dense']['bias'][None]
    encoder = {'mean': memory['stats']['encoder']['mean'] + h.mean(0), 'count': memory['stats']['encoder']['count'] + 1}
    return jnp.mean((h @ params['head']['kernel']) ** 2), Output({**memory, 'stats': {'encoder': encoder, 'head': {}}}, {})

  def features(self, params, memory, batch):
    raise NotImplementedError


SGD = optax.sgd(0.1, 0.9)
BATCH = {'image': np.zeros((8, 8, 8, 3), np.uint8)}


def fresh(method, seed=0):
  return jax.jit(lambda: init_state(method, SGD, seed, BATCH))()


def save(workdir, *states, first=10):
  """Steps 10, 20, ..."""
  with Checkpointer(workdir, every_steps=1) as checkpointer:
    for i, state in enumerate(states):
      checkpointer.save(first * (i + 1), state, wait=True)
  return str(workdir)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The workdir of a run with steps 10 and 20, and the states there."""
  states = [moved(fresh(Toy(), seed)) for seed in (1, 2)]
  return save(tmp_path_factory.mktemp('runs') / 'toy', *states), [by_path(state) for state in states]


def moved(state):
  """Statistics that are not those of a fresh state."""
  rng = np.random.default_rng(0)
  return state._replace(
    memory=jax.tree.map(lambda x: jnp.asarray(np.float32(x) + rng.random(x.shape)).astype(x.dtype) + 1, state.memory)
  )


def by_path(state):
  return dict(zip(tree.paths(state), map(np.array, jax.tree.leaves(state)), strict=True))


def grafted(entries, method, state=None):
  """{path: values} of a fresh state after the graft, and the paths that it changed."""
  state = fresh(method) if state is None else state
  before, planned = by_path(state), graft.plan(entries, method, jax.eval_shape(lambda: state))
  after = by_path(graft.apply(planned, state))
  return after, sorted(path for path in after if not np.array_equal(after[path], before[path]))


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
  where = sharding.state_sharding(mesh, jax.eval_shape(init))
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


# ------------------------------------------------------------------------------------------------------------------- weights


@dataclasses.dataclass(frozen=True)
class Real(Method):
  """The parameters of a real encoder."""

  encoder: object

  def init(self, rng, views):
    params, stats = branch.init({'encoder': self.encoder}, rng, jnp.zeros((1, 32, 32, 3)))
    return params, {'stats': stats}

  def loss(self, params, memory, views, rng, step):
    raise NotImplementedError

  def features(self, params, memory, batch):
    raise NotImplementedError


RESNET = Real(ResNet(depth=18, stages=(1, 1), base=8))
VIT = Real(ViT(width=48, depth=3, heads=4, patch=8))


def write(path, weights, prefix='', **more):
  arrays = {f'{prefix}{name}': np.ascontiguousarray(x) for name, x in weights.items()} | more
  safetensors.numpy.save_file(arrays, path)
  return str(path)


@pytest.mark.parametrize('prefix', ['', 'module.encoder_q.'])
def test_weights_of_torchvision(tmp_path, prefix):
  """As MoCo's file has them: behind a prefix, with a queue, a key encoder and a head."""
  weights = torchvision_state(18, (1, 1), 8)
  others = (
    {'module.queue': np.zeros((4, 4)), **{f'module.encoder_k.{name}': np.asarray(x * 0) for name, x in weights.items()}}
    if prefix
    else {}
  )
  path = write(tmp_path / 'x.safetensors', weights, prefix, **others)
  state = jax.jit(lambda: init_state(RESNET, SGD, 0, BATCH))()
  wanted, stats = import_torch.resnet(weights, state.params['encoder'], state.memory['stats']['encoder'])
  for entry in [f'encoder={path}:{prefix}'] if prefix else [path, f'encoder={path}']:
    planned = graft.plan((entry,), RESNET, jax.eval_shape(lambda: state))
    for _ in range(2):
      after = graft.apply(planned, state)
      jax.tree.map(np.testing.assert_array_equal, after.params['encoder'], wanted)
      jax.tree.map(np.testing.assert_array_equal, after.memory['stats']['encoder'], stats)
      assert (
        str(planned[0]) == f'params/encoder and memory/stats/encoder from {path} ({len(jax.tree.leaves([wanted, stats]))} leaves)'
      )
      jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)(
        after.params
      )  # what the next apply gives must not be 0


def test_weights_of_timm(tmp_path):
  weights = timm_state()
  path = write(tmp_path / 'x.safetensors', weights, head_weight=np.zeros(3, np.float32))
  state = jax.jit(lambda: init_state(VIT, SGD, 0, BATCH))()
  after = graft.apply(graft.plan((path,), VIT, state), state)
  jax.tree.map(np.testing.assert_array_equal, after.params['encoder'], import_torch.vit(weights, state.params['encoder']))
  fixed = Real(dataclasses.replace(VIT.encoder, positions='sincos_mae'))  # MAE's file has the table; ours is computed
  shapes = jax.eval_shape(lambda: init_state(fixed, SGD, 0, BATCH))
  assert len(graft.plan((path,), fixed, shapes)[0].leaves) == len(jax.tree.leaves(shapes.params))


def test_weights_that_do_not_fit(tmp_path):
  moco = write(tmp_path / 'moco.safetensors', torchvision_state(18, (1, 1), 8), 'module.encoder_q.')
  large = write(tmp_path / 'large.safetensors', torchvision_state(18, (2, 1), 8))
  wide = write(tmp_path / 'wide.safetensors', torchvision_state(18, (1, 1), 16))
  for entry, method, words in (
    (moco, RESNET, f'has no layer1.0.conv1.weight. Try encoder={moco}:module.encoder_q.'),
    (f'encoder={moco}:module.', RESNET, 'Try encoder='),
    (large, RESNET, 'not used: layer1.1.bn1.bias'),
    (wide, RESNET, r'wrong shape: params/conv1/kernel is \(7, 7, 3, 8\), the weights are \(7, 7, 3, 16\)'),
    (large, VIT, 'has no blocks.0.norm1.weight. It has bn1.bias, '),
    (large, Toy(), 'this encoder, of dense, is neither'),
  ):
    with pytest.raises(UserError, match=words):
      graft.plan((entry,), method, jax.eval_shape(lambda m=method: init_state(m, SGD, 0, BATCH)))


# ------------------------------------------------------------------------------------------------------------------ the loop


def config_of(method=None, **fields):
  config = base_config()
  config.batch_size, config.num_steps, config.data.image_size, config.data.test = 32, 2, 8, ''
  config.method = method or spec(Toy)
  config.optim = spec(Sgd, learning_rate=0.0, warmup='0', weight_decay=0.0)  # the parameters stay
  config.update(fields)
  return config


def train(config, workdir):
  run = loop.prepare(config, workdir)
  workdir.mkdir(exist_ok=True)
  lowered = loop.lower(run)
  return by_path(loop.train(run, lowered, workdir, StopRequest())), loop.summary(run, lowered)


def test_a_run_starts_from_the_graft_and_resumes_without_it(run, tmp_path):
  source, states = run
  shutil.copytree(source, tmp_path / 'source')
  config = config_of(graft=(str(tmp_path / 'source'),))
  after, summary = train(config, tmp_path / 'run')
  assert f'graft          params/encoder and memory/stats/encoder from {tmp_path}/source, step 20 (4 leaves)' in summary
  np.testing.assert_array_equal(after['params/encoder/dense/kernel'], states[1]['params/encoder/dense/kernel'])
  assert after['memory/stats/encoder/count'] == states[1]['memory/stats/encoder/count'] + 2
  assert not np.array_equal(after['params/head/kernel'], states[1]['params/head/kernel'])
  shutil.rmtree(tmp_path / 'source')
  with pytest.raises(UserError, match='no run with checkpoints'):
    loop.prepare(config)
  config.num_steps = 4
  again, summary = train(config, tmp_path / 'run')
  assert 'graft' not in summary
  np.testing.assert_array_equal(again['params/encoder/dense/kernel'], after['params/encoder/dense/kernel'])
  assert again['memory/stats/encoder/count'] == after['memory/stats/encoder/count'] + 2
  save(tmp_path / 'source', fresh(Toy(), 5))  # not on a resume, not even where it could
  config.num_steps, run = 6, loop.prepare(config)
  assert run.grafts
  after = by_path(loop.train(run, loop.lower(run), tmp_path / 'run', StopRequest()))
  np.testing.assert_array_equal(after['params/encoder/dense/kernel'], again['params/encoder/dense/kernel'])


def test_prepare_refuses_a_method_without_its_teacher():
  with pytest.raises(UserError, match='Toy needs memory/teacher'):
    loop.prepare(config_of(spec(Toy, teacher=True)))
  with pytest.raises(UserError, match='config.graft holds 3'):
    loop.prepare(config_of(graft=(3,)))


def test_labels_that_the_data_lacks(tmp_path):
  for i in range(40):
    Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / f'{i}.png')
  unlabelled = f'folder:{tmp_path}'
  for method, data, words in (
    (spec(Toy, uses_labels=True), unlabelled, 'Toy learns from labels, and config.data.train=folder:.* has none'),
    (spec(Averaged, inner=spec(Toy, uses_labels=True)), unlabelled, 'Averaged learns from labels'),
    (spec(Toy, uses_labels=True, num_classes=9), 'digits:', 'Toy is for 9 classes, and config.data.train=digits: has 10'),
    (spec(Averaged, inner=spec(Toy, uses_labels=True, num_classes=9)), 'digits:', 'Toy is for 9 classes'),
  ):
    config = config_of(method)
    config.data.train = data
    with pytest.raises(UserError, match=words):
      loop.prepare(config)
  for method, data in (
    (spec(Toy), unlabelled),
    (spec(Toy, num_classes=9), 'digits:'),
    (spec(Toy, uses_labels=True, num_classes=11), 'digits:'),
  ):
    config = config_of(method)
    config.data.train = data
    loop.prepare(config)
