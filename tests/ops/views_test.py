import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslax.errors import UserError
from sslax.ops import geometry, photometric
from sslax.ops.views import Crop, RandomViews, make_views
from sslax.spec import build, spec

# Nothing happens: the whole image at its own size.
SAME = RandomViews(
  count=2, size=8, area=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0, blur_kernel=3
)
EVERYTHING = RandomViews(
  count=2, size=24, solarize_prob=0.2, rotate=20.0, shear=10.0, erase_prob=0.5, noise=0.05, blur_kernel=5, mean=(0.5,) * 3
)
RNG = jax.random.key(0)


def _images(n, size=8):
  return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def _views(views, image):
  """Views of whole images given as the host's crops, which compile faster."""
  return np.asarray(jax.jit(views)(RNG, {'crops': np.repeat(image[:, None], views.count, 1)}))


def test_nothing_to_do_gives_the_image():
  image = _images(3)
  got = np.asarray(jax.jit(SAME)(RNG, {'image': image}))
  assert got.shape == (3, 2, 8, 8, 3) and got.dtype == np.float32
  np.testing.assert_allclose(got, np.repeat(image[:, None] / 255, 2, 1), rtol=0, atol=1e-6)


def _is_flipped(old, new):
  return np.abs(new - old[..., ::-1, :]).max((-1, -2, -3)) < 1e-5


def _is_grey(old, new):
  return np.abs(new - old @ np.array([[0.2989], [0.587], [0.114]])).max((-1, -2, -3)) < 1e-5


def _is_solarized(old, new):
  return np.abs(new - np.where(old >= 0.25, 1 - old, old)).max((-1, -2, -3)) < 1e-5


def _is_blurred(old, new):
  want = jax.jit(jax.vmap(jax.vmap(lambda x: photometric.gaussian_blur(x, 0.7, 3))))(jnp.float32(old))
  return np.abs(new - want).max((-1, -2, -3)) < 1e-5


def _is_jittered(old, new):
  """Brightness alone, v1: one number was added everywhere, up to clipping."""
  difference = np.where((new > 0) & (new < 1), new - old, np.nan)
  return (np.nanmax(difference, (-1, -2, -3)) - np.nanmin(difference, (-1, -2, -3)) < 1e-5) & (
    np.abs(new - old).max((-1, -2, -3)) > 0
  )


def _is_erased(old, new):
  """Zero in one full rectangle and unchanged elsewhere."""
  hit = (new == 0).all(-1)
  rows, columns = hit.any(-1), hit.any(-2)
  return (hit == rows[..., :, None] & columns[..., None, :]).all((-1, -2)) & hit.any((-1, -2)) & ~hit.all((-1, -2))


@pytest.mark.parametrize(
  ('fields', 'happened'),
  [
    ({'flip': 0.3}, _is_flipped),
    ({'gray_prob': 0.3}, _is_grey),
    ({'solarize_prob': 0.3, 'solarize_threshold': 0.25}, _is_solarized),
    ({'blur_prob': 0.3, 'blur_sigma': (0.7, 0.7)}, _is_blurred),
    ({'jitter_prob': 0.3, 'jitter': (0.4, 0.0, 0.0, 0.0), 'brightness_impl': 'v1'}, _is_jittered),
    ({'erase_prob': 0.3}, _is_erased),
  ],
)
def test_each_step_happens_to_the_right_share_of_views(fields, happened):
  image = np.maximum(_images(1000), 1)
  old = np.repeat(image[:, None] / 255, 2, 1)
  new = _views(dataclasses.replace(SAME, **fields), image)
  changed = np.abs(new - old).max((-1, -2, -3)) > 1e-5
  assert happened(old[changed], new[changed]).all() if happened is not _is_blurred else happened(old, new)[changed].all()
  assert abs(changed.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 2000)
  assert abs((changed[:, 0] & changed[:, 1]).mean() - 0.09) < 4 * np.sqrt(0.09 * 0.91 / 1000)  # the views are independent


