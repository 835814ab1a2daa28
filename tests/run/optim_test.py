"""Each optimizer against its formula in numpy, the rules by path, and the numbers of the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sslax import spec
from sslax.errors import UserError
from sslax.models import net
from sslax.models.resnet import ResNet
from sslax.models.vit import ViT
from sslax.ops import tree
from sslax.run.optim import Optimizer, layer_factors

STEPS = 6
RUN = dict(batch_size=256, total_steps=STEPS, steps_per_epoch=2)


def params(seed=0):
  """A tree like a small ResNet's: convolution, BatchNorm, dense with bias, and a kernel of zeros."""
  normal = np.random.default_rng(seed).standard_normal
  return {
    'encoder': {
      'conv1': {'kernel': normal((3, 3, 2, 4), np.float32)},
      'bn1': {'scale': normal(4, np.float32), 'bias': normal(4, np.float32)},
    },
    'head': {
      'dense0': {'kernel': normal((4, 5), np.float32), 'bias': normal(5, np.float32)},
      'zero': {'kernel': np.zeros((5, 2), np.float32)},
    },
  }


def gradients():
  """One for each step; the second kernel's is zero at the third, so that its norm is."""
  out = [params(seed) for seed in range(1, STEPS + 1)]
  for i, g in enumerate(out):
    g['head']['zero']['kernel'] = params(100 + i)['head']['dense0']['kernel'][:, :2].repeat(2, 0)[:5]
  out[2]['head']['dense0']['kernel'] = np.zeros((4, 5), np.float32)
  return out


def run(optimizer, start, grads, **units):
  """[the parameters after each step], jitted with the state donated, and the schedule."""
  tx, rate = optimizer.build(**{**RUN, **units}, params_shape=jax.eval_shape(lambda: start))
  step = jax.jit(lambda w, state, g: update(tx, w, state, g), donate_argnums=(0, 1))
  w, state, out = jax.tree.map(jnp.array, start), jax.jit(tx.init)(start), []
  for g in grads:
    w, state = step(w, state, g)
    out.append(jax.tree.map(np.array, w))
  assert step._cache_size() == 1
  return out, rate


def update(tx, w, state, g):
  updates, state = tx.update(g, state, w)
  return optax.apply_updates(w, updates), state


def by_path(t):
  return dict(zip(tree.paths(t), map(np.float64, jax.tree.leaves(t)), strict=True))


def decayed(path):
  return path.rpartition('/')[2] == 'kernel'


def cosine(step, peak=1.0, end=0.0, total=STEPS):
  return end + (peak - end) * (1 + np.cos(np.pi * step / total)) / 2


def slow_lars(w, v, g, t, path, wd, momentum, nesterov):
  """google-research/simclr, lars_optimizer.py, with classic momentum."""
  lr, trust = 0.5 * cosine(t), 1.0
  if decayed(path):
    g = g + wd * w
    w_norm, g_norm = np.sqrt((w * w).sum()), np.sqrt((g * g).sum())
    trust = 0.02 * w_norm / g_norm if w_norm > 0 and g_norm > 0 else 1.0
  v = momentum * v + lr * trust * g
  return w - (momentum * v + lr * trust * g if nesterov else v), v


def slow_sgd(w, v, g, t, path, wd, momentum, nesterov):
  """torch.optim.SGD."""
  g = g + wd * w if decayed(path) else g
  v = momentum * v + g
  return w - 0.5 * cosine(t) * (g + momentum * v if nesterov else v), v


