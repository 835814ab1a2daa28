"""Compiling the real step for chips that are not here: what it takes, whether it fits, and what would make it fit."""

import copy
import dataclasses
import functools
import json
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from sslax.errors import UserError
from sslax.io import atomic
from sslax.run import config as configs
from sslax.run import cost, loop, sharding
from sslax.run.topology import CHIPS, Topology
from sslax.step import jit_step

GIB = 2**30
UNITS = {'': 1, 'B': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
MICROBATCHES = (2, 4, 8, 16, 32, 64)
MAX_TRIES = 16  # compilations in search of the largest batch


@dataclasses.dataclass(frozen=True)
class Target:
  """The devices that a step is compiled for."""

  name: str
  devices: Sequence[jax.Device]
  chips: int
  slices: int
  hbm: int | None  # bytes of a device that a program may take; None: nobody says (CPU)
  peak: float | None  # FLOP/s of all chips, bfloat16


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


def target(topology: Topology | None, hbm: int | None = None) -> Target:
  """The devices of a topology, which need not exist; None: those that jax sees.

  Args:
    hbm: bytes of a device, instead of what is known of it.

  Raises:
    UserError: libtpu is not installed, or knows no such slice.
  """
  if topology is None:
    devices = jax.devices()
    limit = (devices[0].memory_stats() or {}).get('bytes_limit')
    return Target('local', devices, len(devices), _slices(devices), hbm or limit, None)
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')  # or libtpu asks a machine of Google's who we are, and complains
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-16')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')  # nothing is opened, so two plans, or one beside a training, may be
  from jax.experimental import topologies

  try:
    devices = topologies.get_topology_desc(platform='tpu', **topology.libtpu).devices
  except RuntimeError as error:
    if 'not installed' in str(error):
      raise UserError(f'the compiler for TPUs is missing; it needs no TPU: pip install "jax[tpu]=={jax.__version__}"') from None
    raise UserError(f'libtpu has no such slice: {" ".join(str(error).split())}') from None
  chip = CHIPS[topology.chip]
  return Target(
    topology.name, devices, topology.chips, topology.slices, hbm or _hbm(devices[0], chip.hbm), topology.chips * chip.peak
  )


def _slices(devices) -> int:
  return len({getattr(device, 'slice_index', 0) for device in devices})


def _hbm(device, published: int) -> int:
  """Bytes of a device that a program may take, from the refusal of one that fits nowhere: less than what is published."""
  huge = jax.ShapeDtypeStruct((2**30, 2**10), np.float32, sharding=jax.sharding.SingleDeviceSharding(device))
  try:
    jax.jit(lambda x: x + 1).lower(huge).compile()
  except jax.errors.JaxRuntimeError as error:
    if numbers := out_of_memory(str(error)):
      return numbers[1]
  return published * GIB


def out_of_memory(message: str) -> tuple[int, int] | None:
  """(bytes needed, bytes there are) of a compiler's message, None when it is about something else."""
  for pattern in (
    r'requires? .*?\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)',
    r'required .*?\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)',
    r'Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm',
  ):
    if found := re.search(pattern, message):
      return round(float(found[1]) * UNITS[found[2]]), round(float(found[3]) * UNITS[found[4]])
  return None


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
  run = loop.prepare_shapes(config, num_examples, where.devices)
  step = jit_step(run.method, run.tx, config.seed, run.state_sharding(), sharding.batch_sharding(run.mesh))
  try:
    traced = step.trace(run.abstract_state, run.abstract_batch)
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
    batch_norm=loop.has_batch_norm(run.abstract_state),
  )


def changed(config: ml_collections.ConfigDict, changes: dict[str, Any]) -> ml_collections.ConfigDict:
  """A copy with other values; what refers to a changed key follows it."""
  config = copy.deepcopy(config)
  config.update_from_flattened_dict(changes)
  return config


def _bytes(tree) -> int:
  """Bytes on one device."""
  return sum(int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * _itemsize(leaf.dtype) for leaf in jax.tree.leaves(tree))


def _itemsize(dtype) -> int:
  return np.dtype(dtype).itemsize


