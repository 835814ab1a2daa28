"""The contract of a method: what keeps it passes, and each way of breaking it is told by function and leaf, exit code 2."""

import dataclasses

import jax.numpy as jnp
import pytest
from run.toy import Toy

from sslax.contract import check
from sslax.errors import UserError
from sslax.inputs.image import Image
from sslax.method import Facts, Features, Output

FACTS = Facts(batch_size=8, total_steps=10, steps_per_epoch=2.0, num_records=16, num_classes=3)


def broken(**functions):
  """A Toy with some functions replaced."""
  return type('Broken', (Toy,), functions)()


def changed(**changes):
  """A Toy whose loss returns the parts of its result changed: memory, metrics, loss, statistics of the encoder."""

  def loss(self, params, memory, views, rng, step):
    value, out = Toy.loss(self, params, memory, views, rng, step)
    stats = {**out.memory['stats']['encoder'], **changes.get('stats', {})}
    stats = {key: x for key, x in stats.items() if x is not None}
    new = {**out.memory, 'stats': {**out.memory['stats'], 'encoder': stats}, **changes.get('memory', {})}
    return changes.get('loss', value), Output(new, changes.get('metrics', out.metrics))

  return broken(loss=loss)


def test_what_is_seen_of_a_method_that_keeps_it():
  seen = check(Toy(), FACTS)
  assert seen.params['encoder']['dense']['kernel'].shape == (192, 8)
  assert seen.memory['stats']['encoder']['count'].dtype == 'int32'
  assert {key: x.shape for key, x in seen.batch.items()} == {'image': (8, 8, 8, 3), 'index': (8,), 'label': (8,)}
  assert {key: x.shape for key, x in seen.features.items()} == {'pooled': (2, 8)}
  assert not seen.microbatched
  assert 'label' not in check(Toy(), FACTS._replace(num_classes=0)).batch


BROKEN = {
  'no inputs': (broken(inputs=lambda self: {}), ['Broken.inputs: it returned {}', 'sslax.method.Input']),
  'an input that is none': (broken(inputs=lambda self: {'image': 32}), ["Broken.inputs: it returned {'image': 32}"]),
  'one array twice': (broken(inputs=lambda self: {'a': Image(8), 'b': Image(8)}), ["the input 'b'", "'image'", 'taken']),
  'feature inputs': (broken(feature_inputs=lambda self, name: ('sound',)), ["names 'sound'", 'image']),
  'init returns one value': (broken(init=lambda self, rng, views: {}), ['Broken.init', 'returned a dict', '(params, memory)']),
  'no encoder': (broken(init=lambda self, rng, views: ({'net': jnp.zeros(2)}, {})), ['Broken.init', "'encoder'", 'it has net']),
  'a memory leaf is lost': (changed(stats={'mean': None}), ['Broken.loss', 'memory/stats/encoder/mean is lost']),
  'a memory leaf is new': (changed(stats={'var': jnp.zeros(8)}), ['Broken.loss', 'memory/stats/encoder/var is new']),
  'another dtype': (
    changed(stats={'count': jnp.float32(1)}),
    ['Broken.loss', 'memory/stats/encoder/count was int32[] and is float32[]'],
  ),
  'another shape': (changed(stats={'mean': jnp.zeros(4)}), ['memory/stats/encoder/mean was float32[8] and is float32[4]']),
  'another structure': (changed(memory={'queue': []}), ['another structure']),
  'a loss with a shape': (changed(loss=jnp.zeros(8)), ['Broken.loss', 'float32[8]', 'scalar float']),
  'an integer loss': (changed(loss=jnp.int32(0)), ['Broken.loss', 'int32[]', 'scalar float']),
  'a metric that is taken': (changed(metrics={'loss': jnp.float32(0)}), ['Broken.loss', "'loss'", 'every run']),
  'a metric that is no number': (changed(metrics={'std': 'wide'}), ['Broken.loss', "'std' is a str", 'number']),
  'a metric with a shape': (changed(metrics={'std': jnp.zeros(3)}), ['Broken.loss', "'std'", '(3,)']),
  'no Output': (broken(loss=lambda self, params, memory, *_: (0.0, memory)), ['Broken.loss', 'returned a dict', 'Output']),
  'after loses a parameter': (
    broken(after=lambda self, params, memory, step: ({'encoder': params['encoder']}, memory)),
    ['Broken.after', 'params/head/kernel is lost'],
  ),
  'features of another kind': (broken(features=lambda *_: {'pooled': jnp.zeros((2, 8))}), ['Broken.features', 'a dict']),
  'nothing pooled': (broken(features=lambda *_: Features()), ['Broken.features', 'pooled', '[2, D]']),
  'pooled places': (broken(features=lambda *_: Features(pooled=jnp.zeros((2, 3, 8)))), ['Broken.features', '(2, 3, 8)']),
  'pooled integers': (broken(features=lambda *_: Features(pooled=jnp.zeros((2, 8), int))), ['Broken.features', 'int', 'float32']),
  'a stranger among the modules': (
    broken(modules=property(lambda self: {'encodr': None})),
    ['Broken.init', 'encodr', 'no part of params (encoder, head)'],
  ),
  'an exception': (broken(views=lambda self, rng, batch: batch['sound']), ['Broken.views', "KeyError: 'sound'", 'TRACEBACK']),
  'labels that are not there': (Toy(uses_labels=True), ['Toy learns from labels']),
  'too many classes': (Toy(label_classes=2), ['Toy is for 2 classes', 'has 3']),
}  # fmt: skip


@pytest.mark.parametrize('name', BROKEN)
def test_what_breaks_it_is_told_by_function_and_leaf(name):
  method, said = BROKEN[name]
  facts = FACTS._replace(num_classes=0) if method.uses_labels else FACTS
  with pytest.raises(UserError) as error:
    check(method, facts)
  assert [words for words in said if words not in str(error.value)] == [], error.value


def test_three_leaves_are_named_and_the_others_counted():
  many = {f'extra{i}': jnp.zeros(2) for i in range(5)}
  with pytest.raises(UserError, match='extra2 is new and 2 more'):
    check(changed(memory=many), FACTS)


def test_the_traceback_of_an_exception_on_demand(monkeypatch):
  monkeypatch.setenv('SSLAX_TRACEBACK', '1')
  with pytest.raises(KeyError, match='sound'):
    check(BROKEN['an exception'][0], FACTS)


def test_facts_are_settled_before_anything_is_traced():
  from sslax.method import Classes

  assert check(dataclasses.replace(Toy(), label_classes=Classes()), FACTS).method.label_classes == 3