@pytest.mark.parametrize('nesterov', [False, True])
@pytest.mark.parametrize('wd', [0.0, 0.1])
@pytest.mark.parametrize('name,formula', [('lars', slow_lars), ('sgd', slow_sgd)])
def test_momentum_optimizers_are_their_formulas(name, formula, wd, nesterov):
  # wd = 0 makes a zero gradient reach the trust ratio; the kernel of zeros has no norm at the first step.
  optimizer = Optimizer(name, 0.5, 'none', warmup='0 steps', weight_decay=wd, trust_coefficient=0.02, nesterov=nesterov)
  got, _ = run(optimizer, params(), gradients())
  w = by_path(params())
  v = {path: np.zeros_like(x) for path, x in w.items()}
  for t, (g, out) in enumerate(zip(map(by_path, gradients()), map(by_path, got), strict=True)):
    for path in w:
      w[path], v[path] = formula(w[path], v[path], g[path], t, path, wd, 0.9, nesterov)
      np.testing.assert_allclose(out[path], w[path], rtol=2e-5, atol=1e-6, err_msg=f'{path} at step {t}')


def slow_larc(w, v, g, lr, wd, clip, nesterov, eta=0.02, eps=0.5, momentum=0.9):
  """apex/parallel/LARC.py around torch.optim.SGD; solo-learn's solo/utils/lars.py is the same formula."""
  p_norm, g_norm = np.sqrt((w * w).sum()), np.sqrt((g * g).sum())
  if p_norm != 0 and g_norm != 0:
    adaptive_lr = eta * p_norm / (g_norm + p_norm * wd + eps)
    if clip:
      adaptive_lr = min(adaptive_lr / lr, 1) if lr > 0 else 1  # torch: tensor / 0.0 is inf
    g = (g + wd * w) * adaptive_lr
  v = momentum * v + g
  return w - lr * (g + momentum * v if nesterov else v), v


@pytest.mark.parametrize('clip,nesterov,exclude', [(False, False, ''), (True, False, r'(bias|scale)$'), (True, True, '')])
def test_larc_is_its_formula(clip, nesterov, exclude):
  """SwAV: clip False, everything adapted and decayed. solo-learn: clip_lr, no 1-D parameters, a group with a rate of its own."""
  optimizer = Optimizer(
    'larc', 0.05, 'none', warmup='2 steps', weight_decay=0.3, exclude=exclude, trust_coefficient=0.02, eps=0.5, clip_lr=clip,
    nesterov=nesterov, groups=(('^head', 0.5, 1.0), ('', 1.0, 1.0)),
  )  # fmt: skip
  got, rate = run(optimizer, params(), gradients())
  w = by_path(params())
  v = {path: np.zeros_like(x) for path, x in w.items()}
  sides = set()
  for t, (g, out) in enumerate(zip(map(by_path, gradients()), map(by_path, got), strict=True)):
    base = 0.05 * t / 2 if t < 2 else 0.05 * cosine(t - 2, total=STEPS - 2)
    np.testing.assert_allclose(rate(t), base, rtol=1e-5)
    for path in w:
      lr = base * (0.5 if path.startswith('head') else 1.0)
      if exclude and not decayed(path):
        v[path] = 0.9 * v[path] + g[path]
        w[path] = w[path] - lr * (g[path] + 0.9 * v[path] if nesterov else v[path])
      else:
        sides.add(0.02 * np.linalg.norm(w[path]) / (np.linalg.norm(g[path]) + 0.3 * np.linalg.norm(w[path]) + 0.5) < lr)
        w[path], v[path] = slow_larc(w[path], v[path], g[path], lr, 0.3, clip, nesterov)
      np.testing.assert_allclose(out[path], w[path], rtol=2e-5, atol=1e-6, err_msg=f'{path} at step {t}')
  assert sides == {True, False}  # trust below and above the rate


@pytest.mark.parametrize('name', ['lars', 'larc', 'sgd', 'adamw'])
def test_constant_rates_are_those_of_a_run_without_schedule(name):
  """SimSiam's --fix-pred-lr: the rest follows the schedule, inside lars's momentum too. Each leaf moves on its own here."""
  optimizer = dict(name=name, learning_rate=0.1, scaling='none', warmup='2 steps', warmup_init=0.05, trust_coefficient=0.2)
  a, b, both = (
    by_path(run(Optimizer(**optimizer, **more), params(), gradients())[0][-1])
    for more in (dict(schedule='cosine'), dict(schedule='constant'), dict(schedule='cosine', constant='^head'))
  )
  for path, x in both.items():
    assert np.abs(a[path] - b[path]).max() > 1e-3
    np.testing.assert_allclose(x, (b if path.startswith('head') else a)[path], rtol=1e-6, err_msg=path)


