"""The plans of one config for several topologies, printed as they come."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections

from sslax.errors import UserError
from sslax.io import atomic
from sslax.planning.plan import Plan, plan
from sslax.planning.report import HEADER, report, row, say
from sslax.planning.search import advise, largest_batch
from sslax.planning.target import GIB, Target, target
from sslax.planning.topology import Topology


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
          largest_batch(first, compile_with, config), table, command, 'is the largest batch', 'not one record a device fits'
        )
    except UserError as error:
      refused.append(f'{topology.name if topology else "local"}: {error}')
  if out:
    atomic.write(out, json.dumps([dataclasses.asdict(plan) for plan in plans], indent=1) + '\n')
  if refused:
    raise UserError('\n'.join(refused))


def _compile(config: ml_collections.ConfigDict, where: Target, num_examples: int, changes: dict[str, Any]) -> Plan:
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
