"""What a step costs, read from its program: FLOPs from the jaxpr, collectives from the optimised HLO. Nothing runs."""

import math
import re
from typing import Any

from jax.extend.core import ClosedJaxpr
from jax.interpreters import partial_eval

BYTES = {'pred': 1, 'u8': 1, 's8': 1, 'bf16': 2, 'f16': 2, 'u16': 2, 's16': 2, 'f64': 8, 's64': 8, 'u64': 8}  # others: 4
COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')


def flops(jaxpr: ClosedJaxpr) -> float:
  """FLOPs of the matrix products and convolutions of a jaxpr over all devices, recomputation (remat) included.

  XLA's own count takes the body of a scan once, this one as often as it runs. As in papers, a multiply-add is two and taps on
  padding count. The body of a `while`, whose length is unknown, counts once; of the branches of a `cond`, the dearest.
  """
  used, _ = partial_eval.dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars))  # the compiler drops the rest, too
  return _flops(used)


def _flops(jaxpr: Any) -> float:
  total = 0.0
  for eqn in jaxpr.eqns:
    name, params = eqn.primitive.name, eqn.params
    out: Any = eqn.outvars[0].aval if eqn.outvars else None
    if name == 'dot_general':
      (contracted, _), _ = params['dimension_numbers']
      total += 2 * out.size * math.prod(eqn.invars[0].aval.shape[d] for d in contracted)
    elif name == 'conv_general_dilated':
      kernel = eqn.invars[1].aval
      taps = kernel.size / kernel.shape[params['dimension_numbers'].rhs_spec[0]]
      # lhs_dilation (the gradient of a stride) puts zeros between the pixels: no work.
      total += 2 * out.size * taps / math.prod(params['lhs_dilation'])
    elif name == 'cond':
      total += max(_flops(branch) for branch in params['branches'])
    else:
      times = params['length'] if name == 'scan' else params['mesh'].size if name == 'shard_map' else 1
      total += times * sum(_flops(part) for part in params.values() if hasattr(part, 'eqns'))
  return total


def collectives(hlo: str) -> dict[str, tuple[int, int]]:
  """{kind: (how often a step runs it, bytes that they leave on a device)} of an optimised HLO module's text.

  Those in the body of a loop count as often as it runs.
  """
  computations, entry = _computations(hlo)
  totals: dict[str, tuple[int, int]] = {}

  def walk(name, times):
    for line in computations.get(name, ()):
      if found := re.search(rf' = (.*?) ({"|".join(COLLECTIVES)})(-start)?\(', line):
        count, size = totals.get(found[2], (0, 0))
        totals[found[2]] = (count + times, size + times * _bytes(found[1], found[2], started=bool(found[3])))
      if loop := re.search(r' while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)', line):
        walk(loop[2], times * _trips(line, computations.get(loop[1], [])))
      elif called := re.search(
        r' (?:fusion|call|conditional|async-start)\(.*?(?:calls|to_apply|branch_computations)=(\{.*?\}|%?[\w.\-]+)', line
      ):
        for inner in re.findall(r'[\w.\-]+', called[1]):
          walk(inner, times)

  walk(entry, 1)
  return totals


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
  """({computation: its lines}, the entry's name)."""
  found: dict[str, list[str]] = {}
  name = entry = ''
  for line in hlo.splitlines():
    if head := re.match(r'(ENTRY )?%?([\w.\-]+) \(.*\{$', line):
      name = head[2]
      found[name], entry = [], name if head[1] else entry
    elif line.startswith('  ') and name:
      found[name].append(line)
  return found, entry


def _trips(line: str, condition: list[str]) -> int:
  """How often a loop runs: XLA says so on a CPU; on a TPU only the constant that its counter is compared with does."""
  if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', line):
    return int(known[1])
  bounds = [int(n) for n in re.findall(r' = s32\[\]\S* constant\((\d+)\)', '\n'.join(condition))]
  return max(bounds, default=1)


def _bytes(shape: str, kind: str, *, started: bool) -> int:
  """Bytes of the results in an HLO shape."""
  sizes = [
    BYTES.get(dtype, 4) * math.prod(int(side) for side in sides.split(',') if side)
    for dtype, sides in re.findall(r'(\w+)\[([\d,]*)\]', shape)
  ]
  if started and kind != 'all-reduce':  # (operands, results, perhaps counters): the results are the last of the equal parts
    sizes = [size for size in sizes if size > 4]
    sizes = sizes[len(sizes) // 2 :]
  return sum(sizes)
