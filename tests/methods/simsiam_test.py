import jax
import numpy as np
import pytest
from methods import tiny
from methods.battery import Battery, first_views

from sslax.methods.simsiam import SimSiam
from sslax.models import branch


def tiny_simsiam(**changes):
  fields = dict(
    encoder=tiny.resnet(),
    head=tiny.head(final_norm='bn_no_affine', bias=False, final_bias=False),
    predictor=tiny.head(bias=False),
    augment=tiny.PAIR,
  )
  return SimSiam(**{**fields, **changes})


class TestSimSiam(Battery):
  def make(self):
    return tiny_simsiam()

  def make_without_batchnorm(self):
    return tiny_simsiam(encoder=tiny.vit(), head=tiny.head(norm='none'), predictor=tiny.head(norm='none'))

  @pytest.mark.slow
  def test_loss_and_stop_gradient_written_out(self, trainer, trained):
    """Equation 2 on the views of the first step; the gradient is that of predictions against constants."""
    first, history = jax.tree.map(jax.numpy.asarray, trained[0]), trained[2]
    method, views = trainer.method, first_views(trainer.method)

    def loss(params, targets):
      outs, _ = branch.apply_each(method.modules, params, first.memory['stats'], views, train=True)
      unit = lambda x: x / jax.numpy.linalg.norm(x, axis=1, keepdims=True)
      z = [out['head'] for out in outs] if targets is None else targets
      return -sum((unit(outs[a]['predictor']) * unit(z[b])).sum(1).mean() for a, b in ((0, 1), (1, 0))) / 2

    outs, _ = branch.apply_each(method.modules, first.params, first.memory['stats'], views, train=True)
    constants = [out['head'] for out in outs]
    value, grads = jax.jit(jax.value_and_grad(loss))(first.params, constants)
    np.testing.assert_allclose(history[0]['loss'], value, rtol=1e-4, atol=1e-6)
    through = jax.jit(jax.grad(loss))(first.params, None)
    ours = jax.jit(jax.grad(lambda p: method.loss(p, first.memory, views, jax.random.key(0), 0)[0]))(first.params)
    kernel = lambda tree: np.asarray(tree['head']['dense0']['kernel'])
    np.testing.assert_allclose(kernel(ours), kernel(grads), rtol=1e-3, atol=1e-6)
    assert np.abs(kernel(through) - kernel(grads)).max() > 1e-4  # without the cut it would be another gradient
