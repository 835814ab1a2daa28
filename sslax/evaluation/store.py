"""Features of whole sets, extracted once and kept on disk by what they depend on: weights, data, preprocessing; no more."""

import functools
import json
import pathlib
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from sslax.data import pipeline
from sslax.data.sources import Source
from sslax.evals import features as feature_ops
from sslax.evals.probe import BASELINE, RANDOM, TRAINED, Card, Extracted, Store
from sslax.evaluation.models import Models, State
from sslax.io import atomic, digest
from sslax.method import Batch, Features
from sslax.spec import outside_files

FORMAT = 2


class FeatureStore(Store):
  """See `sslax.evals.probe.Store`."""

  def __init__(self, models: Models, row: str, step: int, folder: pathlib.Path, *, said: set[str]):
    """
    Args:
      row: TRAINED, RANDOM or BASELINE.
      step: of the checkpoint, where TRAINED.
      folder: the cache.
      said: what has been told of unlabelled records, by all stores together.
    """  # fmt: skip
    checked, config = models.checked, models.config
    self._models, self._step, self._folder, self._said = models, step, folder, said
    self.card = Card(checked.method, checked.inputs, checked.features)
    self.row = row
    pooled = checked.inputs[checked.method.feature_inputs('pooled')[0]].evaluation()
    self.name = {TRAINED: type(checked.method).__name__, RANDOM: RANDOM, BASELINE: pooled.baseline_name}[row]
    devices = models.mesh.size
    self.batch_size = max(1, config.eval.batch_size // devices) * devices
    self.threads = config.data.threads

  @property
  def state(self) -> State:
    return self._models.trained(self._step) if self.row == TRAINED else self._models.random

  @property
  def params(self) -> Any:
    return self.state.params

  @property
  def memory(self) -> Any:
    return self.state.memory

  @property
  def weights(self) -> str:
    """A digest of what the features are made with."""
    return self.name if self.row == BASELINE else self.state.weights

  def get(self, source: Source, feature: str = 'pooled') -> Extracted:
    inputs = self._inputs(feature)
    key = {
      'format': FORMAT,
      'weights': self.weights,
      'feature': feature,
      'set': identity(source),
      'inputs': {name: repr(value.evaluation()) for name, value in inputs.items()},
    }
    if code := digest.of_files(outside_files([self.card.method, *self.card.inputs.values()])):
      key['code'] = code
    arrays = cached(self._folder, key, lambda: self._extract(source, feature))
    return Extracted(arrays['values'], arrays['label'], arrays['index'])

  def labelled(self, source: Source, feature: str = 'pooled') -> Extracted:
    found = self.get(source, feature)
    missing = int((found.label < 0).sum())
    if missing and source.name not in self._said:
      self._said.add(source.name)
      print(f'{missing:,} of {len(found.label):,} records of {source.name} have no label: probes leave them out', file=sys.stderr)
    return found.labelled()

  def map(self, source: Source, function: Callable[[Features, Batch], dict[str, jax.Array]]) -> dict[str, np.ndarray]:
    method = self.card.method

    @jax.jit
    def run(params, memory, batch):
      return function(method.features(params, memory, batch), batch)

    parts: list[dict[str, np.ndarray]] = []
    for batch in self.batches(source):
      mask = batch.pop('mask')
      arrays = {key: value for key, value in batch.items() if key not in ('label', 'index')}
      parts.append({key: np.asarray(value)[mask] for key, value in run(self.params, self.memory, arrays).items()})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

  def encode(self, batch: Mapping[str, jax.Array | np.ndarray]) -> Features:
    return self._encoder(self.params, self.memory, batch)

  @functools.cached_property
  def _encoder(self):
    return jax.jit(self.card.method.features)

  def batches(self, source: Source, feature: str = 'pooled') -> Iterator[dict[str, np.ndarray]]:
    with pipeline.eval_batches(source, self._inputs(feature), batch_size=self.batch_size, threads=self.threads) as batches:
      yield from batches

  def _inputs(self, feature):
    names = self.card.method.feature_inputs(feature)
    return {name: self.card.inputs[name] for name in names}

  def _extract(self, source: Source, feature: str) -> dict[str, np.ndarray]:
    if self.row == BASELINE:
      (name, value), *_ = self._inputs('pooled').items()
      value, parts = value.evaluation(), []
      for batch in self.batches(source):
        mask = batch['mask']
        rows = value.baseline({key: batch[key][mask] for key in value.shapes()})
        parts.append((rows, batch['label'][mask], batch['index'][mask]))
      return dict(zip(('values', 'label', 'index'), map(np.concatenate, zip(*parts, strict=True)), strict=True))
    total = -(-len(source) // self.batch_size)
    found = feature_ops.extract(
      self.card.method, self.params, self.memory, self.batches(source, feature), mesh=self._models.mesh, key=feature,
      progress=True, total=total,
    )  # fmt: skip
    return {'values': found[feature], 'label': found['label'], 'index': found['index']}


def identity(source: Source) -> dict[str, Any]:
  """What tells one set from another."""
  return {'uri': source.name, 'records': len(source), 'classes': list(source.classes), 'num_classes': source.num_classes}


def cached(folder: pathlib.Path, key: dict[str, Any], make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """What `make()` returns, from the file in `folder` whose name is the digest of `key` where there is one.

  Args:
    folder: created where missing.
    key: all that the arrays depend on, JSON types; stored in the file and compared.
    make: called when there is no file, or none that can be read (cut off, bit rot: zip keeps a CRC of each array).

  Returns:
    A dict of arrays.
  """
  text = json.dumps(key, sort_keys=True)
  file = pathlib.Path(folder) / f'{digest.of_bytes(text.encode())[:32]}.npz'
  try:
    with np.load(file, allow_pickle=False) as stored:
      arrays = {name: stored[name] for name in stored.files}
    if str(arrays.pop('__key__')) == text:
      return arrays
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError):
    pass  # NotImplementedError: damaged headers name a compression that does not exist
  arrays = {name: np.asarray(value) for name, value in make().items()}
  if any(value.dtype.hasobject for value in arrays.values()):
    raise TypeError('cached: arrays of Python objects cannot be stored')
  with atomic.replacing(file) as f:  # whole or not at all, also with two writers
    np.savez(f, __key__=np.array(text), **arrays)
  return arrays
