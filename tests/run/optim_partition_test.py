"""Several optimizers in one run: each is what it would be alone."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run.optim_case import FACTS, PLAIN, build, by_path, gradients, groups_of, params, run, update, vit_shapes

from sslax import spec
from sslax.errors import UserError
from sslax.models import net
from sslax.ops import tree
from sslax.run.optim import Adam, AdamW, Cosine, Lars, Partition, Sgd

# Global norms of clipping, trust ratios, exclusions, states: all differ where one optimizer sees what is another's.
FIRST = Lars(0.3, 'none', warmup='1 step', clip_norm=0.7, trust_coefficient=0.1, weight_decay=0.1, exclude='bn1/bias')
SECOND = AdamW(0.02, 'none', warmup='2 steps', clip_norm=0.5, weight_decay=0.2)


def alone(optimizer, name):
  """{path: [values after each step]} of one part of the parameters, without the other there."""
  out, _ = run(optimizer, {name: params()[name]}, [{name: g[name]} for g in gradients()])
  return [by_path(p) for p in out]


@pytest.mark.slow
def test_each_is_what_it_would_be_alone():
  got, rate = run(Partition(parts=(('^encoder/', FIRST), ('', SECOND))), params(), gradients())
  for out, a, b in zip(map(by_path, got), alone(FIRST, 'encoder'), alone(SECOND, 'head'), strict=True):
    for path, x in {**a, **b}.items():
      np.testing.assert_array_equal(out[path], x, err_msg=path)
  _, last = build(SECOND, params())
  _, first = build(FIRST, params())
  assert [rate(t) for t in range(6)] == [last(t) for t in range(6)] != [first(t) for t in range(6)]


def test_the_first_match_wins():
  """'' before '^encoder/' would leave that nothing, which is refused; here 'kernel$' takes the encoder's too."""
  fast, slow = Sgd(**PLAIN, weight_decay=0.0), Sgd(**{**PLAIN, 'learning_rate': 0.5}, weight_decay=0.0)
  got, _ = run(Partition(parts=(('kernel$', fast), ('^encoder/', slow), ('', fast))), params(), gradients()[:1])
  for path, x in by_path(got[0]).items():
    rate = 0.5 if path.startswith('encoder/bn1/') else 1.0
    np.testing.assert_allclose(x, by_path(params())[path] - rate * by_path(gradients()[0])[path], rtol=1e-5, atol=1e-6)


def test_the_state_is_a_tuple_of_theirs():
  partition = Partition(parts=(('^encoder/', Adam(warmup='0')), ('', Sgd(warmup='0'))))
  tx, _ = build(partition, params())
  state = jax.jit(tx.init)(params())
  assert isinstance(state, tuple) and len(state) == 2
  first, second = (tree.paths(part) for part in state)
  assert {'3/mu/encoder/conv1/kernel', '3/count', '4/count'} <= set(first) and not any('head' in path for path in first)
  assert '3/trace/head/dense0/kernel' in second and not any('encoder' in path for path in second)
  _, after = jax.eval_shape(lambda w, s: update(tx, w, s, w), params(), state)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  hash(tx)


@pytest.mark.parametrize('freeze', ['.', '^encoder/conv1/'])
def test_frozen_parts(freeze):
  """All of a part, or some of it: no state, no step; the part's own norms are of the rest."""
  partition = Partition(parts=(('^encoder/', Adam(0.1, 'none', warmup='0', freeze=freeze, clip_norm=1.0)), ('', SECOND)))
  got, _ = run(partition, params(), gradients())
  start, last = by_path(params()), by_path(got[-1])
  for path in start:
    moves = not path.startswith('encoder/') or (freeze != '.' and 'conv1' not in path)
    assert (last[path] != start[path]).all() == moves, path
  tx, _ = build(partition, params())
  assert not any('conv1' in path for path in tree.paths(tx.init(params())))


def test_partitions_of_partitions():
  inner = Partition(parts=(('bn1', FIRST), ('', Sgd(**PLAIN))))
  got, _ = run(Partition(parts=(('^head/', SECOND), ('', inner))), params(), gradients())
  flat, _ = run(Partition(parts=(('^head/', SECOND), ('bn1', FIRST), ('', Sgd(**PLAIN)))), params(), gradients())
  jax.tree.map(np.testing.assert_array_equal, got, flat)


