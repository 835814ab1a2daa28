"""The training loop: prepare (builds and checks everything, compiles nothing), summary, train. It knows no method by name."""

import dataclasses
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from tqdm import tqdm

from sslax.data import pipeline, text
from sslax.data.bad import BadRecords
from sslax.data.sources import open_source
from sslax.errors import Diverged, Interrupted, UserError
from sslax.io.versions import versions
from sslax.method import Method
from sslax.ops import tree
from sslax.run import config as configs
from sslax.run import graft, sharding
from sslax.run.checkpoint import Checkpointer, Reader, SaveFailed, state_hash
from sslax.run.faults import Status, StopRequest, meet, read_status
from sslax.run.health import Health
from sslax.run.metrics import MetricWriter
from sslax.run.watchdog import LINGER, Watchdog
from sslax.spec import build
from sslax.step import TrainState, init_state, jit_step, timed

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Run:
  """Everything that a run needs before its first step. Nothing here has been compiled."""

  config: ml_collections.ConfigDict
  method: Method
  tx: optax.GradientTransformation
  learning_rate: Callable[[int], float]
  source: Any
  mesh: jax.sharding.Mesh
  total_steps: int
  steps_per_epoch: int
  abstract_state: TrainState  # shapes, dtypes and where they live
  abstract_batch: dict[str, jax.ShapeDtypeStruct]
  images: str  # what the data looks like, for the summary
  tokenize: Any = None  # of config.data.text
  grafts: tuple[graft.Graft, ...] = ()  # what a fresh state takes from elsewhere

  def state_sharding(self) -> PyTree:
    return jax.tree.map(lambda a: a.sharding, self.abstract_state)


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
  optimizer = build(config.optim, 'config.optim')
  source = open_source(config.data.train)
  _check_labels(method, source)
  tokenize = text.make(config.data.text, config.data.text_length, config.data.vocab)
  _check_vocabulary(method, tokenize)
  pipeline.check(source, config.batch_size)
  sizes = pipeline.probe(source, max_pixels=config.data.max_pixels, captioned=tokenize is not None)
  if config.data.test:  # a missing test set should not be found out after the training
    open_source(config.data.test)
  total, steps_per_epoch = configs.total_steps(config, len(source))
  batch = batch_shapes(config, method, labelled=source.num_classes > 0, rows=sharding.batch_sharding(mesh))
  run = _shapes(config, method, optimizer, source, mesh, total, steps_per_epoch, batch, _describe(sizes))
  run = dataclasses.replace(run, tokenize=tokenize)
  if workdir is not None and Reader(workdir).steps():
    return run
  return dataclasses.replace(run, grafts=graft.plan(config.graft, run.method, run.abstract_state))


def _check_labels(method: Method, source) -> None:
  """Raises UserError where a method learns from labels that the data lacks, or has too few classes for."""
  if method.uses_labels and not source.num_classes:
    raise UserError(f'{type(method).__name__} learns from labels, and config.data.train={source.name} has none')
  while method is not None:
    inner, classes = getattr(method, 'inner', None), getattr(method, 'num_classes', 0)
    # One that reads no labels, like a student of a teacher, may see images of any classes; a wrapper reads them for its probe.
    if 0 < classes < source.num_classes and (method.uses_labels or inner is not None):
      raise UserError(
        f'{type(method).__name__} is for {classes} classes, and config.data.train={source.name} has {source.num_classes}'
      )
    method = inner


def _check_vocabulary(method: Method, tokenize) -> None:
  """Raises UserError where a text tower has fewer rows than there are tokens: a look-up on device would not notice."""
  while method is not None and tokenize is not None:
    rows = getattr(getattr(method, 'text', None), 'vocab_size', tokenize.vocab_size)
    if rows < tokenize.vocab_size:
      raise UserError(
        f'config.method.text.vocab_size={rows} is too small for the {tokenize.vocab_size} tokens of config.data.text'
      )
    method = getattr(method, 'inner', None)


def _shapes(config, method, optimizer, source, mesh, total, steps_per_epoch, batch, images) -> Run:
  method = timed(method, steps_per_epoch=steps_per_epoch, batch_size=config.batch_size, total_steps=total)

  def start(batch):
    return method.init(jax.random.key(0), method.views(jax.random.key(0), batch))

  try:
    params, memory = jax.eval_shape(start, batch)
  except (ValueError, TypeError) as error:
    if 'SSLAX_TRACEBACK' in os.environ:
      raise
    raise UserError(
      f'config.method cannot be built for images of {config.data.image_size} pixels: {error} (SSLAX_TRACEBACK=1 shows where)'
    ) from error
  tx, learning_rate = optimizer.build(
    batch_size=config.batch_size, total_steps=total, steps_per_epoch=steps_per_epoch, params_shape=params
  )
  # What init_state makes, without tracing the networks again.
  step = jax.ShapeDtypeStruct((), np.int32)
  abstract = TrainState(step, params, memory, jax.eval_shape(tx.init, params))
  abstract = sharding.with_sharding(abstract, sharding.state_sharding(mesh, abstract))
  return Run(config, method, tx, learning_rate, source, mesh, total, steps_per_epoch, abstract, batch, images)


