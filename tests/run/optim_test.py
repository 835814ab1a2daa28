"""Each optimizer against its formula in numpy; what its state is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run.optim_case import STEPS, build, by_path, cosine, decayed, gradients, params, run, update

from sslax.ops import tree
from sslax.ops.schedules import Ramp
from sslax.run.optim import Adam, AdamW, Constant, Cosine, Larc, Lars, Sgd


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
@pytest.mark.parametrize('make,formula', [(Lars, slow_lars), (Sgd, slow_sgd)])
def test_momentum_optimizers_are_their_formulas(make, formula, wd, nesterov):
  # wd = 0 makes a zero gradient reach the trust ratio; the kernel of zeros has no norm at the first step.
  more = dict(trust_coefficient=0.02) if make is Lars else {}
  optimizer = make(0.5, 'none', warmup='0 steps', weight_decay=wd, nesterov=nesterov, **more)
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


@pytest.mark.parametrize(
  'clip,nesterov,exclude', [(False, False, ''), (True, False, 'auto'), (True, False, r'(bias|scale)$'), (True, True, '')]
)
def test_larc_is_its_formula(clip, nesterov, exclude):
  """SwAV: clip False, everything adapted and decayed. solo-learn: clip_lr, no 1-D parameters, a group with a rate of its own."""
  optimizer = Larc(
    0.05, 'none', warmup='2 steps', weight_decay=0.3, exclude=exclude, trust_coefficient=0.02, eps=0.5, clip_lr=clip,
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


@pytest.mark.parametrize('make', [Lars, Larc, Sgd, AdamW])
def test_constant_rates_are_those_of_a_run_without_schedule(make):
  """SimSiam's --fix-pred-lr: the rest follows the schedule, inside lars's momentum too. Each leaf moves on its own here."""
  fields = dict(learning_rate=0.1, scaling='none', warmup='2 steps', warmup_init=0.05)
  fields |= dict(trust_coefficient=0.2) if make in (Lars, Larc) else {}
  a, b, both = (
    by_path(run(make(**fields, **more), params(), gradients())[0][-1])
    for more in (dict(schedule=Cosine()), dict(schedule=Constant()), dict(schedule=Cosine(), constant='^head'))
  )
  for path, x in both.items():
    assert np.abs(a[path] - b[path]).max() > 1e-3
    np.testing.assert_allclose(x, (b if path.startswith('head') else a)[path], rtol=1e-6, err_msg=path)


@pytest.mark.parametrize('make', [AdamW, Adam])
def test_adam_and_adamw_are_their_formulas(make):
  wd, b1, b2, eps = 0.1, 0.9, 0.95, 1e-8
  optimizer = make(0.02, 'none', warmup='2 steps', weight_decay=wd, b1=b1, b2=b2, eps=eps)
  got, rate = run(optimizer, params(), gradients())
  w = by_path(params())
  m, n = ({path: np.zeros_like(x) for path, x in w.items()} for _ in range(2))
  for t, (g, out) in enumerate(zip(map(by_path, gradients()), map(by_path, got), strict=True)):
    lr = 0.02 * t / 2 if t < 2 else 0.02 * cosine(t - 2, total=STEPS - 2)
    np.testing.assert_allclose(rate(t), lr, rtol=1e-5)
    for path in w:
      strength = wd if decayed(path) else 0.0
      d = g[path] + strength * w[path] if make is Adam else g[path]
      m[path] = b1 * m[path] + (1 - b1) * d
      n[path] = b2 * n[path] + (1 - b2) * d**2
      u = m[path] / (1 - b1 ** (t + 1)) / (np.sqrt(n[path] / (1 - b2 ** (t + 1))) + eps)
      w[path] = w[path] - lr * (u + strength * w[path] if make is AdamW else u)
      np.testing.assert_allclose(out[path], w[path], rtol=2e-5, atol=1e-6, err_msg=f'{path} at step {t}')


def test_lars_and_sgd_differ_only_in_where_the_rate_acts():
  """Constant rate: the same without adaptation. A falling one: lars coasts, so it goes further."""
  g = [jax.tree.map(np.ones_like, params())] * STEPS
  make = lambda kind, schedule: kind(0.1, 'none', schedule=schedule, warmup='0', weight_decay=0.0, exclude='/')
  for schedule, equal in ((Constant(), True), (Cosine(), False)):
    a, b = (by_path(run(make(kind, schedule), params(), g)[0][-1]) for kind in (Lars, Sgd))
    for path, start in by_path(params()).items():
      if equal:
        np.testing.assert_allclose(a[path], b[path], rtol=1e-5, atol=1e-6)
      else:
        assert (start - a[path] > start - b[path] + 1e-3).all()


def test_weight_decay_on_a_cosine():
  """DINO: decay from 0.04 to 0.4 over the run; zero gradients leave w <- w (1 - lr wd_t)."""
  optimizer = AdamW(0.5, 'none', schedule=Constant(), warmup='0', weight_decay=Ramp(0.04, 0.4))
  got, _ = run(optimizer, params(), [jax.tree.map(np.zeros_like, params())] * STEPS)
  w = params()['head']['dense0']['kernel'].astype(np.float64)
  for t in range(STEPS):
    w = w * (1 - 0.5 * cosine(t, 0.04, 0.4))
    np.testing.assert_allclose(got[t]['head']['dense0']['kernel'], w, rtol=1e-5)
  np.testing.assert_array_equal(got[-1]['encoder']['bn1']['scale'], params()['encoder']['bn1']['scale'])


def test_weight_decay_of_any_shape_and_length():
  """A `Ramp` that is no cosine: 0 for an epoch, which is 2 steps, then 0.5."""
  for make in (Sgd, Lars, Adam, AdamW):
    optimizer = make(0.5, 'none', schedule=Constant(), warmup='0', weight_decay=Ramp(0.0, 0.5, 'step', '1 epoch'))
    kernels = [p['head']['dense0']['kernel'] for p in run(optimizer, params(), [jax.tree.map(np.zeros_like, params())] * 3)[0]]
    assert (kernels[1] == params()['head']['dense0']['kernel']).all(), make
    assert (kernels[2] != kernels[1]).all(), make


@pytest.mark.parametrize('make', [Lars, Larc, Sgd, AdamW, Adam])
def test_the_state_holds_arrays_and_takes_shapes(make):
  optimizer = make(warmup='0', clip_norm=1.0, weight_decay=Ramp(1e-6, 0.1), freeze='bn1', groups=(('', 1.0, 1.0),))
  shapes = jax.eval_shape(params)
  tx, _ = build(optimizer, shapes)
  state = tx.init(jax.tree.map(jnp.array, params()))
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state)) and jax.tree.leaves(state)
  abstract = jax.eval_shape(tx.init, shapes)
  assert jax.tree.structure(abstract) == jax.tree.structure(state)
  _, after = jax.eval_shape(lambda w, s: update(tx, w, s, w), shapes, abstract)
  same = lambda a, b: (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
  assert jax.tree.all(jax.tree.map(same, abstract, after))
  hash(tx)  # `init_state` takes it as a static argument


@pytest.mark.parametrize(
  'optimizer, expected',
  [
    (AdamW(), '2/count 2/mu 2/nu 3/count 4/count'),
    (Adam(), '2/count 3/count 3/mu 3/nu 4/count'),
    (Sgd(), '2/count 3/trace 4/count'),
    (Sgd(momentum=0.0), '2/count 4/count'),
    (Lars(clip_norm=1.0), '2/count 4/count 5/trace'),
    (Larc(clip_each=1.0), '2/count 3/trace 4/count'),
    (Lars(freeze='^encoder/'), '2/count 4/count 5/trace'),
  ],
)
def test_the_paths_of_the_state_are_those_in_checkpoints(optimizer, expected):
  """Of every run ever saved: a link of the chain more or less, or one that moves, and none could be restored."""
  start = {'encoder': {'kernel': jnp.ones((2, 2))}, 'head': {'kernel': jnp.ones((2, 2))}}
  tx, _ = build(optimizer, start, total_steps=99)
  prefix, parts = ('inner_states/train/inner_state/', ('head',)) if optimizer.freeze else ('', ('encoder', 'head'))
  paths = []
  for name in expected.split():
    paths += [f'{prefix}{name}'] if name.endswith('count') else [f'{prefix}{name}/{part}/kernel' for part in parts]
  assert tree.paths(tx.init(start)) == paths
