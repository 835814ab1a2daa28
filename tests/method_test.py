"""What all methods share: wrappers that hide nothing, fields that are settled when a run is known, features by name."""

import dataclasses
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods.battery import tiny_batch
from methods.tiny import PAIR, head, vit

from sslax.errors import UserError
from sslax.inputs.image import Image
from sslax.method import Classes, Facts, Features, Method, Output, Records, Wrapper, encoder_stats, settled
from sslax.methods.averaged import Averaged
from sslax.methods.online_probe import OnlineProbe
from sslax.methods.simclr import SimCLR
from sslax.ops.schedules import Ramp

FACTS = Facts(batch_size=8, total_steps=10, steps_per_epoch=2.0, num_records=160, num_classes=7)


@dataclasses.dataclass(frozen=True)
class Echo(Method):
  """Gives back what it is asked, and says something other than the default to everything."""

  uses_labels = True
  label_classes = 5

  def inputs(self):
    return {'image': Image(8), 'other': Image(4)}

  @property
  def modules(self):
    return {'encoder': 'network'}

  def init(self, rng, views):
    return {'encoder': ('init', rng, views)}, {'count': 0}

  def views(self, rng, batch):
    return 'views', rng, batch

  def loss(self, params, memory, views, rng, step):
    return ('loss', params, views, rng, step), Output({'count': memory['count'] + 1}, {'seen': 1})

  def after(self, params, memory, step):
    return ('after', params, step), {'count': memory['count'] + 10}

  def features(self, params, memory, batch):
    return 'features', params, memory, batch

  def feature_inputs(self, name):
    return 'feature_inputs', name

  def augmented(self, rng, batch):
    return 'augmented', rng, batch

  def view_pictures(self, views):
    return 'view_pictures', views

  def pictures(self, params, memory, batch, rng):
    return 'pictures', params, memory, batch, rng

  def grafts(self):
    return ('params/encoder', 'memory/teacher')


def test_a_wrapper_hands_everything_through():
  """In both directions, two deep; and no member of the contract is left out of this test, or of Wrapper."""
  wrapped = Wrapper(Wrapper(Echo()))
  memory = {'inner': {'inner': {'count': 0}}}
  members = {name for name in vars(Method) if not name.startswith('_')}
  assert members == {name for name in vars(Wrapper) if not name.startswith('_')} - {'inner'}
  for name in members:
    ours, theirs = inspect.getattr_static(Wrapper, name), inspect.getattr_static(Method, name)
    if callable(ours):
      assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters), name

  assert wrapped.uses_labels is True and wrapped.label_classes == 5
  assert wrapped.inputs() == Echo().inputs() and wrapped.modules == {'encoder': 'network'}
  assert wrapped.views('r', 'b') == ('views', 'r', 'b')
  assert wrapped.init('r', 'v') == ({'encoder': ('init', 'r', 'v')}, memory)
  assert wrapped.loss('p', memory, 'v', 'r', 's') == (
    ('loss', 'p', 'v', 'r', 's'),
    ({'inner': {'inner': {'count': 1}}}, {'seen': 1}),
  )
  assert wrapped.after('p', memory, 's') == (('after', 'p', 's'), {'inner': {'inner': {'count': 10}}})
  assert wrapped.features('p', memory, 'b') == ('features', 'p', {'count': 0}, 'b')
  assert wrapped.feature_inputs('logits') == ('feature_inputs', 'logits')
  assert wrapped.augmented('r', 'b') == ('augmented', 'r', 'b')
  assert wrapped.view_pictures('v') == ('view_pictures', 'v')
  assert wrapped.pictures('p', memory, 'b', 'r') == ('pictures', 'p', {'count': 0}, 'b', 'r')
  assert wrapped.grafts() == ('params/encoder', 'memory/inner/inner/teacher')


@pytest.mark.parametrize('wrap', [Averaged, lambda inner: OnlineProbe(inner, num_classes=4)], ids=['Averaged', 'OnlineProbe'])
def test_our_wrappers_show_the_views_of_what_they_wrap(wrap):
  batch, rng = tiny_batch(2), jax.random.key(1)
  inner = SimCLR(encoder=vit(), head=head(), augment=PAIR, temperature=0.5)
  outer = wrap(inner)
  shown = [jax.jit(lambda m=m: m.view_pictures(m.views(rng, batch)))() for m in (inner, outer)]
  assert shown[0].keys() == shown[1].keys() and len(shown[0]) == 2
  jax.tree.map(np.testing.assert_array_equal, *shown)
  jax.tree.map(np.testing.assert_array_equal, *(m.augmented(rng, batch) for m in (inner, outer)))


def test_an_online_probe_hands_on_the_views_of_what_it_wraps_alone():
  assert OnlineProbe(Echo(), num_classes=4).view_pictures({'inner': 'v', 'batch': 'b', 'label': 'l'}) == ('view_pictures', 'v')


def test_settled_everywhere_that_a_setting_can_stand():
  @dataclasses.dataclass(frozen=True)
  class Bank:
    rows: int | Records = Records()

  class Classifier(nn.Module):
    classes: int | Classes = Classes()

  @dataclasses.dataclass(frozen=True)
  class Holder:
    bank: Bank
    pairs: tuple = ((Records(), 2), 'x')
    head: nn.Module = Classifier()
    momentum: Ramp | float = 0.5
    plain: int = 3

  found = settled(Wrapper(Holder(Bank())), FACTS).inner
  assert found.bank.rows == 160 and found.pairs == ((160, 2), 'x') and found.head.classes == 7 and found.plain == 3
  untouched = Holder(Bank(1), (1, 2), Classifier(4))
  assert settled(untouched, FACTS) is untouched  # what holds no setting stays the same object
  with pytest.raises(UserError, match='no labels'):
    settled(Classifier(), FACTS._replace(num_classes=0))


def test_a_ramp_is_settled_to_the_steps_of_the_run():
  ramp = settled(Ramp(0.0, 1.0, 'linear', '50%'), FACTS)
  assert [float(ramp(step)) for step in (0, 2, 5, 9)] == pytest.approx([0.0, 0.4, 1.0, 1.0])


def test_features_by_name():
  features = Features(pooled=jnp.ones((2, 4)), tokens=jnp.ones((2, 3, 5, 4)), stride=(8, 8), layers={'one': jnp.ones((2, 4))})
  assert features.grid == (3, 5) and set(features.named()) == {'pooled', 'tokens', 'layers/one'}
  assert Features().grid == () and Features().named() == {}
  again = jax.jit(lambda x: x)(features)  # a pytree: the stride is not traced
  assert again.stride == (8, 8) and again.logits is None


def test_where_the_statistics_of_the_encoder_are():
  assert encoder_stats('memory/stats/encoder/bn/mean') == 'memory/stats/encoder'
  assert encoder_stats('memory/inner/inner/stats/encoder/bn/mean') == 'memory/inner/inner/stats/encoder'
  for path in ('memory/stats/encoder2/mean', 'memory/stats/head/mean', 'params/encoder/kernel', 'memory/target/stats/encoder'):
    assert encoder_stats(path) == ''
