import jax
import numpy as np
import pytest
from losses.image_text_test import slow_siglip
from methods import tiny
from methods.battery import ShortBattery
from methods.clip_test import CAPTION, HEAD, Captioned, text

from sslax.methods.siglip import SigLIP


def tiny_siglip(**changes):
  fields = dict(encoder=tiny.vit(pool='mean'), text=text(causal=False, pool='last', weight_init='mae'), augment=tiny.ONE)
  return SigLIP(**{**fields, 'head': HEAD, 'text_head': HEAD, 'caption': CAPTION, **changes})


class TestSigLIP(Captioned, ShortBattery):
  def make(self):
    return tiny_siglip()

  def make_without_batchnorm(self):
    return tiny_siglip()

  def test_the_first_loss_written_out(self, trainer, trained):
    first, _, history = trained
    method, batch = trainer.method, self.batch()
    views_rng, _ = jax.random.split(jax.random.fold_in(jax.random.key(3), 0))
    views = jax.jit(method.views)(views_rng, batch)
    seen = {'image': np.asarray(views['image'][:, 0]), 'text': views['text']}
    out = jax.jit(method.features)(first.params, first.memory, seen)
    slow = slow_siglip(np.float64(out.embedding), np.float64(out.text_embedding), 10.0, -10.0)
    np.testing.assert_allclose(history[0]['loss'], slow, rtol=1e-5)
    np.testing.assert_allclose([history[0]['scale'], history[0]['bias']], [10.0, -10.0], rtol=1e-6)


@pytest.mark.parametrize('changes, word', [({'init_scale': 0.0}, 'init_scale'), ({'augment': tiny.PAIR}, 'augment.count')])
def test_impossible_values_are_refused(changes, word):
  with pytest.raises(ValueError, match=word):
    tiny_siglip(**changes)


def test_a_frozen_tower_comes_from_elsewhere():
  assert tiny_siglip(freeze_image=True).grafts() == ('params/encoder', 'memory/stats/encoder')
