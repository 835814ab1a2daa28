import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslax.errors import UserError
from sslax.models import net
from sslax.models.mlp import MLP
from sslax.models.vit import ViT
from sslax.ops.microbatches import running_in


def rows(B=12, D=6):
  return np.random.default_rng(0).standard_normal((B, D)).astype(np.float32)


def initial(module, x):
  return jax.jit(lambda key: net.init(module, key, x))(jax.random.key(0))


def lively(module, x):
  """Parameters of order one, and the first statistics."""
  rng = np.random.default_rng(1)
  params, stats = jax.eval_shape(lambda key: net.init(module, key, x), jax.random.key(0))
  params = jax.tree.map(lambda p: np.float32((p.ndim == 1) + 0.3 * rng.standard_normal(p.shape)), params)
  return params, jax.tree.map(lambda s: np.ones(s.shape, np.float32), stats)


@functools.partial(jax.jit, static_argnames=('module', 'train', 'microbatches'))
def apply(module, params, stats, x, train, rng=None, microbatches=1):
  with running_in(microbatches):
    return net.apply(module, params, stats, x, train=train, rng=rng)


def test_init_separates_parameters_from_statistics():
  params, stats = initial(MLP((5, 4)), rows())
  assert params.keys() == {'dense0', 'norm0', 'dense1'} and stats.keys() == {'norm0'}
  assert params['norm0'].keys() == {'scale', 'bias'} and stats['norm0'].keys() == {'mean', 'var'}
  np.testing.assert_array_equal(stats['norm0']['mean'], 0)  # init does not move them
  assert initial(MLP((5, 4), norm='ln'), rows())[1] == {}


def test_statistics_move_in_training_only():
  head, x = MLP((5, 4)), rows()
  params, stats = lively(head, x)
  _, same = net.apply(head, params, stats, x, train=False)
  assert same is stats
  _, new = apply(head, params, stats, x, train=True)
  assert jax.tree.structure(new) == jax.tree.structure(stats)
  assert all(np.all(a != b) for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(stats), strict=True))


@pytest.mark.parametrize(
  'module, shape, microbatches',
  [(MLP((5, 4), norm='ln'), (12, 6), 3), (ViT(width=8, depth=1, heads=2, patch=4), (12, 8, 8, 3), 2)],
)
@pytest.mark.slow
def test_microbatches_change_nothing_without_batch_norm(module, shape, microbatches):
  """Rows stay in order, and a loss that couples all rows has the same gradient (GradCache)."""
  x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
  params, stats = lively(module, x)

  def loss(params, n):
    with running_in(n):
      out, _ = net.apply(module, params, stats, x, train=True)
    z = out if isinstance(out, jax.Array) else out.pooled
    return jnp.sum(jnp.tanh(z @ z.T) * jnp.arange(144.0).reshape(12, 12)) / 144, out

  step = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
  ((value, out), grads), ((value2, out2), grads2) = step(params, 1), step(params, microbatches)
  np.testing.assert_allclose(value, value2, rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), out, out2)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), grads, grads2)


def test_microbatches_with_batch_norm_are_ghost_batches():
  """Row i belongs to microbatch i % n; each has its own statistics, and the running ones move n times."""
  head, x = MLP((5, 4)), rows()
  params, stats = lively(head, x)
  out, new = apply(head, params, stats, x, train=True, microbatches=3)
  running = stats
  for i in range(3):
    part, running = apply(head, params, running, x[i::3], train=True)
    np.testing.assert_allclose(out[i::3], part, rtol=1e-5, atol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), new, running)
  _, same = apply(head, params, stats, x, train=False, microbatches=3)
  jax.tree.map(np.testing.assert_array_equal, same, stats)


def test_microbatches_draw_their_own_randomness():
  model = ViT(width=8, depth=2, heads=2, patch=4, drop_path=0.5)
  x = np.broadcast_to(np.random.default_rng(0).standard_normal((1, 8, 8, 3)).astype(np.float32), (64, 8, 8, 3))
  params, _ = lively(model, x[:1])
  z = apply(model, params, {}, x, train=True, rng=jax.random.key(0), microbatches=2)[0].pooled
  z = np.asarray(z)
  assert np.abs(z[0::2] - z[1::2]).max() > 1e-3  # equal images, equal places in their microbatch, other draws


def test_refuses_rows_that_do_not_divide():
  head, x = MLP((4,)), rows(10)
  with pytest.raises(UserError, match='10 rows do not divide into config.microbatches=4'), running_in(4):
    net.apply(head, *lively(head, x), x, train=True)


def test_what_is_whole_does_not_run_in_pieces():
  head, x = MLP((5, 4)), rows(12)
  params, stats = lively(head, x)
  with running_in(4) as pieces:
    out, new = net.apply(head, params, stats, x, train=True, whole=True)
    assert not pieces.used
    net.apply(head, params, stats, x, train=True)
    assert pieces.used and pieces.count == 4
  expected, moved = net.apply(head, params, stats, x, train=True)
  np.testing.assert_array_equal(out, expected)
  jax.tree.map(np.testing.assert_array_equal, new, moved)


@pytest.mark.parametrize('microbatches', [1, 2])
def test_a_method_of_the_module_and_a_function_of_several(microbatches):
  model = ViT(width=8, depth=1, heads=2, patch=4)
  x = rows(4 * 8 * 8, 3).reshape(4, 8, 8, 3)
  params, _ = lively(model, x)
  whole, _ = apply(model, params, {}, x, train=False)

  def loss(token):
    def filled(vit, x, masked, train):
      tokens = vit.embed(x, masked, token)
      return tokens, vit.encode(tokens, train)

    with running_in(microbatches):
      (tokens, out), stats = net.apply(model, params, {}, x, np.eye(4, dtype=bool), train=False, method=filled)
      assert stats == {} and tokens.shape == (4, 4, 8)
      encoded, _ = net.apply(model, params, {}, tokens, train=False, method='encode')
    return jnp.sum(jnp.sin(out.tokens)), (out, encoded)

  (_, (out, encoded)), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(jnp.zeros(8))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), out, encoded)
  assert np.abs(np.asarray(out.pooled) - np.asarray(whole.pooled)).max() > 1e-2  # one patch of each is another
  assert np.abs(grad).min() > 1e-4  # the function closed over an array, and its gradient comes back