@pytest.mark.slow
def test_noise_and_turns():
  grey = np.full((80, 8, 8, 3), 128, np.uint8)
  noise = _views(dataclasses.replace(SAME, noise=0.1), grey) - 128 / 255
  assert abs(noise.std() - 0.1) < 0.003 and abs(noise.mean()) < 0.003
  ramp = np.broadcast_to(np.arange(8, dtype=np.uint8)[:, None, None] * 20, (200, 8, 8, 3))
  for field in ('rotate', 'shear'):
    views = _views(dataclasses.replace(SAME, **{field: 30.0}), ramp if field == 'rotate' else ramp.swapaxes(1, 2)) * 255 / 20
    # Near the centre the ramp's slope across it is the sine of the angle, or the tangent of the shear.
    slope = views[:, :, 3, 4, 0] - views[:, :, 3, 3, 0] if field == 'rotate' else views[:, :, 3, 3, 0] - views[:, :, 4, 3, 0]
    largest = np.sin(np.deg2rad(30)) if field == 'rotate' else np.tan(np.deg2rad(30))
    assert 0.93 * largest < slope.max() < 1.01 * largest and -0.93 * largest > slope.min() > -1.01 * largest


@pytest.mark.slow
def test_steps_come_in_simclrs_order():
  image = _images(8)
  old = np.repeat(image[:, None] / 255, 2, 1)
  hue = {'jitter_prob': 1.0, 'jitter': (0.0, 0.0, 0.0, 0.5)}
  grey = old @ np.array([[0.2989], [0.587], [0.114]])
  assert np.abs(_views(dataclasses.replace(SAME, gray_prob=1.0, **hue), image) - grey).max() > 0.05  # jitter, then grey
  blurred = jax.jit(jax.vmap(jax.vmap(lambda x: photometric.solarize(photometric.gaussian_blur(x, 0.7, 3), 0.5))))
  got = _views(dataclasses.replace(SAME, solarize_prob=1.0, blur_prob=1.0, blur_sigma=(0.7, 0.7)), image)
  np.testing.assert_allclose(got, blurred(jnp.float32(old)), atol=1e-6)  # blur, then solarize
  got = _views(dataclasses.replace(SAME, solarize_prob=1.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)), image)
  solarized = np.where(old >= 0.5, 1 - old, old)
  np.testing.assert_allclose(got, (solarized - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4], atol=1e-5)  # normalised last


def test_crops_are_random_resized_crops():
  """An image whose pixels tell where they are: shares of the area and aspects are uniform, views of one image differ."""
  n = 1500
  y, x = np.meshgrid(np.arange(64), np.arange(64), indexing='ij')
  image = np.broadcast_to(np.uint8(np.stack([y, x, 0 * x], -1) * 4), (n, 64, 64, 3))
  crop = dataclasses.replace(SAME, area=(0.2, 0.6), ratio=(0.75, 4 / 3), interpolation='bilinear')
  views = np.asarray(jax.jit(crop)(RNG, {'image': image})) * 255 / 4
  height, width = (views[:, :, 6, 4, 0] - views[:, :, 2, 4, 0]) * 2, (views[:, :, 4, 6, 1] - views[:, :, 4, 2, 1]) * 2
  share = np.sort((height * width / 64**2).ravel())
  assert np.abs((share - 0.2) / 0.4 - np.linspace(0, 1, 2 * n)).max() < 0.06
  ratio = np.sort(np.log(width / height).ravel() / np.log(4 / 3))
  assert np.abs(ratio - np.linspace(-1, 1, 2 * n)).max() < 0.12
  assert abs(np.corrcoef(height[:, 0], height[:, 1])[0, 1]) < 0.1


