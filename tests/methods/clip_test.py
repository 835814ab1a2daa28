import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.image_text_test import slow_clip
from methods import tiny
from methods.battery import Battery, ShortBattery, still, tiny_batch

from sslax.errors import UserError
from sslax.inputs.text import Text
from sslax.methods.clip import CLIP
from sslax.methods.online_probe import OnlineProbe
from sslax.models.mlp import MLP, Identity
from sslax.models.resnet_clip import ModifiedResNet
from sslax.models.text import TextTransformer

CAPTION = Text('bytes', 8)
HEAD = MLP((8,), final_bias=False, kernel_init='normal_0.25')


def text(**changes):
  return TextTransformer(**{**dict(width=16, depth=1, heads=2, vocab_size=259, length=8), **changes})


def tiny_clip(**changes):
  vit = tiny.vit(pre_norm=True, patch_bias=False, weight_init='clip', activation='quick_gelu')
  return CLIP(
    **{**dict(encoder=vit, text=text(), augment=tiny.ONE, head=HEAD, text_head=HEAD, caption=Text('bytes', 8)), **changes}
  )


def captions(rows=16, seed=0):
  """[rows, 8] ids: start 18, one to six tokens, end 19."""
  rng = np.random.default_rng(seed)
  ids = np.zeros((rows, 8), np.int32)
  for row, n in zip(ids, rng.integers(1, 7, rows), strict=True):
    row[: n + 2] = [18, *rng.integers(1, 18, n), 19]
  return ids


class Captioned:
  """A batch with texts."""

  def batch(self, seed=0):
    return tiny_batch(self.rows, seed=seed) | {'text': captions(self.rows, seed)}


class TestCLIP(Captioned, Battery):
  def make(self):
    return tiny_clip()

  def make_without_batchnorm(self):
    return tiny_clip()

  def test_the_first_loss_written_out(self, trainer, trained):
    """The first step's loss from the features of what it saw, in float64; the metrics beside it."""
    first, _, history = trained
    method, batch = trainer.method, self.batch()
    views_rng, _ = jax.random.split(jax.random.fold_in(jax.random.key(3), 0))
    views = jax.jit(method.views)(views_rng, batch)
    np.testing.assert_array_equal(views['text'], batch['text'])
    seen = {'image': np.asarray(views['image'][:, 0]), 'text': views['text']}
    out = jax.jit(method.features)(first.params, first.memory, seen)
    image, texts = np.float64(out.embedding), np.float64(out.text_embedding)
    np.testing.assert_allclose([np.linalg.norm(image, axis=1), np.linalg.norm(texts, axis=1)], 1, rtol=1e-5)
    np.testing.assert_allclose(history[0]['loss'], slow_clip(image, texts, 1 / 0.07), rtol=1e-5)
    np.testing.assert_allclose(history[0]['scale'], 1 / 0.07, rtol=1e-6)
    s = image @ texts.T
    np.testing.assert_allclose(history[0]['image_to_text'], (s.argmax(1) == np.arange(16)).mean())
    np.testing.assert_allclose(history[0]['text_to_image'], (s.argmax(0) == np.arange(16)).mean())

  def test_features_of_images_of_texts_and_of_both(self, trainer, trained):
    _, last, _ = trained

    def shapes(*keys):
      batch = {key: self.batch()[key] for key in keys}
      out = jax.eval_shape(trainer.method.features, last.params, last.memory, batch)
      return {key: a.shape for key, a in out.named().items()}

    assert shapes('text') == {'text_embedding': (16, 8)}
    assert shapes('image') == {'pooled': (16, 16), 'tokens': (16, 2, 2, 16), 'embedding': (16, 8)}
    assert shapes('image', 'text') == shapes('image') | shapes('text')

  def test_the_scale_stays_in_its_bounds(self, trainer, trained):
    _, last, _ = trained
    for there, then in ((np.log(101.0), np.log(100.0)), (-0.1, 0.0), (1.5, 1.5)):
      params = {**last.params, 'logit_scale': jnp.float32(there)}
      np.testing.assert_allclose(trainer.method.after(params, last.memory, 0)[0]['logit_scale'], then, rtol=1e-6)
      free = dataclasses.replace(trainer.method, max_scale=0.0).after(params, last.memory, 0)[0]['logit_scale']
      np.testing.assert_allclose(free, there, rtol=1e-6)


@pytest.mark.slow
class TestCLIPResNet(Captioned, ShortBattery):
  """The modified ResNet, which ends in the joint space."""

  def make(self):
    resnet = ModifiedResNet((1,), base=4, embed=8, zero_init_residual=False)
    return tiny_clip(encoder=resnet, head=Identity(), text=text(causal=False, pool='mean', scan=True))


@pytest.mark.slow
class TestLiT(Captioned, ShortBattery):
  """The image tower has running statistics, which must stay, too."""

  frozen = ('stats',)

  def make(self):
    return tiny_clip(encoder=tiny.resnet(), freeze_image=True, temperature=0.1, max_scale=0.0)

  def test_2_every_parameter_moves(self, trained):
    first, last, _ = trained
    assert still(first.params['encoder'], last.params['encoder']) == still(first.params['encoder'], first.params['encoder'])
    rest = lambda params: {k: v for k, v in params.items() if k != 'encoder'}
    assert still(rest(first.params), rest(last.params)) == []

  def test_the_tower_comes_from_elsewhere(self):
    assert self.make().grafts() == ('params/encoder', 'memory/stats/encoder')
    assert tiny_clip().grafts() == ()


def test_images_and_captions_are_wanted_and_the_probe_sees_the_images():
  for method in (tiny_clip(), OnlineProbe(tiny_clip(), num_classes=4)):
    assert list(method.inputs()) == ['image', 'text'] and method.feature_inputs('pooled') == ('image',)
    assert method.feature_inputs('text_embedding') == ('text',)
  with pytest.raises(UserError, match='vocab_size=258 is too small for the 259 tokens'):
    tiny_clip(text=text(vocab_size=258)).inputs()
  published = tiny_clip(text=text(vocab_size=49408), caption=Text('bpe', 8))
  assert list(published.inputs()) == ['image', 'text'], 'the size of the published vocabulary is known without it'


def test_two_spaces_are_refused():
  method = tiny_clip(text_head=Identity())
  views = {'image': np.zeros((1, 1, 16, 16, 3), np.float32), 'text': captions(1)}
  with pytest.raises(ValueError, match='ends in 8 dimensions and the text tower in 16'):
    jax.eval_shape(lambda: method.init(jax.random.key(0), views))


@pytest.mark.parametrize(
  'changes, word',
  [({'temperature': 0.0}, 'temperature'), ({'temperature': 0.001}, 'max_scale'), ({'augment': tiny.PAIR}, 'augment.count')],
)
def test_impossible_values_are_refused(changes, word):
  with pytest.raises(ValueError, match=word):
    tiny_clip(**changes)
