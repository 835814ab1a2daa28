import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from sslax import errors
from sslax.evals import features
from sslax.method import Features, Method, Output
from sslax.models import net

TRACES = []


class Tiny(nn.Module):
  @nn.compact
  def __call__(self, image, train):
    x = nn.Conv(4, (3, 3), strides=2)(jnp.float32(image) / 255)
    return nn.BatchNorm(use_running_average=not train)(x).mean((1, 2))


@dataclasses.dataclass(frozen=True)
class Mean(Method):
  """Features of a small network; counts how often it is traced."""

  encoder: nn.Module = Tiny()

  def init(self, rng, views):
    params, stats = net.init(self.encoder, rng, views['image'])
    return {'encoder': params}, {'stats': stats}

  def loss(self, params, memory, views, rng, step):
    return jnp.zeros(()), Output(memory, {})

  def features(self, params, memory, batch):
    TRACES.append(sorted(batch))
    out, _ = net.apply(self.encoder, params['encoder'], memory['stats'], batch['image'], train=False)
    return Features(pooled=jnp.bfloat16(out), tokens=out[:, None], embedding=out)


@pytest.fixture(scope='module')
def setup():
  rng = np.random.default_rng(0)
  data = {'image': rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8), 'label': np.arange(40) % 7, 'index': np.arange(40) * 3}
  data['mask'] = np.arange(40) % 10 != 4
  method = Mean()
  params, memory = jax.jit(method.init)(jax.random.key(0), data)
  want, _ = net.apply(method.encoder, params['encoder'], memory['stats'], data['image'], train=False)
  return method, params, memory, data, np.asarray(want)


def batches(data, size):
  return [{k: v[i : i + size] for k, v in data.items()} for i in range(0, len(data['label']), size)]


@pytest.mark.parametrize('size', [8, 16, 40])  # 16: the last batch is shorter
def test_extract_equals_one_big_batch_without_the_masked(setup, size):
  method, params, memory, data, want = setup
  got = features.extract(method, params, memory, batches(data, size), key='embedding')
  np.testing.assert_allclose(got['embedding'], want[data['mask']], atol=1e-5)
  np.testing.assert_array_equal(got['label'], data['label'][data['mask']])
  np.testing.assert_array_equal(got['index'], data['index'][data['mask']])
  assert (got['embedding'].dtype, got['label'].dtype) == (np.float32, np.int32)


def test_mesh_of_eight_equals_one_device(setup):
  method, params, memory, data, want = setup
  mesh = jax.make_mesh((4, 2), ('data', 'fsdp'), axis_types=(AxisType.Auto,) * 2)
  got = features.extract(method, params, memory, batches(data, 16), mesh=mesh, key='embedding')
  np.testing.assert_allclose(got['embedding'], want[data['mask']], atol=1e-5)
  np.testing.assert_array_equal(got['index'], data['index'][data['mask']])
  with pytest.raises(errors.UserError, match='batch of 12 does not divide over 8 devices'):
    features.extract(method, params, memory, batches(data, 12), mesh=mesh)


def test_compiled_once_also_over_calls_and_blind_to_labels(setup):
  method, params, memory, data, want = setup
  features._compiled.cache_clear()
  TRACES.clear()
  for _ in range(2):
    got = features.extract(method, params, memory, iter(batches(data, 16)))
  assert TRACES == [['image', 'index']]
  assert got['pooled'].dtype == np.float32
  np.testing.assert_allclose(got['pooled'], want[data['mask']], atol=0.02)  # bfloat16


def test_missing_mask_keeps_all_and_progress_is_on_stderr(setup, capsys):
  method, params, memory, data, want = setup
  data = {k: v for k, v in data.items() if k != 'mask'}
  got = features.extract(method, params, memory, batches(data, 16), key='embedding', progress=True)
  np.testing.assert_allclose(got['embedding'], want, atol=1e-5)
  out, err = capsys.readouterr()
  assert '3/3' in err and not out


def test_extract_refuses(setup):
  method, params, memory, data, _ = setup
  run = lambda parts, **k: features.extract(method, params, memory, parts, **k)
  with pytest.raises(errors.UserError, match="no 'poled'. Did you mean pooled"):
    run(batches(data, 8), key='poled')
  assert run(batches(data, 8), key='tokens')['tokens'].shape == (36, 1, 4)
  with pytest.raises(errors.UserError, match='no usable record'):
    run([])
  with pytest.raises(errors.UserError, match='no usable record'):
    run([data | {'mask': np.zeros(40, bool)}])
  with pytest.raises(errors.UserError, match='batch of 16 after batches of 8'):
    run(batches(data, 8) + batches(data, 16))


@pytest.mark.parametrize(
  ('x', 'y', 'match'),
  [
    (np.ones((0, 3)), np.ones(0, int), 'at least one row'),
    (np.ones(3), np.ones(3, int), r'needs \[N, D\]'),
    (np.float32([[1, np.inf], [0, 0]]), [0, 0], 'NaN or Inf in 1 of 2'),
    (np.ones((3, 2)), [0, 1], 'one integer'),
    (np.ones((3, 2)), [0.0, 1.0, 1.0], 'one integer'),
    (np.ones((3, 2)), [0, 1, 4], '0 to 3'),
    (np.ones((3, 2)), [0, 1, -1], 'from -1'),
  ],
)
def test_checked_refuses(x, y, match):
  with pytest.raises(errors.UserError, match=match):
    features.checked(x, y, 4)


def test_blocks_and_unit():
  b = features.blocks(np.arange(10).reshape(5, 2), 3, -1)
  assert b.shape == (2, 3, 2) and b.reshape(6, 2)[:5].tolist() == np.arange(10).reshape(5, 2).tolist() and (b[1, 2] == -1).all()
  u = features.l2_normalize(np.float32([[3, 4], [0, 0]]))
  np.testing.assert_allclose(u, [[0.6, 0.8], [0, 0]], rtol=1e-6)