@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear'])
@pytest.mark.slow
def test_interpolation_and_clipping(interpolation):
  image = np.where(_images(2) > 127, 255, 0).astype(np.uint8)
  resized = jax.vmap(lambda x: geometry.crop_and_resize(x, (0.0, 0.0, 8.0, 8.0), 16, interpolation))(jnp.float32(image / 255))
  assert (resized.max() > 1.01) == (interpolation == 'bicubic')
  got = jax.jit(dataclasses.replace(SAME, size=16, interpolation=interpolation))(RNG, {'image': image})
  np.testing.assert_allclose(got[:, 1], np.clip(resized, 0, 1), atol=1e-6)


@pytest.fixture(scope='module')
def everything():
  return jax.jit(EVERYTHING)


@pytest.mark.slow
def test_rows_do_not_depend_on_the_batch(everything):
  image = _images(16, 32)
  got = everything(RNG, {'image': image})
  flip = jax.jit(dataclasses.replace(SAME, flip=0.5))
  np.testing.assert_array_equal(flip(RNG, {'image': image[:5, :8, :8]}), flip(RNG, {'image': image[:, :8, :8]})[:5])
  others = image.copy()
  others[1:] = 255 - others[1:]
  np.testing.assert_array_equal(everything(RNG, {'image': others})[0], got[0])
  same = everything(RNG, {'image': np.broadcast_to(image[:1], image.shape)})
  flat = np.asarray(same).reshape(32, -1)
  assert len(np.unique(flat, axis=0)) == 32  # one image, 32 different views
  assert np.abs(everything(jax.random.key(1), {'image': image}) - got).max() > 0.1


@pytest.mark.slow
def test_eight_devices_equal_one(everything):
  image = _images(16, 32)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  sharding = jax.NamedSharding(mesh, jax.P('data'))
  run = jax.jit(EVERYTHING, out_shardings=sharding).lower(RNG, {'image': jax.device_put(image, sharding)}).compile()
  got = run(RNG, {'image': jax.device_put(image, sharding)})
  assert len(got.sharding.device_set) == 8
  np.testing.assert_allclose(got, everything(RNG, {'image': image}), atol=1e-6)
  text = run.as_text()
  assert not [word for word in ('all-gather', 'all-reduce', 'all-to-all', 'collective-permute') if word in text]


@pytest.mark.slow
def test_constant_images_stay_finite(everything):
  image = np.zeros((16, 32, 32, 3), np.uint8)
  image[4:8], image[8:12], image[12:] = 255, 128, (255, 0, 0)
  views = everything(RNG, {'image': image})
  assert np.isfinite(views).all() and views.min() >= -0.5 and views.max() <= 0.5  # [0, 1] less the mean


def test_steps_that_never_happen_are_not_traced():
  def trace(views):
    return str(jax.make_jaxpr(views)(RNG, {'image': jnp.zeros((2, 8, 8, 3), jnp.uint8)}))

  nothing = trace(SAME)
  for field, sign in [('rotate', 'cos'), ('shear', 'tan'), ('noise', 'erf_inv'), ('blur_prob', 'exp2'), ('solarize_prob', 'ge')]:
    more = trace(dataclasses.replace(SAME, **{field: 0.5}))
    assert len(more) > len(nothing), field
    assert sign == 'exp2' or more.count(f' {sign} ') > nothing.count(f' {sign} '), field
  for field in ('jitter_prob', 'gray_prob', 'erase_prob', 'flip'):
    assert len(trace(dataclasses.replace(SAME, **{field: 0.5}))) > len(nothing), field
  assert trace(dataclasses.replace(SAME, jitter_prob=1.0, jitter=(0.0, 0.0, 0.0, 0.0))) == nothing


