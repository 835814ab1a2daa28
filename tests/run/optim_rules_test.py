"""Rules by path, clipping and layer decay: what they cover, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run.optim_case import FACTS, PLAIN, build, by_path, decayed, gradients, groups_of, moves, params, run, vit_shapes

from sslax.errors import UserError
from sslax.models import net
from sslax.models.resnet import ResNet
from sslax.ops import tree
from sslax.run.optim import EXCLUDE, Adam, AdamW, Larc, Lars, Sgd
from sslax.run.optim.layers import layer_factors


@pytest.mark.parametrize(
  'exclude,kept',
  [
    ('auto', ['encoder/conv1/kernel', 'head/dense0/kernel']),
    (r'(bias|scale)$', ['encoder/conv1/kernel', 'head/dense0/kernel']),
    ('', ['encoder/bn1/bias', 'encoder/bn1/scale', 'encoder/conv1/kernel', 'head/dense0/bias', 'head/dense0/kernel']),
    ('^head|bn', ['encoder/conv1/kernel']),
    (EXCLUDE + '|^head/', ['encoder/conv1/kernel']),
  ],
)
def test_exclude_covers_what_it_says(exclude, kept):
  out = moves(Sgd(**PLAIN, weight_decay=0.5, exclude=exclude))
  for path, w in by_path(params()).items():
    np.testing.assert_allclose(out[path], 0.5 * w if path in kept else 0, atol=1e-6)


@pytest.mark.parametrize('exclude', ['auto', EXCLUDE, ''])
def test_what_is_excluded_is_not_adapted_either(exclude):
  """LARS and LARC: excluded leaves move by the rate times the gradient, the others by 0.1 |w| times its direction."""
  g = gradients()[0]
  for make in (Lars, Larc):
    out = moves(make(**PLAIN, weight_decay=0.0, exclude=exclude, trust_coefficient=0.1), g=g)
    for path, w in by_path(params()).items():
      trust = 0.1 * np.linalg.norm(w) / np.linalg.norm(by_path(g)[path])
      adapted = (not exclude or decayed(path)) and np.linalg.norm(w) > 0
      np.testing.assert_allclose(out[path], (trust if adapted else 1) * by_path(g)[path], rtol=1e-5, atol=1e-6, err_msg=path)


@pytest.mark.slow
def test_the_default_exclusions_of_real_networks_are_the_vectors():
  resnet, _ = jax.eval_shape(
    lambda: net.init(ResNet(depth=18, stages=(1, 1), base=4), jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  )
  for shapes in ({'encoder': resnet}, {'encoder': vit_shapes(layer_scale=0.1)['encoder']}):
    tx, _ = build(Sgd(**PLAIN, weight_decay=1.0, momentum=0.0), shapes)
    zeros, ones = (jax.tree.map(lambda s, x=x: jnp.full(s.shape, x), shapes) for x in (0.0, 1.0))
    updates, _ = jax.jit(tx.update)(zeros, tx.init(ones), ones)
    for path, leaf in zip(tree.paths(updates), jax.tree.leaves(updates), strict=True):
      assert bool((leaf != 0).any()) == (leaf.ndim > 1), path


def test_a_network_may_say_otherwise():
  """What has no weight decay is up to the groups, whatever it is called."""
  start = params()
  groups = jax.tree.map(lambda leaf: net.Group(decay=leaf.ndim == 1), start)
  tx, _ = Sgd(**PLAIN, weight_decay=0.5).build(FACTS, start, groups)
  updates, _ = tx.update(jax.tree.map(np.zeros_like, start), tx.init(start), start)
  for path, leaf in by_path(updates).items():
    np.testing.assert_allclose(leaf, -0.5 * by_path(start)[path] if leaf.ndim == 1 else 0)


def test_groups_multiply_rate_and_decay():
  groups = (('^head', 10.0, 1.0), ('kernel$', 1.0, 0.0), ('', 0.5, 2.0))
  ones = jax.tree.map(np.ones_like, params())
  out = moves(Sgd(**PLAIN, weight_decay=0.25, exclude='dense0/bias', groups=groups), g=ones)
  w = by_path(params())
  expected = {
    'encoder/bn1/bias': 0.5 * (1 + 0.5 * w['encoder/bn1/bias']),
    'encoder/bn1/scale': 0.5 * (1 + 0.5 * w['encoder/bn1/scale']),
    'encoder/conv1/kernel': 1 + 0 * w['encoder/conv1/kernel'],
    'head/dense0/bias': 10 + 0 * w['head/dense0/bias'],
    'head/dense0/kernel': 10 * (1 + 0.25 * w['head/dense0/kernel']),
    'head/zero/kernel': 10 + 0 * w['head/zero/kernel'],
  }
  for path, x in expected.items():
    np.testing.assert_allclose(out[path], x, rtol=1e-5, atol=1e-6, err_msg=path)


def test_group_rates_of_lars_are_rates():
  """Barlow Twins: 0.2 for weights, 0.0048 for biases. The trust ratio does not undo them."""
  g, (a, b) = gradients()[:3], (Lars(learning_rate=x, warmup='0', scaling='none') for x in (0.2, 0.0048))
  both = Lars(learning_rate=0.2, warmup='0', scaling='none', groups=((EXCLUDE, 0.024, 1.0), ('', 1.0, 1.0)))
  a, b, both = (by_path(run(x, params(), g)[0][-1]) for x in (a, b, both))
  for path in both:
    np.testing.assert_allclose(both[path], (a if decayed(path) else b)[path], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
  'groups,message',
  [
    ((('^encoder', 1.0, 1.0),), r'config\.optim\.groups: no rule covers head/dense0/bias'),
    ((('haed', 1.0, 1.0), ('', 1.0, 1.0)), r"config\.optim\.groups: 'haed' matches no parameter\. Nearest: head"),
    ((('', 1.0),), r'config\.optim\.groups\[0\]'),
    ((('', -1.0, 1.0),), r'config\.optim\.groups\[0\]'),
  ],
)
def test_groups_that_do_not_fit(groups, message):
  with pytest.raises(UserError, match=message):
    build(Sgd(**PLAIN, groups=groups), params())


@pytest.mark.parametrize('key', ['exclude', 'freeze', 'constant'])
def test_patterns_that_match_nothing(key):
  with pytest.raises(UserError, match=rf"config\.optim\.{key}: 'kernle\$' matches no parameter"):
    build(Sgd(**PLAIN, **{key: 'kernle$'}), params())


def test_the_default_exclusion_may_match_nothing():
  build(Lars(), {'encoder': {'kernel': jnp.ones((2, 2))}}, batch_size=1, total_steps=99, steps_per_epoch=1)


@pytest.mark.parametrize('make', [Lars, Larc, Sgd, AdamW, Adam])
def test_frozen_parameters_stay_and_have_no_state(make):
  optimizer = make(
    **PLAIN, weight_decay=0.1, freeze='^encoder', clip_norm=1.0, clip_each=0.5, constant='head',
    groups=(('^encoder', 2.0, 2.0), ('', 1.0, 1.0)),
  )  # fmt: skip
  got, _ = run(optimizer, params(), gradients())
  for path, w in by_path(params()).items():
    if path.startswith('encoder'):
      np.testing.assert_array_equal(by_path(got[-1])[path], w)
    else:
      assert (by_path(got[0])[path] != w).all()
  tx, _ = build(optimizer, params())
  assert not any(leaf.shape == (3, 3, 2, 4) for leaf in jax.tree.leaves(tx.init(params())))


def test_clip_norm_is_global_and_before_everything():
  g = gradients()[0]
  norm = np.sqrt(sum((x**2).sum() for x in by_path(g).values()))
  for limit, scale in ((1.0, 1 / norm), (1e6, 1.0)):
    out = moves(Sgd(**PLAIN, weight_decay=0.0, clip_norm=limit), g=g)
    for path, x in by_path(g).items():
      np.testing.assert_allclose(out[path], scale * x, rtol=1e-4, atol=1e-6)


def test_clip_each_is_dinos():
  """utils.clip_gradients: each parameter's own norm, multiplied only where clip / (norm + 1e-6) < 1; after the global one."""
  g = gradients()[0]
  norms = sorted(np.linalg.norm(x.ravel()) for x in by_path(g).values())
  limit = (norms[2] + norms[3]) / 2
  for more, shrink in ((dict(), 1.0), (dict(clip_norm=0.5), 0.5 / np.sqrt(sum(n**2 for n in norms)))):
    out = moves(Sgd(**PLAIN, weight_decay=0.0, clip_each=limit * shrink, **more), g=g)
    for path, x in by_path(g).items():
      coefficient = limit * shrink / (np.linalg.norm(x.ravel()) * shrink + 1e-6)
      np.testing.assert_allclose(out[path], shrink * x * min(coefficient, 1), rtol=1e-5, atol=1e-6, err_msg=path)
  tiny = jax.tree.map(lambda x: np.full_like(x, 1e-6), params())  # 1e-6 is seen: norm 1e-6 sqrt(20), limit 2e-6
  out = moves(Sgd(**PLAIN, weight_decay=0.0, clip_each=2e-6), jax.tree.map(np.zeros_like, tiny), tiny)
  np.testing.assert_allclose(out['head/dense0/kernel'], 1e-6 * 2 / (20**0.5 + 1), rtol=1e-4)


