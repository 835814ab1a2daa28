"""A run before its first step: data opened, method checked, optimizer built, all shapes worked out. Nothing here compiles."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from sslax import contract
from sslax.data import pipeline
from sslax.data.sources import Source, open_source
from sslax.errors import UserError
from sslax.method import Facts, Input, Method
from sslax.models import net
from sslax.run import config as configs
from sslax.run import graft, sharding
from sslax.run.checkpoint import Reader
from sslax.spec import build
from sslax.step import TrainState, jit_step

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Run:
  """Everything that a run needs before its first step."""

  config: ml_collections.ConfigDict
  method: Method  # settled: it knows the run's length
  inputs: dict[str, Input]
  tx: optax.GradientTransformation
  learning_rate: Callable[[int], float]
  opened: Source | None  # the training set; None: only shapes are wanted
  mesh: jax.sharding.Mesh
  facts: Facts
  abstract_state: TrainState  # shapes, dtypes and where they live
  abstract_batch: dict[str, jax.ShapeDtypeStruct]
  features: dict[str, jax.ShapeDtypeStruct]  # that the method gives, by name
  microbatched: bool  # whether its networks run in pieces, where the config asks for it
  records: str = ''  # what the data looks like, for the summary
  grafts: tuple[graft.Graft, ...] = ()  # what a fresh state takes from elsewhere

  @property
  def source(self) -> Source:
    """The training set.

    Raises:
      ValueError: this is a run of `prepare_shapes`, without data.
    """
    if self.opened is None:
      raise ValueError('a run of prepare_shapes has no data')
    return self.opened

  @property
  def total_steps(self) -> int:
    return self.facts.total_steps

  @property
  def steps_per_epoch(self) -> int:
    return int(self.facts.steps_per_epoch)

  def state_sharding(self) -> PyTree:
    return jax.tree.map(lambda a: a.sharding, self.abstract_state)

  def step(self) -> jax.stages.Wrapped:
    """The training step of this run, jitted: (state, batch) -> (state, metrics)."""
    rows = sharding.batch_sharding(self.mesh)
    return jit_step(self.method, self.tx, self.config.seed, self.state_sharding(), rows, self.config.microbatches)

  def lower(self) -> jax.stages.Lowered:
    """The step, traced for this mesh and not compiled yet."""
    return self.step().lower(self.abstract_state, self.abstract_batch)


def build_method(config: ml_collections.ConfigDict) -> Method:
  """The method of a config.

  Raises:
    UserError: config.method names something that is no method.
  """
  method = build(config.method, 'config.method')
  if not isinstance(method, Method):
    raise UserError(f'config.method.make={config.method.get("make", "")!r} is no sslax.method.Method')
  return method


def prepare(config: ml_collections.ConfigDict, workdir: pathlib.Path | None = None) -> Run:
  """Opens the data, builds method and optimizer, works out all shapes. Every mistake that can be found without compiling is
  found here.

  Args:
    workdir: a run that goes on there needs the sources of `config.graft` no more.

  Raises:
    UserError: says what is wrong, where, and what to do.
  """
  configs.check(config, jax.device_count())
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.slices)
  method = build_method(config)
  source = open_source(config.data.train)
  pipeline.check(source, config.batch_size)
  records = pipeline.probe(source, method.inputs())
  if config.data.test:  # a missing test set should not be found out after the training
    open_source(config.data.test)
  run = _with_shapes(config, method, mesh, configs.facts(config, len(source), source.num_classes))
  run = dataclasses.replace(run, opened=source, records=records)
  if workdir is not None and Reader(workdir).steps():
    return run
  return dataclasses.replace(run, grafts=graft.plan(config.graft, run.method, run.abstract_state))


def prepare_shapes(config: ml_collections.ConfigDict, facts: Facts, devices: Sequence[jax.Device] | None = None) -> Run:
  """Like `prepare` for a data set that is not here, and for `devices` that need not be here either: shapes only.

  What `evaluate`, `plan` and the tests of full-size presets need.
  """
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.slices, devices=devices)
  return _with_shapes(config, build_method(config), mesh, facts)


def assumed_facts(config: ml_collections.ConfigDict, num_records: int) -> Facts:
  """The facts of a run on a data set that is not here, with as many classes as the method is for."""
  return configs.facts(config, num_records, build_method(config).label_classes or 1000)


def _with_shapes(config: ml_collections.ConfigDict, method: Method, mesh: jax.sharding.Mesh, facts: Facts) -> Run:
  checked = contract.check(method, facts, microbatches=config.microbatches)
  groups = net.groups(checked.method.modules, checked.params)
  optimizer = build(config.optim, 'config.optim')
  tx, learning_rate = optimizer.build(facts, checked.params, groups)
  # What init_state makes, without tracing the networks again.
  step: Any = jax.ShapeDtypeStruct((), np.int32)
  abstract = TrainState(step, checked.params, checked.memory, jax.eval_shape(tx.init, checked.params))
  abstract = sharding.with_sharding(abstract, sharding.state_sharding(mesh, abstract, groups))
  rows = sharding.batch_sharding(mesh)
  batch = {key: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=rows) for key, s in checked.batch.items()}
  return Run(
    config=config,
    method=checked.method,
    inputs=checked.inputs,
    tx=tx,
    learning_rate=learning_rate,
    opened=None,
    mesh=mesh,
    facts=facts,
    abstract_state=abstract,
    abstract_batch=batch,
    features=checked.features,
    microbatched=checked.microbatched and config.microbatches > 1,
  )