@pytest.mark.parametrize('scan', [False, True])
def test_layer_decay_knows_the_depth_of_the_whole_encoder(scan):
  """Also where the last block, or the array of all of them, is of another part."""
  ones = jax.tree.map(lambda s: jnp.ones(s.shape), vit_shapes(scan))
  fields = dict(**PLAIN, weight_decay=0.0)
  regex = '^encoder/blocks_2/' if not scan else 'fc2'
  partition = Partition(parts=((regex, Sgd(**fields)), ('', Sgd(**fields, layer_decay=0.5))))
  got = by_path(run(partition, ones, [ones])[0][0])
  np.testing.assert_allclose(got['encoder/cls'], 1 - 0.5**4)
  if scan:
    np.testing.assert_allclose(got['encoder/blocks/fc1/bias'][:, 0], [1 - 0.5**3, 1 - 0.5**2, 0.5])
    without = Partition(parts=(('blocks', Sgd(**fields)), ('', Sgd(**fields, layer_decay=0.5))))
    np.testing.assert_allclose(by_path(run(without, ones, [ones])[0][0])['encoder/cls'], 1 - 0.5**4)
  else:
    np.testing.assert_allclose(got['encoder/blocks_1/fc1/bias'], 1 - 0.5**2)


def test_only_the_part_with_the_stack_needs_it_apart():
  shapes = vit_shapes(scan=True)
  build(Partition(parts=(('blocks', AdamW(warmup='0')), ('', Lars(warmup='0')))), shapes)
  with pytest.raises(UserError, match=r'config\.optim\.parts\[0\]\[1\]: Lars .* without scan'):
    build(Partition(parts=(('blocks', Lars(warmup='0')), ('', AdamW(warmup='0')))), shapes)


@pytest.mark.parametrize(
  'parts,message',
  [
    ((('^encoder/', SECOND),), r'config\.optim\.parts: no rule covers head/dense0/bias'),
    ((('^haed/', SECOND), ('', SECOND)), r"config\.optim\.parts: '\^haed/' matches no parameter\. Nearest: head"),
    ((('', SECOND), ('^head/', SECOND)), r"config\.optim\.parts\[1\]: all parameters that '\^head/' matches are of parts before"),
    (((SECOND, ''),), r'config\.optim\.parts\[0\]=.* is not \(regex, optimizer\)'),
    ((('', SECOND, 1),), r'config\.optim\.parts\[0\]=.* is not \(regex, optimizer\)'),
    ((('', 'adam'),), r"config\.optim\.parts\[0\]=\('', 'adam'\) is not \(regex, optimizer\)"),
    ((('^head/', Sgd(**PLAIN, exclude='conv1')), ('', SECOND)), r"parts\[0\]\[1\]\.exclude: 'conv1' matches no parameter"),
    ((('^head/', Sgd(learning_rate=-1.0)), ('', SECOND)), r'config\.optim\.parts\[0\]\[1\]\.learning_rate=-1\.0'),
    ((), r'config\.optim\.parts: no rule covers'),
  ],
)
def test_parts_that_do_not_fit(parts, message):
  with pytest.raises(UserError, match=message):
    build(Partition(parts=parts), params())


def test_configs_of_partitions():
  """Nodes inside tuples are built, also out of a saved config."""
  node = spec.spec(Partition, parts=(('^head/', spec.spec(Adam, schedule=Cosine(0.1))), ('', spec.spec(Sgd, momentum=0.5))))
  expected = Partition(parts=(('^head/', Adam(schedule=Cosine(0.1))), ('', Sgd(momentum=0.5))))
  assert spec.build(node, 'config.optim') == expected

  def tuples(value):  # what run/config.py does to a saved config
    if isinstance(value, list):
      return tuple(map(tuples, value))
    return {key: tuples(v) for key, v in value.items()} if isinstance(value, dict) else value

  assert spec.build(tuples(json.loads(node.to_json()))) == expected


def test_two_players_take_their_own_steps():
  """Under jit with the state donated, as a run's step is, with groups of all parameters and shapes for parameters."""
  partition = Partition(parts=(('^head/', Sgd(**PLAIN, weight_decay=0.5)), ('', Sgd(**PLAIN, weight_decay=0.0, momentum=0.0))))
  shapes = jax.eval_shape(functools.partial(params, 0))
  tx, _ = partition.build(FACTS, shapes, net.groups({}, shapes))
  assert jax.tree.structure(groups_of(shapes)) == jax.tree.structure(shapes)
  zeros = jax.tree.map(np.zeros_like, params())
  updates, _ = jax.jit(tx.update)(zeros, tx.init(params()), params())
  assert (by_path(updates)['head/dense0/kernel'] == -0.5 * by_path(params())['head/dense0/kernel']).all()
  assert not by_path(updates)['encoder/conv1/kernel'].any() and not by_path(updates)['head/dense0/bias'].any()
