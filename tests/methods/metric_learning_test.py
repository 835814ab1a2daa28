import jax
import numpy as np
import pytest
from methods import tiny
from methods.battery import Battery, ShortBattery, first_views

from sslax.methods.metric_learning import MetricLearning
from sslax.models import branch


def tiny_metric(**changes):
  return MetricLearning(**{**dict(encoder=tiny.resnet(), head=tiny.head(norm='none'), augment=tiny.PAIR), **changes})


@pytest.mark.slow
class TestTriplet(ShortBattery):
  def make(self):
    return tiny_metric()


class TestMargin(Battery):
  def make(self):
    return tiny_metric(objective='margin', margin=1.0)

  def make_without_batchnorm(self):
    return tiny_metric(encoder=tiny.vit(), objective='margin', margin=1.0)

  def test_loss_written_out(self, trainer, trained):
    """Half the squared distance of positives, half the squared shortfall of the distance of negatives, each averaged."""
    first, _, history = trained
    out, _ = jax.jit(lambda v: branch.apply(trainer.method.modules, first.params, first.memory['stats'], v, train=True))(
      branch.flatten_views(first_views(trainer.method))
    )
    z = np.asarray(out['head'], np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    d = np.linalg.norm(z[:, None] - z[None], axis=2)
    positive = np.mean([d[i, i ^ 1] ** 2 / 2 for i in range(32)])
    negative = np.mean([max(0, 1 - d[i, j]) ** 2 / 2 for i in range(32) for j in range(32) if i // 2 != j // 2])
    np.testing.assert_allclose(history[0]['loss'], positive + negative, rtol=1e-4)


@pytest.mark.parametrize('changes, word', [({'objective': 'tripplet'}, 'objective'), ({'margin': 0.0}, 'margin')])
def test_impossible_values_are_refused(changes, word):
  with pytest.raises(ValueError, match=word):
    tiny_metric(**changes)
