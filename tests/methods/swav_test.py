import jax
import numpy as np
import pytest
from methods import tiny
from methods.battery import Battery, Trainer, first_views

from sslax.methods.swav import SwAV
from sslax.models import branch
from sslax.models.prototypes import Prototypes
from sslax.ops.schedules import Ramp

NOW = Ramp(0.0, 1.0, 'step', steps=0)


def tiny_swav(**changes):
  fields = dict(
    encoder=tiny.resnet(),
    head=tiny.head(),
    prototypes=Prototypes(12),
    augment=tiny.CROPS,
    queue_size=32,
    queue_from=NOW,
    train_prototypes=NOW,
  )
  return SwAV(**{**fields, **changes})


class TestSwAV(Battery):
  def make(self):
    return tiny_swav()

  def make_without_batchnorm(self):
    return tiny_swav(encoder=tiny.vit(), head=tiny.head(norm='none'))

  @pytest.mark.slow
  def test_loss_written_out(self, trainer, trained):
    """Codes by Sinkhorn of the two large crops, predicted from every other crop; the queue is empty and takes no part."""
    first, last, history = trained
    outs, _ = jax.jit(lambda v: branch.apply_crops(trainer.method.modules, first.params, first.memory['stats'], v, train=True))(
      first_views(trainer.method)
    )
    scores = np.moveaxis(np.asarray(outs['prototypes'].scores, np.float64), 1, 0)
    log_p = scores / 0.1 - np.log(np.exp(scores / 0.1).sum(-1, keepdims=True))
    loss = []
    for a in range(2):
      q = np.exp(scores[a] / 0.05)
      for _ in range(3):
        q /= q.sum(0, keepdims=True) * 12
        q /= q.sum(1, keepdims=True) * 16
      loss += [-(16 * q * log_p[v]).sum(1).mean() for v in range(4) if v != a]
    np.testing.assert_allclose(history[0]['loss'], np.mean(loss), rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(last.params['prototypes']['kernel'], axis=0), 1, rtol=1e-5)


@pytest.mark.slow
def test_the_queue_takes_part_once_it_is_full():
  """32 rows are two batches: the codes of the third step are others than without a queue."""
  with_queue, without = (Trainer(tiny_swav(queue_size=n)).run(4)[1] for n in (32, 0))
  losses = lambda history: [m['loss'] for m in history]
  np.testing.assert_allclose(losses(with_queue)[:2], losses(without)[:2], rtol=1e-5)
  assert abs(losses(with_queue)[2] - losses(without)[2]) > 1e-5


@pytest.mark.slow
def test_prototypes_stand_still_at_first():
  trainer = Trainer(tiny_swav(train_prototypes=Ramp(0.0, 1.0, 'step', steps=1)))
  first = np.asarray(trainer.init(trainer.batch).params['prototypes']['kernel'])
  state, _ = trainer.run(1)
  np.testing.assert_allclose(state.params['prototypes']['kernel'], first, rtol=1e-6)