@pytest.mark.slow
def test_clip_each_takes_scanned_blocks_apart():
  ones = jax.tree.map(lambda s: np.ones(s.shape, np.float32), vit_shapes(scan=True))
  ones['encoder']['blocks']['fc1']['bias'][1] = 100.0  # [3, 64]
  for freeze in ('', '^head/'):
    out = moves(Sgd(**PLAIN, weight_decay=0.0, clip_each=80.0, freeze=freeze), ones, ones)['encoder/blocks/fc1/bias']
    np.testing.assert_allclose(out, np.array([[1.0], [10.0], [1.0]]).repeat(64, 1), rtol=1e-5)  # norms 8, 800, 8


def factors_of(shapes, d):
  return by_path(layer_factors(shapes, groups_of(shapes), d))


def test_layer_decay_is_maes():
  """util/lr_decay.py: scale d^(depth + 1 - id); embeddings 0, block i is i + 1, the rest depth + 1."""
  d, depth = 0.65, 3
  seen = set()
  for path, factor in factors_of(vit_shapes(), d).items():
    first = path.split('/')[1]
    if path == 'head/kernel' or first == 'norm':
      layer = depth + 1
    elif first in ('patches', 'cls', 'cls_position'):
      layer = 0
    else:
      layer = int(first.removeprefix('blocks_')) + 1
    seen.add(layer)
    np.testing.assert_allclose(factor, d ** (depth + 1 - layer), rtol=1e-6, err_msg=path)
  assert seen == {0, 1, 2, 3, 4}


