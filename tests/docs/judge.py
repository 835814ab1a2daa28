"""What the binaries themselves say of commands: each is run by a fork, which ends where data would be read or anything compiled.

A program of its own, so that jax is imported once: it reads a list of commands from stdin and prints a list of answers.
"""

import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import sys
import types


def judge(asked):
  """What each command of sslax says when it ends badly, or ''; each is run by a fork, which ends where data would be read."""
  from sslax import comparison, recipes
  from sslax.data import pipeline, sources
  from sslax.errors import UserError
  from sslax.evals import views  # noqa: F401
  from sslax.evaluation import evaluation, online, picks, report  # noqa: F401
  from sslax.planning import study as planning
  from sslax.planning import topology
  from sslax.run import cli, loop, prepare  # noqa: F401
  from sslax.run import config as configs
  from sslax.spec import build

  def good():
    os._exit(0)

  def open_source(uri):
    if uri.partition(':')[0] not in sources.names():
      raise UserError(f'no such scheme: {uri}')
    return types.SimpleNamespace(num_classes=10)

  def prepared(config, _=None, devices=1):
    configs.check(config, devices)
    prepare.build_method(config)
    build(config.optim, 'config.optim')
    for uri in filter(None, (config.data.train, config.data.test)):
      open_source(uri)
    good()

  def study(config, topologies, **_):
    for place in topologies:
      devices = place.chips * topology.CHIPS[place.chip].devices if place else 1
      slices = place.slices if place else 1
      if devices % (config.mesh.fsdp * slices):
        raise UserError(f'{devices} devices are not a multiple of config.mesh.fsdp={config.mesh.fsdp} x {slices} slices')
      configs.check(config, devices)
    prepared(config, devices=devices)

  cli.start_jax = lambda: None
  configs.load = lambda _: recipes.base_config()  # of a workdir that is not there
  prepare.prepare, planning.study, evaluation.Evaluation = prepared, study, lambda *_: good()
  comparison.plan.open_source = sources.open_source = open_source
  comparison.run.prepare = prepared
  pipeline.check = lambda *_: good()
  picks.available()
  methods = importlib.import_module('sslax.methods')
  for module in pkgutil.iter_modules(methods.__path__):  # once, not in each fork
    importlib.import_module(f'sslax.methods.{module.name}')
  gc.collect()
  gc.freeze()  # so that a fork shares what it only reads
  return [forked(words) for words in asked]


def forked(words):
  read, write = os.pipe()
  if pid := os.fork():
    os.close(write)
    with open(read, encoding='utf-8') as pipe:
      said = pipe.read()
    return (said or 'no word') if os.waitpid(pid, 0)[1] else ''
  try:
    signal.alarm(60)
    os.dup2(write, 1), os.dup2(write, 2)
    dry = ['--dry_run'] if words[0] in ('sslax.train', 'sslax.compare') else []  # they make the workdir otherwise
    sys.argv = [*words, *dry]
    runpy.run_module(words[0], run_name='__main__')
  except SystemExit as stop:
    sys.stdout.flush()
    os._exit(stop.code)
  finally:
    os._exit(1)


if __name__ == '__main__':
  print(json.dumps(judge(json.load(sys.stdin))))