def prepare_shapes(config: ml_collections.ConfigDict, num_examples: int, devices: Sequence[jax.Device] | None = None) -> Run:
  """Like `prepare` for a data set that is not here, and for `devices` that need not be here either: shapes only.

  What `evaluate`, `plan` and the tests of full-size presets need.
  """
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.slices, devices=devices)
  method, optimizer = build_method(config), build(config.optim, 'config.optim')
  total, steps_per_epoch = configs.total_steps(config, num_examples)
  batch = batch_shapes(config, method, labelled=True, rows=sharding.batch_sharding(mesh))
  return _shapes(config, method, optimizer, None, mesh, total, steps_per_epoch, batch, '')


def batch_shapes(config, method: Method, *, labelled: bool, rows) -> dict[str, jax.ShapeDtypeStruct]:
  """The global batch that the pipeline will deliver: image, or crops cut by the host; index; label and text where there are.

  Raises:
    UserError: the method needs crops or captions, and the config does not provide them.
  """

  def struct(*shape, dtype):
    return jax.ShapeDtypeStruct((config.batch_size, *shape), dtype, sharding=rows)

  batch = {'index': struct(dtype=np.int32)}
  if config.data.crop_on == 'host':
    if not method.crops():
      raise UserError('config.data.crop_on=host, but this method asks for no crops; use device')
    for g, crop in enumerate(method.crops()):
      batch[f'crops_{g}' if g else 'crops'] = struct(crop.count, crop.size, crop.size, 3, dtype=np.uint8)
  else:
    batch['image'] = struct(config.data.image_size, config.data.image_size, 3, dtype=np.uint8)
  if labelled:
    batch['label'] = struct(dtype=np.int32)
  if config.data.text:
    batch['text'] = struct(config.data.text_length, dtype=np.int32)
  elif method.uses_text:
    raise UserError(
      f'{type(method).__name__} learns from captions: set config.data.text to bytes, or to bpe, and config.data.train to a '
      'source that has them, such as digits:captions@train'
    )
  return batch


def lower(run: Run):
  """The step, traced for this mesh and not compiled yet."""
  step = jit_step(run.method, run.tx, run.config.seed, run.state_sharding(), sharding.batch_sharding(run.mesh))
  return step.lower(run.abstract_state, run.abstract_batch)


GHOST = 'each microbatch has its own BatchNorm statistics: another result than the whole batch (docs/scaling.md)'


def has_batch_norm(state: TrainState) -> bool:
  """Whether a network of it keeps running variances."""
  return any(path.endswith('/var') for path in tree.paths(state.memory))


def summary(run: Run, lowered) -> str:
  """What is about to happen: data, method, parameters, memory, FLOPs, length."""
  config, parts = run.config, {}
  for key, network in run.abstract_state.params.items():
    parts[key] = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(network))
  state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(run.abstract_state))
  cost = lowered.cost_analysis() or {}
  flops = float(cost.get('flops', 0.0))
  device = run.mesh.devices.flat[0]
  ghost = config.microbatches > 1 and has_batch_norm(run.abstract_state)
  lines = [
    ('method', f'{type(run.method).__name__}, ' + ', '.join(f'{key} {n:,}' for key, n in parts.items()) + ' parameters'),
    (
      'data',
      f'{config.data.train}: {len(run.source):,} records, {run.images}, '
      + (
        f'{run.source.num_classes} classes ({"the method learns from them" if run.method.uses_labels else "probes only"})'
        if run.source.num_classes
        else 'unlabelled'
      )
      + (f', captions of {config.data.text_length} tokens ({config.data.text})' if config.data.text else ''),
    ),
    (
      'length',
      f'{run.total_steps:,} steps of {config.batch_size} images, {run.steps_per_epoch:,} an epoch: '
      f'{run.total_steps / run.steps_per_epoch:.1f} epochs',
    ),
    (
      'learning rate',
      f'peak {max(float(run.learning_rate(s)) for s in np.linspace(0, run.total_steps - 1, 257).astype(int)):.4g}',
    ),
    (
      'step',
      f'{flops / 1e9:.2f} GFLOP ({flops / config.batch_size / 1e6:.1f} MFLOP an image; XLA counts a scanned body once), '
      f'state {state_bytes / 2**20:.1f} MiB',
    ),
    (
      'devices',
      f'{run.mesh.size} x {device.device_kind} ({device.platform}), '
      f'data {run.mesh.shape["data"]} x fsdp {run.mesh.shape["fsdp"]}, {jax.process_count()} process(es)',
    ),
    *([('microbatches', f'{config.microbatches}; {GHOST}')] if ghost else []),
    *(('graft', str(taken)) for taken in run.grafts),
    ('versions', ', '.join(f'{k} {v}' for k, v in versions().items())),
  ]
  return '\n'.join(f'  {key:<14} {value}' for key, value in lines)