def test_the_hosts_crops_are_used():
  crops = np.random.default_rng(1).integers(0, 256, (4, 2, 8, 8, 3), dtype=np.uint8)
  batch = {'image': _images(4), 'crops': crops, 'crops_1': 255 - crops}
  same = jax.jit(SAME.__call__, static_argnums=2)
  np.testing.assert_allclose(same(RNG, batch), crops / 255, atol=1e-6)
  np.testing.assert_allclose(same(RNG, batch, 1), 1 - crops / 255, atol=1e-6)
  flipped = jax.jit(dataclasses.replace(SAME, flip=1.0))(RNG, batch)
  np.testing.assert_allclose(flipped, crops[..., ::-1, :] / 255, atol=1e-6)
  with pytest.raises(UserError, match=r"'crops_1'.*\[B, 3, 8, 8, 3\]"):
    dataclasses.replace(SAME, count=3)(RNG, batch, 1)
  with pytest.raises(UserError, match="'image'.*'crops'.*label"):
    SAME(RNG, {'label': np.zeros(4)})


@pytest.mark.slow
def test_groups_have_their_own_views():
  small = dataclasses.replace(SAME, count=3, size=4)
  views = jax.jit(make_views, static_argnums=2)
  groups = views(RNG, {'image': _images(64)}, (small, dataclasses.replace(SAME, flip=0.5), dataclasses.replace(SAME, flip=0.5)))
  assert [g.shape for g in groups] == [(64, 3, 4, 4, 3), (64, 2, 8, 8, 3), (64, 2, 8, 8, 3)]
  assert np.abs(groups[1] - groups[2]).max() > 0.1
  crops = np.zeros((4, 2, 8, 8, 3), np.uint8)
  host = views(RNG, {'crops': crops, 'crops_1': crops + 255}, (SAME, SAME))
  assert host[0].max() == 0 and host[1].min() == 1


def test_normalize_is_what_views_get():
  views = dataclasses.replace(SAME, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
  image = _images(3)
  whole = views.normalize(image)
  np.testing.assert_allclose(whole, (image / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4], atol=1e-5)
  np.testing.assert_allclose(views.normalize(np.float32(image / 255)), whole, atol=1e-5)
  np.testing.assert_allclose(_views(views, image)[:, 0], whole, atol=1e-5)


def test_crop_and_blur_taps():
  assert RandomViews(count=6, size=96, area=(0.05, 0.25)).crops() == (Crop(6, 96, (0.05, 0.25), (3 / 4, 4 / 3)),)
  assert [RandomViews(size=s).blur_taps for s in (224, 96, 32, 16)] == [23, 9, 3, 1]  # SimCLR: 2 * int(size // 10 / 2) + 1
  assert RandomViews(size=32, blur_kernel=5).blur_taps == 5


def test_is_built_from_a_config():
  views = build(spec(RandomViews, size=32, blur_prob=0, jitter=(0.4, 0.4, 0.4, 0.1)))
  assert views == RandomViews(size=32, blur_prob=0.0, jitter=(0.4, 0.4, 0.4, 0.1))
  with pytest.raises(UserError, match='gray_prob'):
    build(spec(RandomViews, gray_prob=20.0))


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('count', 0),
    ('size', 0),
    ('area', (0.5, 0.2)),
    ('area', (0.0, 1.0)),
    ('area', (0.5, 1.2)),
    ('ratio', (0.0, 1.0)),
    ('interpolation', 'nearest'),
    ('flip', 1.5),
    ('jitter', (0.8, 0.8, 0.8)),
    ('jitter', (0.8, 0.8, 0.8, 0.6)),
    ('jitter', (-0.1, 0.8, 0.8, 0.1)),
    ('jitter_prob', -0.1),
    ('brightness_impl', 'v3'),
    ('gray_prob', 2.0),
    ('blur_prob', 2.0),
    ('blur_sigma', (0.0, 2.0)),
    ('blur_kernel', 4),
    ('blur_kernel', -1),
    ('blur_kernel', 449),
    ('solarize_prob', 2.0),
    ('mean', (0.5,)),
    ('std', (1.0, 0.0, 1.0)),
    ('rotate', -1.0),
    ('shear', 90.0),
    ('erase_prob', 2.0),
    ('noise', -0.1),
    ('noise', float('nan')),
  ],
)
def test_refuses_impossible_values(field, value):
  with pytest.raises(ValueError, match=f'^{field} must be'):
    RandomViews(**{field: value})
