"""Paths, rules, moving averages and norms of trees."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sslax.errors import UserError
from sslax.ops import tree

TREE = {'encoder': {'bn1': {'scale': 1, 'bias': 2}, 'conv1': {'kernel': 3}}, 'head': [4, 5]}


def test_paths_in_the_order_of_the_leaves():
  assert tree.paths(TREE) == ['encoder/bn1/bias', 'encoder/bn1/scale', 'encoder/conv1/kernel', 'head/0', 'head/1']
  assert jax.tree.leaves(TREE) == [2, 1, 3, 4, 5]
  state = optax.ScaleByAdamState(0, {'w': 1}, {'w': 2})
  assert tree.paths(state) == ['count', 'mu/w', 'nu/w']


def test_map_with_path():
  out = tree.map_with_path(lambda path, leaf: f'{path}={leaf}', TREE)
  assert jax.tree.structure(out) == jax.tree.structure(TREE)
  assert out['encoder']['bn1']['scale'] == 'encoder/bn1/scale=1' and out['head'][1] == 'head/1=5'


def test_assign_takes_the_first_rule_that_matches():
  out = tree.assign(TREE, (('^encoder/bn', 'norm'), (r'encoder', 'rest'), ('', 'all')))
  assert out == {'encoder': {'bn1': {'scale': 'norm', 'bias': 'norm'}, 'conv1': {'kernel': 'rest'}}, 'head': ['all', 'all']}


def test_assign_searches_anywhere_in_the_path():
  assert jax.tree.leaves(tree.assign(TREE, ((r'(bias|scale)$', 0.0), ('', 1.0)))) == [0.0, 0.0, 1.0, 1.0, 1.0]


def test_assign_keeps_values_that_are_none_or_false():
  assert tree.assign({'a': 1, 'b': 2}, (('a', None), ('b', False))) == {'a': None, 'b': False}


def test_assign_covers_every_path_or_fails():
  with pytest.raises(UserError, match=r'config\.optim\.groups: no rule covers encoder/conv1/kernel, head/0, head/1\.'):
    tree.assign(TREE, (('bn', 1),), 'config.optim.groups')
  with pytest.raises(UserError, match='a0, a1, a2, a3, a4 and 3 more'):
    tree.assign({f'a{i}': i for i in range(8)} | {'b': 0}, (('b', 1),))


def test_assign_refuses_a_rule_that_matches_nothing_and_names_the_nearest_paths():
  with pytest.raises(UserError, match=r"here: 'encoder/conv7/kernel' matches no parameter\. Nearest: encoder/conv1/kernel"):
    tree.assign(TREE, (('encoder/conv7/kernel', 1), ('', 2)), 'here')


def test_a_rule_behind_a_complete_one_is_no_mistake():
  assert tree.assign({'a': 1}, (('a', 'x'), ('', 'y'))) == {'a': 'x'}


def test_assign_refuses_a_malformed_regex():
  with pytest.raises(UserError, match=r"here: '\(' is no regular expression"):
    tree.assign(TREE, (('(', 1),), 'here')


def test_ema_is_the_formula_and_exact_at_both_ends():
  t, o = {'a': jnp.array([1.0, 2.0])}, {'a': jnp.array([3.0, -2.0])}
  np.testing.assert_allclose(tree.ema(t, o, 0.9)['a'], [1.2, 1.6], rtol=1e-6)
  np.testing.assert_array_equal(tree.ema(t, o, 1.0)['a'], t['a'])
  np.testing.assert_array_equal(tree.ema(t, o, 0.0)['a'], o['a'])


def test_ema_computes_in_float32_and_keeps_the_dtypes_of_the_target():
  target = {'w': jnp.ones(2, jnp.float32), 'n': jnp.int32(3)}
  online = {'w': jnp.full(2, 1.0078125, jnp.bfloat16), 'n': jnp.int32(8)}
  out = jax.jit(tree.ema)(target, online, 0.996)
  assert out['w'].dtype == jnp.float32 and out['n'].dtype == jnp.int32
  # In bfloat16 the next number after 1 is 1.0078: this step of 3e-5 would be lost.
  np.testing.assert_allclose(out['w'] - 1, 0.004 * 0.0078125, rtol=5e-3)
  assert out['n'] == 8
  assert tree.ema({'w': online['w']}, {'w': target['w']}, 0.5)['w'].dtype == jnp.bfloat16


def test_l2_norm_is_that_of_all_leaves_together():
  assert tree.l2_norm({'a': jnp.array([3.0]), 'b': [jnp.array([[0.0, 4.0]])]}) == 5
  assert tree.l2_norm({}) == 0


def test_l2_norm_accumulates_in_float32():
  x = jnp.full(4096, 1.0, jnp.bfloat16).at[0].set(300)
  np.testing.assert_allclose(tree.l2_norm({'x': x, 'n': jnp.int32(2)}), np.sqrt(300**2 + 4095 + 4), rtol=1e-6)