@pytest.mark.parametrize('name', ['adamw', 'adam'])
def test_adam_and_adamw_are_their_formulas(name):
  wd, b1, b2, eps = 0.1, 0.9, 0.95, 1e-8
  optimizer = Optimizer(name, 0.02, 'none', warmup='2 steps', weight_decay=wd, b1=b1, b2=b2, eps=eps)
  got, rate = run(optimizer, params(), gradients())
  w = by_path(params())
  m, n = ({path: np.zeros_like(x) for path, x in w.items()} for _ in range(2))
  for t, (g, out) in enumerate(zip(map(by_path, gradients()), map(by_path, got), strict=True)):
    lr = 0.02 * t / 2 if t < 2 else 0.02 * cosine(t - 2, total=STEPS - 2)
    np.testing.assert_allclose(rate(t), lr, rtol=1e-5)
    for path in w:
      strength = wd if decayed(path) else 0.0
      d = g[path] + strength * w[path] if name == 'adam' else g[path]
      m[path] = b1 * m[path] + (1 - b1) * d
      n[path] = b2 * n[path] + (1 - b2) * d**2
      u = m[path] / (1 - b1 ** (t + 1)) / (np.sqrt(n[path] / (1 - b2 ** (t + 1))) + eps)
      w[path] = w[path] - lr * (u + strength * w[path] if name == 'adamw' else u)
      np.testing.assert_allclose(out[path], w[path], rtol=2e-5, atol=1e-6, err_msg=f'{path} at step {t}')


def test_lars_and_sgd_differ_only_in_where_the_rate_acts():
  """Constant rate: the same without adaptation. A falling one: lars coasts, so it goes further."""
  g = [jax.tree.map(np.ones_like, params())] * STEPS
  make = lambda name, schedule: Optimizer(name, 0.1, 'none', schedule=schedule, warmup='0', weight_decay=0.0, exclude='/')
  for schedule, equal in (('constant', True), ('cosine', False)):
    a, b = (by_path(run(make(name, schedule), params(), g)[0][-1]) for name in ('lars', 'sgd'))
    for path, start in by_path(params()).items():
      if equal:
        np.testing.assert_allclose(a[path], b[path], rtol=1e-5, atol=1e-6)
      else:
        assert (start - a[path] > start - b[path] + 1e-3).all()


def test_weight_decay_on_a_cosine():
  """DINO: decay from 0.04 to 0.4 over the run; zero gradients leave w <- w (1 - lr wd_t)."""
  optimizer = Optimizer('adamw', 0.5, 'none', schedule='constant', warmup='0', weight_decay=0.04, weight_decay_end=0.4)
  got, _ = run(optimizer, params(), [jax.tree.map(np.zeros_like, params())] * STEPS)
  w = params()['head']['dense0']['kernel'].astype(np.float64)
  for t in range(STEPS):
    w = w * (1 - 0.5 * cosine(t, 0.04, 0.4))
    np.testing.assert_allclose(got[t]['head']['dense0']['kernel'], w, rtol=1e-5)
  np.testing.assert_array_equal(got[-1]['encoder']['bn1']['scale'], params()['encoder']['bn1']['scale'])


def moves(optimizer, start=None, g=None):
  """{path: what one step of the optimizer takes off}."""
  start = start or params()
  g = g or jax.tree.map(np.zeros_like, start)
  after = by_path(run(optimizer, start, [g])[0][0])
  return {path: w - after[path] for path, w in by_path(start).items()}


