import dataclasses

import jax
import numpy as np
import pytest
from methods import tiny
from methods.battery import Battery, tiny_batch

from sslax.methods.fastsiam import FastSiam
from sslax.models import branch


def tiny_fastsiam(**changes):
  fields = dict(
    encoder=tiny.resnet(),
    head=tiny.head(bias=False, final_bias=False, final_norm='bn'),
    predictor=tiny.head(bias=False),
    augment=dataclasses.replace(tiny.PAIR, count=3),
  )
  return FastSiam(**{**fields, **changes})


class TestFastSiam(Battery):
  def make(self):
    return tiny_fastsiam()

  def make_without_batchnorm(self):
    plain = tiny.head(norm='none')
    return tiny_fastsiam(encoder=tiny.vit(), head=plain, predictor=plain)

  @pytest.mark.slow
  def test_loss_written_out(self, trainer, trained):
    """Each prediction against the mean of the other two projections, in float64, on the views of the first step."""
    first, _, history = trained
    views = jax.jit(trainer.method.views)(jax.random.split(jax.random.fold_in(jax.random.key(3), 0))[0], tiny_batch())
    outs, _ = jax.jit(lambda v: branch.apply_each(trainer.method.modules, first.params, first.memory['stats'], v, train=True))(
      views
    )
    z, p = (np.stack([np.asarray(out[name], np.float64) for out in outs]) for name in ('head', 'predictor'))
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    losses = [-(unit(p[i]) * unit(np.mean([z[j] for j in range(3) if j != i], 0))).sum(-1).mean() for i in range(3)]
    np.testing.assert_allclose(history[0]['loss'], np.mean(losses), rtol=1e-4, atol=1e-6)


def test_one_view_is_refused():
  with pytest.raises(ValueError, match='two views'):
    tiny_fastsiam(augment=tiny.ONE)