def advise(first: Plan, compile_with: Callable[[dict[str, Any]], Plan], config: ml_collections.ConfigDict) -> Plan | None:
  """The first of microbatches, remat and FSDP, then of their combinations, with which the same batch fits; None: none does.

  Args:
    first: the plan that does not fit.
    compile_with: changes -> plan.
  """
  devices = int(np.prod(list(first.mesh.values())))
  rows = config.batch_size // devices
  counts = [n for n in MICROBATCHES if n > config.microbatches and rows % n == 0]
  remat = {key: 'full' for key, value in configs.flat(config).items() if key.endswith('.remat') and value == 'none'}
  fsdp = devices // config.mesh.slices
  split = {'mesh.fsdp': fsdp, 'mesh.data': -1} if config.mesh.fsdp < fsdp else {}

  def smaller(base: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from ({'microbatches': n, **base} for n in counts)

  ladders = [smaller({})]
  ladders += [[remat], smaller(remat)] if remat else []
  ladders += [[split], smaller(split)] if split else []
  ladders += [[{**remat, **split}], smaller({**remat, **split})] if remat and split else []
  for ladder in ladders:
    last = first.needed
    for changes in ladder:
      try:
        tried = compile_with(changes)
      except UserError as error:  # a microbatch that the views do not divide into, say
        say(f'{changes}: {error}')
        continue
      if tried.fits:
        return tried
      if tried.needed > 0.97 * last:  # it is not this that takes the memory
        break
      last = tried.needed
  return None


def largest_batch(first: Plan, compile_with: Callable[[dict[str, Any]], Plan], config: ml_collections.ConfigDict) -> Plan | None:
  """The plan of the largest global batch that fits, to a sixteenth; None: not one row a device fits.

  Over multiples of devices x microbatches. What a step needs grows with the batch almost in a straight line, so each try is near
  where the line through the last two meets the limit, and a few compilations do.

  Raises:
    UserError: nobody says how much memory there is.
  """
  if first.hbm is None:
    raise UserError('--largest_batch needs a limit, which a CPU does not have: --hbm=GIB')
  unit = int(np.prod(list(first.mesh.values()))) * config.microbatches
  points = [(0, sum(size for kind, size in first.state.items() if kind != 'input')), (first.batch_size // unit, first.needed)]
  best, low, high = (first, points[-1][0], None) if first.fits else (None, 0, points[-1][0])
  for _ in range(MAX_TRIES):
    if high is not None and high - low <= max(1, low // 16):
      break
    (a, x), (b, y) = points[-2:]
    guess = int(a + (first.hbm - x) * (b - a) / (y - x)) if y != x else 2 * b
    margin = max(1, low // 16) if high is None else max(1, (high - low) // 8)
    guess = min(max(guess, low + margin), 8 * max(low, 1) if high is None else high - margin)
    tried = compile_with({'batch_size': guess * unit})
    points.append((guess, tried.needed))
    if tried.fits:
      best, low = tried, guess
    else:
      high = guess
  return best


def study(
  config: ml_collections.ConfigDict,
  topologies: Sequence[Topology | None],
  *,
  command: Sequence[str],
  num_examples: int,
  hbm: int | None = None,
  seek_advice: bool = True,
  seek_largest: bool = False,
  table: bool = False,
  out: pathlib.Path | None = None,
) -> None:
  """Prints the plan of a config for each topology, and what is asked for beside it.

  Args:
    command: the flags that made the config, for the command lines in the advice.
    hbm: bytes of a device, instead of what is known of it.
    out: every plan as JSON.

  Raises:
    UserError: the config cannot work on a topology; the others are printed first.
  """
  plans, refused = [], []
  if table:
    print(HEADER, flush=True)
  for topology in topologies:
    try:
      where = target(topology, hbm)
      compile_with = functools.partial(_compile, config, where, num_examples)
      first = compile_with({})
      plans.append(first)
      print(row(first) if table else report(first), flush=True)
      if seek_advice and not first.fits:
        plans += _print(
          advise(first, compile_with, config), table, command, 'makes it fit', 'nothing that was tried makes it fit'
        )
      if seek_largest:
        plans += _print(
          largest_batch(first, compile_with, config), table, command, 'is the largest batch', 'not one image a device fits'
        )
    except UserError as error:
      refused.append(f'{topology.name if topology else "local"}: {error}')
  if out:
    atomic.write(out, json.dumps([dataclasses.asdict(plan) for plan in plans], indent=1) + '\n')
  if refused:
    raise UserError('\n'.join(refused))


def _compile(config, where, num_examples, changes) -> Plan:
  say(f'compiling for {where.name}' + ''.join(f', {key}={value}' for key, value in changes.items()))
  found = plan(config, where, num_examples, changes)
  say(f'  {"fits" if found.fits else "does not fit"}: {found.needed / GIB:.2f} GiB, {found.compile_seconds:.0f} s')
  return found


def _print(found: Plan | None, table: bool, command: Sequence[str], what: str, otherwise: str) -> list[Plan]:
  """Prints a plan that was looked for; as a list, empty when there is none."""
  if found is None:
    print(otherwise, flush=True)
    return []
  flags = [f'--config.{key}={value}' for key, value in found.changes.items()]
  flags += [f'--config.mesh.slices={found.slices}'] if found.slices > 1 else []
  line = ' '.join(['python -m sslax.train', *command, *flags, '--workdir=WORKDIR'])
  print(row(found) if table else f'{report(found)}\n{what}: {line}', flush=True)
  return [found]


def report(plan: Plan) -> str:
  """A plan for people, a line a thing."""

  def gib(size):
    return f'{size / GIB:.2f} GiB' if size >= 0.1 * GIB else f'{size / 2**20:.1f} MiB'

  devices = int(np.prod(list(plan.mesh.values())))
  per = 'chip' if devices == plan.chips else 'device'
  limit = '' if plan.hbm is None else f' of {gib(plan.hbm)}'
  lines = [
    ('topology', f'{plan.topology}: {plan.chips} chips, {devices} devices ({plan.device_kind}), ' + _mesh(plan)),
    ('batch', f'{plan.batch_size:,} images, {plan.batch_size // devices:,} a device' + _changes(plan)),
    *((kind, f'{gib(size)} a {per}') for kind, size in plan.state.items()),
    ('temporaries', f'{gib(plan.temporaries)} a {per}: activations, gradients, padding'),
    ('needed', f'{gib(plan.needed)}{limit} a {per}: ' + ('fits' if plan.fits else 'DOES NOT FIT')),
    (
      'step',
      f'{plan.flops / 1e12:.3f} TFLOP, {plan.flops / plan.batch_size / 1e9:.2f} GFLOP an image (products and convolutions)',
    ),
  ]
  if plan.images_per_second:
    lines.append(('at most', f'{plan.images_per_second:,.0f} images/s, if arithmetic at the published bfloat16 peak were all'))
  if plan.collectives:
    text = ', '.join(f'{count:,} {kind} ({gib(size)})' for kind, (count, size) in sorted(plan.collectives.items()))
    lines.append(('collectives', f'{text} a {per} and step'))
  if plan.batch_norm and plan.changes.get('microbatches', 1) > 1:
    lines.append(('note', loop.GHOST))
  lines.append(('compiled in', f'{plan.compile_seconds:.1f} s, traced in {plan.trace_seconds:.1f} s'))
  return '\n'.join(f'  {key:<14} {value}' for key, value in lines)


def _mesh(plan: Plan) -> str:
  return ' x '.join(f'{axis} {size}' for axis, size in plan.mesh.items())


def _changes(plan: Plan) -> str:
  return ''.join(f', {key}={value}' for key, value in plan.changes.items() if key not in ('batch_size', 'mesh.data'))


COLUMNS = ('topology', 'batch', 'state, GiB', 'temporaries, GiB', 'of HBM', 'fits', 'GFLOP an image', 'images/s at most')
COLUMNS += ('collectives, GiB', 'seconds')
HEADER = f'| {" | ".join(COLUMNS)} |\n|{"---|" * len(COLUMNS)}'


def row(plan: Plan) -> str:
  """A plan as a row of the table under HEADER."""
  cells = (
    plan.topology + _changes(plan),
    f'{plan.batch_size:,}',
    f'{sum(plan.state.values()) / GIB:.2f}',
    f'{plan.temporaries / GIB:.2f}',
    f'{plan.needed / plan.hbm:.0%}' if plan.hbm else '',
    'yes' if plan.fits else 'no',
    f'{plan.flops / plan.batch_size / 1e9:.2f}',
    f'{plan.images_per_second:,.0f}' if plan.images_per_second else '',
    f'{sum(size for _, size in plan.collectives.values()) / GIB:.3f}' if plan.fits else '',
    f'{plan.trace_seconds + plan.compile_seconds:.0f}',
  )
  return '| ' + ' | '.join(cells) + ' |'


def say(text: str) -> None:
  """Progress, beside the result that goes to stdout."""
  print(text, file=sys.stderr, flush=True)
