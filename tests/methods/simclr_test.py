import jax
import numpy as np
import pytest
from methods.battery import Battery, Trainer, tiny_batch

from sslax.methods.averaged import Averaged
from sslax.methods.simclr import SimCLR
from sslax.models import branch
from sslax.models.mlp import MLP
from sslax.models.resnet import ResNet
from sslax.models.vit import ViT
from sslax.ops.views import RandomViews

AUGMENT = RandomViews(size=16, blur_kernel=3)


def tiny_simclr(**changes):
  fields = dict(
    encoder=ResNet(depth=18, stem='cifar', stages=(1, 1), base=8, projection='group', zero_init_residual=False),
    head=MLP(features=(16, 8), bias=False, final_bias=False, final_norm='bn_no_bias'),
    augment=AUGMENT,
    temperature=0.5,
  )
  return SimCLR(**{**fields, **changes})


class TestSimCLR(Battery):
  def make(self):
    return tiny_simclr()

  def make_without_batchnorm(self):
    encoder = ViT(width=16, depth=1, heads=2, patch=8)
    return tiny_simclr(encoder=encoder, head=MLP(features=(16, 8), norm='none'))

  @pytest.mark.slow
  def test_loss_is_the_papers_formula(self, trainer, trained):
    """Equation 1 written out in float64, on the projections of the real views of the first step."""
    first, _, history = trained
    method, views_rng = trainer.method, jax.random.split(jax.random.fold_in(jax.random.key(3), 0))[0]
    views = np.asarray(jax.jit(method.views)(views_rng, tiny_batch()))

    @jax.jit
    def project(params, memory, x):
      return branch.apply(method.modules, params, memory['stats'], x, train=True)[0]['head']

    z = np.asarray(project(first.params, first.memory, views.reshape(-1, 16, 16, 3)), np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    losses = []
    for i in range(len(z)):
      others = [np.exp(z[i] @ z[k] / method.temperature) for k in range(len(z)) if k != i]
      losses.append(-np.log(np.exp(z[i] @ z[i ^ 1] / method.temperature) / sum(others)))
    np.testing.assert_allclose(history[0]['loss'], np.mean(losses), rtol=1e-5)

  @pytest.mark.slow
  def test_learns(self):
    """On one batch the positives become the nearest: the loss falls well below its start at ln(2B - 1)."""
    gentle = RandomViews(size=16, area=(0.7, 1.0), jitter=(0.2, 0.2, 0.2, 0.05), gray_prob=0.0, blur_prob=0.0)
    _, history = Trainer(tiny_simclr(augment=gentle, temperature=0.2)).run(60)
    assert abs(history[0]['loss'] - np.log(2 * self.rows - 1)) < 1.0
    assert np.mean([m['loss'] for m in history[-5:]]) < 0.8 * np.mean([m['loss'] for m in history[:5]])


@pytest.mark.slow
class TestAveraged(Battery):
  def make(self):
    return Averaged(inner=tiny_simclr(), momentum=0.5)

  def test_average_is_the_written_out_sum(self, trainer):
    """average_n = m average + (1 - m) params, from the parameters that each step produced; training itself is untouched."""
    state = trainer.init(trainer.batch)
    average = jax.tree.map(np.asarray, state.params)
    for _ in range(3):
      state, _ = trainer.step(state, trainer.batch)
      average = jax.tree.map(lambda a, p: 0.5 * a + 0.5 * np.asarray(p), average, state.params)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(np.asarray(b), a, rtol=1e-5, atol=1e-7), average, state.memory['average']
    )


@pytest.mark.parametrize(
  'changes, word', [({'temperature': 0.0}, 'temperature'), ({'augment': RandomViews(count=3, size=16)}, 'count')]
)
def test_impossible_values_are_refused(changes, word):
  with pytest.raises(ValueError, match=word):
    tiny_simclr(**changes)
