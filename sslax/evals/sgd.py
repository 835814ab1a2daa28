"""The SGD probe: a linear classifier trained on frozen features of augmented images (SimCLR, App. B.6)."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sslax.data import pipeline
from sslax.data.subset import subset
from sslax.errors import UserError
from sslax.evals import features
from sslax.evals.probe import RANDOM, TRAINED, Card, Data, Needs, Probe, Score, Store
from sslax.inputs.image import image_settings
from sslax.ops.views import RandomViews


@dataclasses.dataclass(frozen=True)
class SGD(Probe):
  """`sgd_probe` on random resized crops and flips of the labelled training images, cut as the run cuts its own."""

  epochs: int = 30
  learning_rate: float = 0.1

  def needs(self) -> Needs:
    return Needs(rows=(TRAINED, RANDOM))

  def check(self, card: Card, data: Data) -> None:
    if image_settings(card.inputs) is None:
      raise UserError('--probes=sgd augments images, and this method sees none: take linear')

  def run(self, store: Store, data: Data) -> Iterator[Score]:
    test, train = store.labelled(data.test), store.labelled(data.train)
    source = data.train if len(train.index) == len(data.train) else subset(data.train, train.index)
    size = min(store.batch_size, len(source))
    image = image_settings(store.card.inputs)
    assert image is not None, '`check` refuses this'
    crop = RandomViews(count=1, size=image.size, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0)
    seen = image.of_views(crop.crops())

    @jax.jit
    def augment(rng, arrays):
      return crop(rng, arrays)[:, 0]

    def pooled(views):
      return store.encode({'image': views}).pooled

    with pipeline.train_batches(source, {'image': seen}, batch_size=size, seed=0, threads=store.threads) as batches:
      found = sgd_probe(
        pooled,
        ({'arrays': {key: batch[key] for key in seen.shapes()}, 'label': batch['label']} for batch in batches),
        test.values, test.label, num_classes=data.num_classes, steps=self.epochs * max(1, len(source) // size),
        batch_size=size, learning_rate=self.learning_rate, augment=augment,
      )  # fmt: skip
    yield Score('accuracy', found['accuracy'], 'linear (SGD)', chance=1 / data.num_classes)


def sgd_probe(
  features_fn: Callable[[Any], jax.Array],
  batches: Iterable[dict[str, Any]],
  test_x: Any,
  test_y: Any,
  *,
  num_classes: int,
  steps: int,
  batch_size: int,
  learning_rate: float = 0.1,
  seed: int = 0,
  augment: Callable[[jax.Array, Any], Any] = lambda rng, arrays: arrays,
) -> dict[str, float]:
  """A linear classifier trained by SGD on frozen features of augmented examples.

  Nesterov momentum 0.9, cosine decay to 0, no weight decay, no warm-up, rate learning_rate * batch_size / 256, weights from 0.

  Args:
    features_fn: [B, D] features of what `augment` returns. Jit it: it is called as it is, so that no parameters become constants.
    batches: at least `steps` dicts: arrays (what `augment` takes), label [B], B == batch_size.
    test_x, test_y: [M, D] features of test examples without augmentation, [M] labels.
    augment: (rng, arrays) -> views; random-resized crop and flip in the standard protocol.

  Returns:
    accuracy, top5, and loss: the mean cross-entropy of the last tenth of the steps.

  Raises:
    UserError: too few batches, another batch size, features or labels that do not fit.
  """
  test_x, test_y = features.checked(test_x, test_y, num_classes, 'SGD probe test')
  tx = optax.sgd(optax.cosine_decay_schedule(learning_rate * batch_size / 256, steps), momentum=0.9, nesterov=True)

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def update(params, opt_state, x, y):
    def loss_fn(p):
      return optax.softmax_cross_entropy_with_integer_labels(jnp.float32(x) @ p['w'] + p['b'][None], y).mean()

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss

  augment = jax.jit(augment)
  params = {'w': jnp.zeros((test_x.shape[1], num_classes)), 'b': jnp.zeros(num_classes)}
  opt_state, losses, batches = tx.init(params), [], iter(batches)
  for step in range(steps):
    batch = next(batches, None)
    if batch is None:
      raise UserError(f'SGD probe: the data ended after {step} of {steps} batches: repeat it.')
    if len(batch['label']) != batch_size:
      raise UserError(f'SGD probe: a batch of {len(batch["label"])} and batch_size={batch_size}, which sets the learning rate.')
    views = augment(jax.random.fold_in(jax.random.key(seed), step), jax.tree.map(jnp.asarray, batch['arrays']))
    params, opt_state, loss = update(params, opt_state, features_fn(views), jnp.asarray(batch['label'], jnp.int32))
    losses.append(loss)
  params = jax.tree.map(np.asarray, params)
  mean = float(np.mean(losses[-max(steps // 10, 1) :]))
  if not np.isfinite(mean):
    raise UserError(f'SGD probe: the loss is {mean}: lower learning_rate (now {learning_rate} * {batch_size} / 256).')
  hits = np.argsort(-(test_x @ params['w'] + params['b']), axis=1, kind='stable')[:, :5] == test_y[:, None]
  return {'accuracy': float(hits[:, 0].mean()), 'top5': float(hits.any(1).mean()), 'loss': mean}