SGD = dict(name='sgd', learning_rate=1.0, scaling='none', schedule='constant', warmup='0')


@pytest.mark.parametrize(
  'exclude,kept',
  [
    (r'(bias|scale)$', ['encoder/conv1/kernel', 'head/dense0/kernel']),
    ('', ['encoder/bn1/bias', 'encoder/bn1/scale', 'encoder/conv1/kernel', 'head/dense0/bias', 'head/dense0/kernel']),
    ('^head|bn', ['encoder/conv1/kernel']),
  ],
)
def test_exclude_covers_what_it_says(exclude, kept):
  out = moves(Optimizer(**SGD, weight_decay=0.5, exclude=exclude))
  for path, w in by_path(params()).items():
    np.testing.assert_allclose(out[path], 0.5 * w if path in kept else 0, atol=1e-6)


def test_the_default_exclusions_of_real_networks_are_the_vectors():
  resnet, _ = jax.eval_shape(
    lambda: net.init(ResNet(depth=18, stages=(1, 1), base=4), jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  )
  vit = vit_shapes(layer_scale=0.1)['encoder']
  for shapes in (resnet, vit):
    tx, _ = Optimizer(**SGD, weight_decay=1.0, momentum=0.0).build(**RUN, params_shape=shapes)
    zeros, ones = (jax.tree.map(lambda s, x=x: jnp.full(s.shape, x), shapes) for x in (0.0, 1.0))
    updates, _ = jax.jit(tx.update)(zeros, tx.init(ones), ones)
    for path, leaf in zip(tree.paths(updates), jax.tree.leaves(updates), strict=True):
      assert bool((leaf != 0).any()) == (leaf.ndim > 1), path


def test_groups_multiply_rate_and_decay():
  groups = (('^head', 10.0, 1.0), ('kernel$', 1.0, 0.0), ('', 0.5, 2.0))
  ones = jax.tree.map(np.ones_like, params())
  out = moves(Optimizer(**SGD, weight_decay=0.25, exclude='dense0/bias', groups=groups), g=ones)
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
  g, (a, b) = gradients()[:3], (Optimizer(learning_rate=x, warmup='0', scaling='none') for x in (0.2, 0.0048))
  both = Optimizer(learning_rate=0.2, warmup='0', scaling='none', groups=((r'(bias|scale)$', 0.024, 1.0), ('', 1.0, 1.0)))
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
    Optimizer(**SGD, groups=groups).build(**RUN, params_shape=params())


@pytest.mark.parametrize('key', ['exclude', 'freeze', 'constant'])
def test_patterns_that_match_nothing(key):
  with pytest.raises(UserError, match=rf"config\.optim\.{key}: 'kernle\$' matches no parameter"):
    Optimizer(**SGD, **{key: 'kernle$'}).build(**RUN, params_shape=params())


def test_the_default_exclusion_may_match_nothing():
  Optimizer().build(batch_size=1, total_steps=99, steps_per_epoch=1, params_shape={'encoder': {'kernel': jnp.ones((2, 2))}})


@pytest.mark.parametrize('name', ['lars', 'larc', 'sgd', 'adamw', 'adam'])
def test_frozen_parameters_stay_and_have_no_state(name):
  optimizer = Optimizer(
    **{**SGD, 'name': name},
    weight_decay=0.1,
    freeze='^encoder',
    clip_norm=1.0,
    clip_each=0.5,
    constant='head',
    groups=(('^encoder', 2.0, 2.0), ('', 1.0, 1.0)),
  )
  got, _ = run(optimizer, params(), gradients())
  for path, w in by_path(params()).items():
    if path.startswith('encoder'):
      np.testing.assert_array_equal(by_path(got[-1])[path], w)
    else:
      assert (by_path(got[0])[path] != w).all()
  tx, _ = optimizer.build(**RUN, params_shape=params())
  assert not any(leaf.shape == (3, 3, 2, 4) for leaf in jax.tree.leaves(tx.init(params())))


def test_clip_norm_is_global_and_before_everything():
  g = gradients()[0]
  norm = np.sqrt(sum((x**2).sum() for x in by_path(g).values()))
  for limit, scale in ((1.0, 1 / norm), (1e6, 1.0)):
    out = moves(Optimizer(**SGD, weight_decay=0.0, clip_norm=limit), g=g)
    for path, x in by_path(g).items():
      np.testing.assert_allclose(out[path], scale * x, rtol=1e-4, atol=1e-6)


def test_clip_each_is_dinos():
  """utils.clip_gradients: each parameter's own norm, multiplied only where clip / (norm + 1e-6) < 1; after the global one."""
  g = gradients()[0]
  norms = sorted(np.linalg.norm(x.ravel()) for x in by_path(g).values())
  limit = (norms[2] + norms[3]) / 2
  for more, shrink in ((dict(), 1.0), (dict(clip_norm=0.5), 0.5 / np.sqrt(sum(n**2 for n in norms)))):
    out = moves(Optimizer(**SGD, weight_decay=0.0, clip_each=limit * shrink, **more), g=g)
    for path, x in by_path(g).items():
      coefficient = limit * shrink / (np.linalg.norm(x.ravel()) * shrink + 1e-6)
      np.testing.assert_allclose(out[path], shrink * x * min(coefficient, 1), rtol=1e-5, atol=1e-6, err_msg=path)
  tiny = jax.tree.map(lambda x: np.full_like(x, 1e-6), params())  # 1e-6 is seen: norm 1e-6 sqrt(20), limit 2e-6
  out = moves(Optimizer(**SGD, weight_decay=0.0, clip_each=2e-6), jax.tree.map(np.zeros_like, tiny), tiny)
  np.testing.assert_allclose(out['head/dense0/kernel'], 1e-6 * 2 / (20**0.5 + 1), rtol=1e-4)


def test_clip_each_takes_scanned_blocks_apart():
  ones = jax.tree.map(lambda s: np.ones(s.shape, np.float32), vit_shapes(scan=True))
  ones['encoder']['blocks']['fc1']['bias'][1] = 100.0  # [3, 64]
  out = moves(Optimizer(**SGD, weight_decay=0.0, clip_each=80.0), ones, ones)['encoder/blocks/fc1/bias']
  np.testing.assert_allclose(out, np.array([[1.0], [10.0], [1.0]]).repeat(64, 1), rtol=1e-5)  # norms 8, 800, 8


def vit_shapes(scan=False, **kwargs):
  vit = ViT(width=16, depth=3, heads=2, patch=8, scan=scan, **kwargs)
  encoder, _ = jax.eval_shape(lambda: net.init(vit, jax.random.key(0), jnp.zeros((1, 16, 16, 3))))
  return {'encoder': encoder, 'head': {'kernel': jax.ShapeDtypeStruct((16, 10), jnp.float32)}}


def test_layer_decay_is_maes():
  """util/lr_decay.py: scale d^(depth + 1 - id); embeddings 0, block i is i + 1, the rest depth + 1."""
  d, depth = 0.65, 3
  factors = by_path(layer_factors(vit_shapes(), d))
  seen = set()
  for path, factor in factors.items():
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
  stacked, loop = (by_path(layer_factors(vit_shapes(scan), 0.75)) for scan in (True, False))
  assert stacked['encoder/blocks/fc1/kernel'].shape == (3, 1, 1) and stacked['encoder/blocks/fc1/bias'].shape == (3, 1)
  for path, factor in stacked.items():
    if '/blocks/' in path:
      expected = [loop[path.replace('/blocks/', f'/blocks_{i}/')] for i in range(3)]
      np.testing.assert_allclose(factor.ravel(), expected, rtol=1e-6)
    else:
      assert factor == loop[path]


def test_layer_decay_scales_the_step():
  ones = jax.tree.map(lambda s: np.ones(s.shape, np.float32), vit_shapes(scan=True))
  out = moves(Optimizer(**SGD, weight_decay=0.0, layer_decay=0.5, groups=(('^head', 3.0, 1.0), ('', 1.0, 1.0))), ones, ones)
  assert np.unique(out['encoder/blocks/fc1/kernel'][0]) == 0.125 and np.unique(out['encoder/blocks/fc1/kernel'][2]) == 0.5
  assert (out['encoder/cls'] == 0.0625).all() and (out['encoder/norm/scale'] == 1).all() and (out['head/kernel'] == 3).all()


def test_layer_decay_needs_blocks_and_lars_needs_them_apart():
  with pytest.raises(UserError, match=r'config\.optim\.layer_decay: .*blocks'):
    Optimizer(**SGD, layer_decay=0.5).build(**RUN, params_shape=params())
  for name in ('lars', 'larc'):
    with pytest.raises(UserError, match=f'name={name} .* without scan'):
      Optimizer(name, warmup='0').build(**RUN, params_shape=vit_shapes(scan=True))
    Optimizer(name, warmup='0', freeze='^encoder/').build(**RUN, params_shape=vit_shapes(scan=True))  # nothing to scale there


@pytest.mark.parametrize(
  'kwargs,batch,peak',
  [
    (dict(learning_rate=0.3), 4096, 4.8),  # SimCLR, section 2.1 and appendix B.1
    (dict(learning_rate=0.075, scaling='sqrt'), 4096, 4.8),
    (dict(learning_rate=0.06, reference_batch=128), 512, 0.24),
    (dict(learning_rate=0.06, scaling='none'), 512, 0.06),
  ],
)
def test_rates_scale_with_the_batch(kwargs, batch, peak):
  _, rate = Optimizer(**kwargs).build(batch_size=batch, total_steps=1000, steps_per_epoch=10, params_shape=params())
  assert rate(0) == 0
  np.testing.assert_allclose([rate(50), rate(100), rate(550)], [peak / 2, peak, peak / 2], rtol=1e-5)
  np.testing.assert_allclose(rate(1000), 0, atol=1e-6)


def rates(steps, **kwargs):
  _, rate = Optimizer(learning_rate=1.0, scaling='none', **kwargs).build(
    batch_size=64, total_steps=200, steps_per_epoch=10, params_shape=params()
  )
  return [float(rate(s)) for s in steps]


def test_schedules_after_a_warmup():
  np.testing.assert_allclose(rates((10, 20, 199), schedule='constant', warmup='2 epochs'), [0.5, 1, 1])
  steps = (10, 99, 100, 159, 160, 199)
  kwargs = dict(schedule='multistep', warmup='10%', milestones=('10 epochs', '80%'), milestone_factor=0.2)
  np.testing.assert_allclose(rates(steps, **kwargs), [0.5, 1, 0.2, 0.2, 0.04, 0.04], rtol=1e-5)
  np.testing.assert_allclose(rates((0, 10, 20), schedule='constant', warmup='20', warmup_init=0.2), [0.2, 0.6, 1], rtol=1e-6)
  np.testing.assert_allclose(rates((20, 110, 200), warmup='20', end_fraction=0.01), [1, 0.505, 0.01], rtol=1e-5)


def test_a_rate_that_changes_once_an_epoch():
  """MoCo's adjust_learning_rate and lightly's CosineAnnealingLR: (1 + cos(pi epoch / epochs)) / 2."""
  steps = (0, 9, 10, 19, 105, 199)
  expected = [(1 + np.cos(np.pi * (s // 10) / 20)) / 2 for s in steps]
  np.testing.assert_allclose(rates(steps, warmup='0 steps', per_epoch=True), expected, rtol=1e-5)
  # A warm-up ends inside the second epoch: the peak lasts until the third.
  np.testing.assert_allclose(rates((14, 15, 19), warmup='15', per_epoch=True), [14 / 15, 1, 1], rtol=1e-5)
  np.testing.assert_allclose(rates((20, 29), warmup='15', per_epoch=True), [(1 + np.cos(np.pi * 5 / 185)) / 2] * 2, rtol=1e-5)


@pytest.mark.parametrize('name', ['lars', 'larc', 'sgd', 'adamw', 'adam'])
def test_the_state_holds_arrays_and_takes_shapes(name):
  optimizer = Optimizer(name, warmup='0', clip_norm=1.0, weight_decay_end=0.1, freeze='bn1', groups=(('', 1.0, 1.0),))
  shapes = jax.eval_shape(params)
  tx, _ = optimizer.build(**RUN, params_shape=shapes)
  state = tx.init(jax.tree.map(jnp.array, params()))
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state)) and jax.tree.leaves(state)
  abstract = jax.eval_shape(tx.init, shapes)
  assert jax.tree.structure(abstract) == jax.tree.structure(state)
  _, after = jax.eval_shape(lambda w, s: update(tx, w, s, w), shapes, abstract)
  same = lambda a, b: (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
  assert jax.tree.all(jax.tree.map(same, abstract, after))
  hash(tx)  # `init_state` takes it as a static argument


@pytest.mark.parametrize(
  'kwargs,message',
  [
    (dict(name='lasr'), r"config\.optim\.name='lasr' is not known\. Did you mean lars"),
    (dict(scaling='linaer'), 'scaling.*Did you mean linear'),
    (dict(schedule='cosin'), 'schedule.*Did you mean cosine'),
    (dict(learning_rate=-1.0), r'learning_rate=-1\.0'),
    (dict(learning_rate=float('nan')), 'learning_rate=nan'),
    (dict(weight_decay=-1e-6), 'weight_decay=-1e-06'),
    (dict(weight_decay_end=float('inf')), 'weight_decay_end=inf'),
    (dict(clip_norm=-1.0), 'clip_norm'),
    (dict(clip_each=-1.0), 'clip_each=-1.0'),
    (dict(warmup_init=-1.0), 'warmup_init=-1.0'),
    (dict(clip_lr=True), 'clip_lr=True is of name=larc'),
    (dict(reference_batch=0), 'reference_batch=0'),
    (dict(layer_decay=0.0), r'layer_decay=0\.0'),
    (dict(momentum=1.0), r'momentum=1\.0'),
    (dict(b2=1.5), r'b2=1\.5'),
    (dict(warmup='ten epochs'), r"config\.optim\.warmup='ten epochs' is no duration"),
    (dict(warmup='10 epochs'), r"warmup='10 epochs' is 20 steps and the run 6"),
    (dict(warmup='100%'), 'is 6 steps and the run 6'),
    (dict(warmup='0', schedule='multistep', milestones=('1 epoch', 'soon')), r'config\.optim\.milestones\[1\]'),
  ],
)
def test_impossible_values(kwargs, message):
  with pytest.raises(UserError, match=message):
    Optimizer(**kwargs).build(**RUN, params_shape=params())


def test_without_epochs():
  units = dict(batch_size=256, total_steps=100, steps_per_epoch=None, params_shape=params())
  Optimizer(warmup='10%').build(**units)
  with pytest.raises(UserError, match='warmup'):
    Optimizer(warmup='10 epochs').build(**units)
  with pytest.raises(UserError, match='per_epoch'):
    Optimizer(warmup='0', per_epoch=True).build(**units)


def test_a_config_names_every_field():
  node = spec.spec(
    Optimizer, name='sgd', learning_rate=1, groups=(('head', 10.0, 1.0), ('', 1.0, 1.0)), milestones=('60%', '80%')
  )
  assert spec.build(node, 'config.optim') == Optimizer(
    'sgd', 1.0, groups=(('head', 10.0, 1.0), ('', 1.0, 1.0)), milestones=('60%', '80%')
  )
  assert isinstance(node.learning_rate, float) and node.trust_coefficient == 0.001
