"""Does a method keep its contract, in this run? One trace of all its functions, before anything is compiled."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sslax.errors import UserError
from sslax.method import Facts, Features, Input, Method, Output, settled
from sslax.ops import microbatches as pieces
from sslax.ops import tree

PyTree = Any
Shapes = dict[str, jax.ShapeDtypeStruct]
TAKEN = ('label', 'index', 'wanted', 'mask')  # keys of a batch that no input may have
OURS = ('loss', 'grad_norm', 'param_norm', 'finite')  # metrics of every run
ROWS = 2  # of the batch of which features are asked


@dataclasses.dataclass(frozen=True)
class Checked:
  """A method that keeps its contract, and what was seen of it; arrays are shapes."""

  method: Method  # settled
  inputs: dict[str, Input]
  batch: Shapes  # what a step gets: all inputs, index, and label where there are labels
  params: PyTree
  memory: PyTree
  features: Shapes  # of ROWS examples, by name: see Features.named
  microbatched: bool  # whether a network runs in pieces where there are microbatches


def check(method: Method, facts: Facts, *, microbatches: int = 1) -> Checked:
  """Settles a method and traces init, views, loss, after, and features at evaluation size, once.

  Args:
    method: of a config.
    facts: of the run.
    microbatches: pieces that its networks run in.

  Raises:
    UserError: whatever one of the functions refuses or does against the contract; names the function and the leaf.
      SSLAX_TRACEBACK=1 in the environment lets the exception through.
  """
  name = type(method).__name__
  method = settled(method, facts)
  _check_labels(method, name, facts.num_classes)
  with _blame(name, 'inputs'):
    inputs = _checked_inputs(method)
    batch = batch_shapes(inputs, facts.batch_size, labelled=facts.num_classes > 0)
    seen = {feature: _evaluation_batch(inputs, method.feature_inputs(feature)) for feature in ('pooled', 'text_embedding')}
  stage, microbatched = 'views', False

  def all_functions(batch, pooled_batch, text_batch):
    nonlocal stage, microbatched
    rng, step = jax.random.key(0), jnp.int32(0)
    stage = 'views'
    views = method.views(rng, batch)
    stage = 'init'
    params, memory = _pair(method.init(rng, views), 'params, memory')
    _check_params(params, method.modules)
    stage = 'loss'
    with pieces.running_in(microbatches) as used:
      result = method.loss(params, memory, views, rng, step)
    out = _check_loss(result)
    _check_same(out.memory, memory, 'memory')
    stage = 'after'
    moved, memory_after = _pair(method.after(params, out.memory, step), 'params, memory')
    _check_same(moved, params, 'params')
    _check_same(memory_after, memory, 'memory')
    stage = 'features'
    features = _check_features(method.features(params, memory, pooled_batch))
    if text_batch.keys() != pooled_batch.keys():
      text = method.features(params, memory, text_batch)
      features |= {key: value for key, value in text.named().items() if key not in features}
    microbatched = used.used
    return params, memory, features

  try:
    params, memory, features = jax.eval_shape(all_functions, batch, seen['pooled'], seen['text_embedding'])
  except UserError as error:
    raise UserError(f'{name}.{stage}: {error}') from error
  except Exception as error:
    if 'SSLAX_TRACEBACK' in os.environ:
      raise
    raise UserError(_refused(name, stage, error)) from error
  return Checked(method, inputs, batch, params, memory, features, microbatched)


def batch_shapes(inputs: dict[str, Input], rows: int, *, labelled: bool) -> Shapes:
  """The global batch that the pipeline delivers for these inputs, in shapes."""
  arrays = {key: s for value in inputs.values() for key, s in value.shapes().items()}
  arrays |= {key: jax.ShapeDtypeStruct((), np.int32) for key in ('index', *(['label'] if labelled else []))}
  return {key: jax.ShapeDtypeStruct((rows, *s.shape), s.dtype) for key, s in arrays.items()}


def _evaluation_batch(inputs, names):
  unknown = [name for name in names if name not in inputs]
  if unknown:
    raise UserError(f'feature_inputs names {unknown[0]!r}, which is none of its inputs {", ".join(inputs)}')
  shapes = {key: s for name in names for key, s in inputs[name].evaluation().shapes().items()}
  return {key: jax.ShapeDtypeStruct((ROWS, *s.shape), s.dtype) for key, s in shapes.items()}


def _checked_inputs(method):
  inputs = method.inputs()
  if not isinstance(inputs, dict) or not inputs or not all(isinstance(value, Input) for value in inputs.values()):
    raise UserError(
      f'it returned {inputs!r}: return what a batch must hold, one sslax.method.Input a name, such as '
      "{'image': sslax.inputs.image.Image(32)}"
    )
  known: set[str] = set()
  for name, value in inputs.items():
    for key in value.shapes():
      if key in TAKEN or key in known:
        raise UserError(f'the input {name!r} has an array {key!r}, a name that is taken')
      known.add(key)
  return inputs


def _check_labels(method, name, num_classes):
  """Raises UserError where a method learns from labels that the data lacks, or has too few classes for."""
  if method.uses_labels and not num_classes:
    raise UserError(f'{name} learns from labels, and config.data.train has none')
  if 0 < method.label_classes < num_classes:
    raise UserError(f'{name} is for {method.label_classes} classes, and config.data.train has {num_classes}')


def _pair(value, what):
  if not isinstance(value, tuple) or len(value) != 2:
    raise UserError(f'it returned a {type(value).__name__}, and must return ({what})')
  return value


def _check_params(params, modules):
  if not isinstance(params, dict) or 'encoder' not in params:
    has = ', '.join(map(str, params)) if isinstance(params, dict) else type(params).__name__
    raise UserError(f"params must be a dict with the key 'encoder', which is what users come for; it has {has or 'nothing'}")
  if strangers := sorted(set(modules) - set(params)):
    raise UserError(
      f'modules names {", ".join(strangers)}, which is no part of params ({", ".join(params)}): optimizers and sharding ask the '
      'network behind each part what its parameters are'
    )


def _check_loss(result: Any) -> Output:
  loss, out = _pair(result, 'loss, Output')
  if not isinstance(out, Output):
    raise UserError(
      f'it returned a {type(out).__name__} beside the loss, and must return an sslax.method.Output(memory, metrics)'
    )
  if jnp.shape(loss) != () or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
    raise UserError(f'the loss is {jnp.result_type(loss).name}{list(jnp.shape(loss))}, and must be a scalar float')
  for key, value in out.metrics.items():
    if key in OURS:
      raise UserError(f'its metrics have {key!r}, a name that every run has already')
    if not isinstance(value, (jax.Array, np.ndarray, np.generic, bool, int, float)):
      raise UserError(f'the metric {key!r} is a {type(value).__name__}, and must be a number')
    if jnp.shape(value) != ():
      raise UserError(f'the metric {key!r} has shape {jnp.shape(value)}, and must be a scalar')
  return out


def _check_same(new, old, what):
  """Raises UserError that names the leaves of `new` that are not what they are in `old`."""
  kinds = [
    {
      path: f'{jnp.result_type(leaf).name}{list(jnp.shape(leaf))}'
      for path, leaf in zip(tree.paths(t), jax.tree.leaves(t), strict=True)
    }
    for t in (old, new)
  ]
  before, now = kinds
  wrong = [f'{what}/{path} is lost' for path in before if path not in now]
  wrong += [f'{what}/{path} is new' for path in now if path not in before]
  wrong += [
    f'{what}/{path} was {before[path]} and is {now[path]}' for path in before if now.get(path, before[path]) != before[path]
  ]
  if not wrong and not tree.same_structure(old, new):
    wrong = [f'{what} has another structure than init gave it']
  if wrong:
    more = f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''
    raise UserError(f'what init made must come back with the same leaves, shapes and dtypes: {"; ".join(wrong[:3])}{more}')


def _check_features(features: Any) -> dict[str, jax.Array]:
  if not isinstance(features, Features):
    raise UserError(f'it returned a {type(features).__name__}, and must return an sslax.method.Features(pooled=[B, D])')
  if features.pooled is None or features.pooled.ndim != 2 or len(features.pooled) != ROWS:
    shape = None if features.pooled is None else features.pooled.shape
    raise UserError(f'pooled of {ROWS} examples has shape {shape}, and must be [{ROWS}, D]')
  if features.pooled.dtype != jnp.float32:
    raise UserError(f'pooled is {features.pooled.dtype.name}, and must be float32')
  return features.named()


@contextlib.contextmanager
def _blame(name: str, function: str) -> Iterator[None]:
  try:
    yield
  except UserError as error:
    raise UserError(f'{name}.{function}: {error}') from error
  except Exception as error:
    if 'SSLAX_TRACEBACK' in os.environ:
      raise
    raise UserError(_refused(name, function, error)) from error


def _refused(name, function, error):
  text = ' '.join(str(error).split())[:500]
  text = text if isinstance(error, ValueError) else f'{type(error).__name__}: {text}'
  return f'{name}.{function}: {text} (SSLAX_TRACEBACK=1 shows where)'
