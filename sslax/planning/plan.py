"""One plan: the step of a config compiled for a target, and what the compiler says of it."""

import copy
import dataclasses
import os
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from sslax.errors import UserError
from sslax.models import net
from sslax.planning import cost
from sslax.planning.target import Target, out_of_memory
from sslax.run import config as configs
from sslax.run.prepare import assumed_facts, prepare_shapes


@dataclasses.dataclass(frozen=True)
class Plan:
  """What the compiler says of one step. Bytes are those of one device."""

  topology: str
  changes: dict[str, Any]  # made to the config that was asked for
  batch_size: int
  mesh: dict[str, int]
  slices: int
  chips: int
  device_kind: str
  hbm: int | None
  fits: bool
  needed: int  # all that is alive at the worst moment
  state: dict[str, int]  # parameters, optimizer, memory, input
  temporaries: int  # activations, gradients, copies in other layouts: the rest
  flops: float  # of the step on all devices
  images_per_second: float | None  # if arithmetic were all
  collectives: dict[str, tuple[int, int]]  # kind: (how often, bytes on a device); {} where nothing was compiled to the end
  trace_seconds: float
  compile_seconds: float
  batch_norm: bool = False  # microbatches then give another result


def plan(config: ml_collections.ConfigDict, where: Target, num_examples: int, changes: dict[str, Any] | None = None) -> Plan:
  """Compiles the step of a config for a target.

  Args:
    num_examples: of the training set, which need not be here.
    changes: to the config, {'mesh.fsdp': 8}.

  Raises:
    UserError: the config cannot work there, or the compiler refuses it for another reason than memory.
  """
  changes = changes or {}
  config = changed(config, {'mesh.slices': where.slices, **changes})
  configs.check(config, len(where.devices))
  started = time.time()
  run = prepare_shapes(config, assumed_facts(config, num_examples), where.devices)
  try:
    traced = run.step().trace(run.abstract_state, run.abstract_batch)
  except (ValueError, TypeError) as error:
    if 'SSLAX_TRACEBACK' in os.environ:
      raise
    raise UserError(f'{where.name}: the step cannot be traced: {error} (SSLAX_TRACEBACK=1 shows where)') from error
  flops, lowered, tracing = cost.flops(traced.jaxpr), traced.lower(), time.time() - started
  state = {
    'parameters': _bytes(run.abstract_state.params),
    'optimizer': _bytes(run.abstract_state.opt_state),
    'memory': _bytes(run.abstract_state.memory),
    'input': _bytes(run.abstract_batch),
  }
  started, hbm, found = time.time(), where.hbm, {}
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if not (numbers := out_of_memory(str(error))):
      raise UserError(f'{where.name}: the compiler refuses the step: {" ".join(str(error).split())[:600]}') from error
    (needed, available), fits = numbers, False
    hbm = hbm or available
  else:
    use = compiled.memory_analysis()
    needed = use.argument_size_in_bytes + use.output_size_in_bytes - use.alias_size_in_bytes + use.temp_size_in_bytes
    needed += use.generated_code_size_in_bytes if where.peak else 0  # a host's program is not in the memory that it plans
    fits = hbm is None or needed <= hbm
    found = cost.collectives(compiled.as_text())
  return Plan(
    topology=where.name,
    changes=changes,
    batch_size=config.batch_size,
    mesh=dict(run.mesh.shape),
    slices=where.slices,
    chips=where.chips,
    device_kind=where.devices[0].device_kind,
    hbm=hbm,
    fits=fits,
    needed=needed,
    state=state,
    temporaries=max(0, needed - sum(state.values())),
    flops=flops,
    images_per_second=where.peak and where.peak * config.batch_size / flops,
    collectives=found,
    trace_seconds=tracing,
    compile_seconds=time.time() - started,
    batch_norm=net.has_batch_norm(run.abstract_state.memory),
  )


def changed(config: ml_collections.ConfigDict, changes: dict[str, Any]) -> ml_collections.ConfigDict:
  """A copy with other values; what refers to a changed key follows it."""
  config = copy.deepcopy(config)
  config.update_from_flattened_dict(changes)
  return config


def _bytes(tree: Any) -> int:
  """Bytes on one device."""
  return sum(int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * _itemsize(leaf.dtype) for leaf in jax.tree.leaves(tree))


def _itemsize(dtype: Any) -> int:
  return np.dtype(dtype).itemsize