def finished(workdir: pathlib.Path, total_steps: int) -> bool:
  """True when the last run here reached its end."""
  status = read_status(workdir)
  return status.get('reason') == 'done' and status.get('step') == total_steps


def train(
  run: Run, lowered, workdir: pathlib.Path, stop: StopRequest, online: Callable[[TrainState], dict[str, float]] | None = None
) -> TrainState:
  """Runs to the end, from the newest good checkpoint if there is one.

  Args:
    stop: the flag that SIGTERM sets; read once a step.
    online: state -> metrics (kNN accuracy); called every `online.every_steps` steps.

  Raises:
    Interrupted: asked to stop; the state is saved.
    Diverged: a value is not finite; the last checkpoint is from before.
    UserError: too many bad records.
  """
  config, started = run.config, time.time()
  checkpointer = Checkpointer(
    workdir,
    every_steps=config.checkpoint.every_steps,
    keep=config.checkpoint.keep,
    keep_every=config.checkpoint.keep_every,
    meta={'config': config.to_json(), 'versions': versions()},
  )

  def newest() -> int | None:
    return (checkpointer.steps() or [None])[-1]

  said = read_status(workdir).get('warnings', [])
  status = Status(
    workdir, step=0, total_steps=run.total_steps, reason='starting', last_checkpoint=None, bad_records=0, warnings=said
  )
  suffix = f'.{jax.process_index()}' if jax.process_count() > 1 else ''
  dog = Watchdog(
    workdir / f'stacks.{jax.process_index()}.txt',
    config.stall_timeout,
    on_stall=lambda: status.update(reason='stalled', last_checkpoint=newest()),
    linger=LINGER if jax.process_index() or jax.process_count() == 1 else 2 * LINGER,  # the end of process 0 is that of all
  )
  writer = batches = bar = None
  try:
    meet('ready')
    restored = checkpointer.restore(run.abstract_state)
    for message in checkpointer.damaged:
      print(f'warning: {message}', file=sys.stderr)
    if restored:
      state, start = restored
      print(f'resuming at step {start} of {run.total_steps}')
    else:
      init = jax.jit(lambda b: init_state(run.method, run.tx, config.seed, b), out_shardings=run.state_sharding())
      state, start = graft.apply(run.grafts, init(_zeros(run.abstract_batch))), 0
    health = Health(said if restored else [])
    status.fields['warnings'] = health.warnings
    if jax.process_index() == 0:
      configs.save(config, workdir)
    writer = MetricWriter(workdir, start)
    compiled = lowered.compile()  # ahead of time: it cannot compile a second time, whatever it is called with
    meet('compiled')
    batches = train_batches(run, start)
    bad = BadRecords(
      run.source, workdir / f'bad_records{suffix}.jsonl', config.data.max_bad_fraction, captioned=run.tokenize is not None
    )
    rows = sharding.batch_sharding(run.mesh)
    bar = tqdm(
      total=run.total_steps * config.batch_size,
      initial=start * config.batch_size,
      unit='img',
      unit_scale=True,
      desc=type(run.method).__name__,
      dynamic_ncols=True,
      mininterval=0.5 if sys.stderr.isatty() else 15,
      disable=jax.process_index() != 0,
    )
    status.update(step=start, reason='running', last_checkpoint=newest())
    shown: dict[str, str] = {}
    running = time.time()
    pending = None  # (step, metrics on device) of the step that was dispatched last

    def settle():
      """Reads the metrics of the step in `pending`, stops the run if they are not finite, logs them."""
      nonlocal pending
      if pending is None:
        return
      step, values, extra = pending
      pending = None
      values = {key: float(value) for key, value in values.items()}
      if not values.pop('finite'):
        culprits = [key for key, value in values.items() if not np.isfinite(value)] or ['memory']
        raise Diverged(f'step {step}: {", ".join(culprits)} not finite; last good checkpoint: {newest()}')
      for message in health.update(step, values):
        status.update()
        if jax.process_index() == 0:
          tqdm.write(f'warning: {message}', file=sys.stderr)  # above the bar, not through it
      values['learning_rate'] = float(run.learning_rate(step - 1))
      values['epoch'] = step / run.steps_per_epoch
      if step % config.log.every_steps == 0 or extra or step == run.total_steps:
        writer.write(step, {**values, **extra})
        writer.timing(step, {'images_per_second': config.batch_size * (step - start) / (time.time() - running)})
      shown.update(loss=f'{values["loss"]:.4f}', **{k: f'{v:.3f}' for k, v in extra.items()})
      bar.set_postfix(shown, refresh=False)
      bar.update(config.batch_size)

    def save(step, *, wait):
      settle()  # ORDER MATTERS: nothing is saved before its step is known to be finite
      if step not in checkpointer.steps():
        checkpointer.save(step, state, wait=wait)
      status.update(step=step, last_checkpoint=newest(), bad_records=bad.count)  # the one being saved counts when it is whole

    for step in range(start, run.total_steps):
      if stop.agreed(step):
        with dog.slow():
          if step > start or not restored:
            save(step, wait=True)
          checkpointer.wait()
        status.update(step=step, reason='interrupted', last_checkpoint=newest())
        raise Interrupted(f'{stop.signal or "preempted"} at step {step}; saved in {workdir}; the same command goes on')
      batch = next(batches)
      bad.update(batch.pop('wanted'), batch['index'])
      state, metrics = compiled(state, sharding.global_batch(batch, rows))
      # ORDER MATTERS: step n is dispatched, now read n-1: the device never waits for the host.
      settle()
      if step > start:  # the first step waits for the slowest process to compile
        dog.beat()
      if step == start:
        status.update(first_step_seconds=round(time.time() - started, 2))
      done = step + 1
      wants_online = (
        online is not None and config.online.every_steps and (done % config.online.every_steps == 0 or done == run.total_steps)
      )
      with dog.slow():
        pending = (done, metrics, online(state) if wants_online else {})
      status.update(now=False, step=done, bad_records=bad.count)
      if checkpointer.due(done) and done < run.total_steps:
        save(done, wait=False)
    with dog.slow():  # storage may take its time for the last one
      save(run.total_steps, wait=True)
      checkpointer.wait()
    status.update(
      reason='done',
      last_checkpoint=newest(),
      state_hash=state_hash(state),
      images_per_second=round((run.total_steps - start) * config.batch_size / (time.time() - running), 1),
    )
    return state
  except Diverged:
    status.update(reason='diverged')
    raise
  except SaveFailed as error:  # disk full, storage gone: older checkpoints are whole, and a restart goes on from them
    status.update(reason=f'save failed: {error}')
    raise Interrupted(str(error)) from error
  except UserError as error:
    status.update(reason=f'user error: {error}'[:500])
    raise
  except Interrupted:
    raise
  except Exception as error:
    if not dog.stalled:
      status.update(reason=f'failed: {type(error).__name__}: {error}'[:500])
    raise
  finally:
    if bar is not None:
      bar.close()
    if batches is not None:
      batches.close()
    if writer is not None:
      writer.close()
    # A save waits for all processes. After a failure that only this one may have seen it would keep this one for ever.
    if jax.process_count() == 1 or isinstance(sys.exception(), (type(None), Interrupted, Diverged)):
      with dog.slow():
        checkpointer.close()
    dog.close()


def train_batches(run: Run, start_step: int) -> pipeline.Batches:
  """This process's part of the batches from `start_step` on."""
  data = run.config.data
  return pipeline.train_batches(
    run.source,
    batch_size=run.config.batch_size,
    seed=run.config.seed,
    image_size=data.image_size,
    crops=run.method.crops(),
    crop_on=data.crop_on,
    start_step=start_step,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    threads=data.threads,
    workers=data.workers,
    prefetch=data.prefetch,
    max_pixels=data.max_pixels,
    cache={'on': True, 'off': False, 'auto': 'auto'}[data.cache],
    tokenize=run.tokenize,
  )


def _zeros(abstract_batch):
  return {
    key: jax.make_array_from_callback(a.shape, a.sharding, lambda place, a=a: np.zeros(a.shape, a.dtype)[place])
    for key, a in abstract_batch.items()
  }


def _describe(sizes) -> str:
  if not sizes:
    return 'sizes unknown'
  heights, widths = [h for h, _ in sizes], [w for _, w in sizes]
  if min(heights) == max(heights) and min(widths) == max(widths):
    return f'{heights[0]}x{widths[0]} pixels'
  return f'{min(heights)}-{max(heights)} x {min(widths)}-{max(widths)} pixels'
