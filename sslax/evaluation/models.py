"""The method of a run and its states: a checkpoint, or what random initialisation gives."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from sslax import contract
from sslax.contract import Checked
from sslax.data.sources import Source
from sslax.io import digest
from sslax.method import Facts
from sslax.run import config as configs
from sslax.run import sharding
from sslax.run.checkpoint import Damaged, Reader, Vanished
from sslax.run.prepare import build_method
from sslax.step import init_state

PyTree = Any


@dataclasses.dataclass(frozen=True)
class State:
  """What features are computed from."""

  params: PyTree
  memory: PyTree
  weights: str  # a digest: the same weights have the same


class Models:
  """Of one workdir. Nothing is built or read before it is asked for."""

  def __init__(self, workdir: pathlib.Path, config: ml_collections.ConfigDict, train: Source):
    """
    Args:
      train: of the probes; the run's own data need not be here.
    """  # fmt: skip
    self.config, self.reader, self._train = config, Reader(workdir), train
    self.mesh = sharding.make_mesh()  # the evaluator's own devices
    self._last: tuple[int | None, State] | None = None

  @functools.cached_property
  def checked(self) -> Checked:
    """The method, settled with the facts of the run, and the shapes of its state."""
    return contract.check(build_method(self.config), self._facts())

  def _facts(self) -> Facts:
    saved = None
    for step in reversed(self.reader.steps()):
      try:
        saved = self.reader.meta(step).get('facts')
        break
      except (Vanished, Damaged):
        continue
    if saved is not None:
      return Facts(**saved)
    # A run of before there were facts, whose method counts neither records nor classes; or no run, only its config.
    return configs.facts(self.config, len(self._train), self._train.num_classes or build_method(self.config).label_classes or 1)

  def trained(self, step: int) -> State:
    """The verified checkpoint of a step.

    Raises:
      Vanished: the trainer has deleted it.
    """
    if self._last is None or self._last[0] != step:
      self._last = None  # before the next one is read: not two of them in memory
      place = sharding.replicated(self.mesh)
      abstract = {'params': self.checked.params, 'memory': self.checked.memory}
      abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), abstract)
      with self.reader.pin(step):  # the trainer may not delete it while it is read
        found = self.reader.restore(abstract, step, partial=True)
        weights = self.reader.digest(step)
      self._last = (step, State(found['params'], found['memory'], weights))
    return self._last[1]

  @functools.cached_property
  def random(self) -> State:
    """The state that a run of this config starts from."""
    place, method, seed = sharding.replicated(self.mesh), self.checked.method, self.config.seed
    init = jax.jit(lambda batch: init_state(method, optax.identity(), seed, batch), out_shardings=place)
    state = init({key: jax.device_put(np.zeros(a.shape, a.dtype), place) for key, a in self.checked.batch.items()})
    of = {'method': self.config.method.to_json(sort_keys=True), 'seed': seed, 'jax': jax.__version__}
    return State(state.params, state.memory, digest.of_json(of))