def test_layer_decay_of_scanned_blocks_is_a_vector():
  stacked, loop = (factors_of(vit_shapes(scan), 0.75) for scan in (True, False))
  assert stacked['encoder/blocks/fc1/kernel'].shape == (3, 1, 1) and stacked['encoder/blocks/fc1/bias'].shape == (3, 1)
  for path, factor in stacked.items():
    if '/blocks/' in path:
      expected = [loop[path.replace('/blocks/', f'/blocks_{i}/')] for i in range(3)]
      np.testing.assert_allclose(factor.ravel(), expected, rtol=1e-6)
    else:
      assert factor == loop[path]


def test_layer_decay_is_of_the_encoder():
  """A decoder, which has blocks too, comes after all of them, and its depth does not count."""
  deep, vit = ({f'blocks_{i}': {'kernel': jnp.ones(1)} for i in range(n)} for n in (9, 3))
  shapes = {'encoder': vit, 'decoder': deep}
  groups = {name: {block: {'kernel': net.Group(layer=i + 1)} for i, block in enumerate(part)} for name, part in shapes.items()}
  factors = by_path(layer_factors(shapes, groups, 0.5))
  assert [factors[f'encoder/blocks_{i}/kernel'] for i in range(3)] == [0.125, 0.25, 0.5]
  assert all(factor == 1 for path, factor in factors.items() if path.startswith('decoder/'))


def test_layer_decay_scales_the_step():
  ones = jax.tree.map(lambda s: np.ones(s.shape, np.float32), vit_shapes(scan=True))
  out = moves(Sgd(**PLAIN, weight_decay=0.0, layer_decay=0.5, groups=(('^head', 3.0, 1.0), ('', 1.0, 1.0))), ones, ones)
  assert np.unique(out['encoder/blocks/fc1/kernel'][0]) == 0.125 and np.unique(out['encoder/blocks/fc1/kernel'][2]) == 0.5
  assert (out['encoder/cls'] == 0.0625).all() and (out['encoder/norm/scale'] == 1).all() and (out['head/kernel'] == 3).all()


def test_layer_decay_needs_blocks_and_lars_needs_them_apart():
  with pytest.raises(UserError, match=r'config\.optim\.layer_decay: .*blocks'):
    build(Sgd(**PLAIN, layer_decay=0.5), params())
  for make in (Lars, Larc):
    with pytest.raises(UserError, match=f'config.optim: {make.__name__} .* without scan'):
      build(make(warmup='0'), vit_shapes(scan=True))
    build(make(warmup='0', freeze='^encoder/'), vit_shapes(scan=True))  # nothing to scale there
    build(make(warmup='0'), vit_shapes(scan=False))
