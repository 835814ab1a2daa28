"""Every full-size preset compiled for TPU slices that are not here: python -m benchmarks.plans --out=runs/plans

A process of its own for each preset and topology, as a user would start it; what is in the folder already is not done again, so
the script goes on where it was stopped. The table is printed at the end, and by --table alone. Needs `pip install 'jax[tpu]'`.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time

from tqdm import tqdm

from sslax.planning import report
from sslax.planning.plan import Plan

ROOT = pathlib.Path(__file__).resolve().parents[1]
TOPOLOGIES = 'v5e:4x4,v6e:4x4,v5p:2x2x2,2*v5e:4x4'


def presets() -> list[str]:
  """'mae:imagenet' and all others whose name begins with imagenet."""
  names = []
  for path in sorted((ROOT / 'configs').glob('*.py')):
    spec = importlib.util.spec_from_file_location(f'config_{path.stem}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names += [f'{path.stem}:{preset}' for preset in getattr(module, 'PRESETS', ()) if preset.startswith('imagenet')]
  return names


def measure(preset, topology, file, options, timeout):
  """Writes the plans of a preset for a topology, or the reason why there are none."""
  name, preset = preset.split(':')
  command = [sys.executable, '-m', 'sslax.plan', f'--config=configs/{name}.py:{preset}', f'--topology={topology}', *options]
  started = time.time()
  try:
    done = subprocess.run(
      [*command, f'--json={file}.part'], cwd=ROOT, env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, timeout=timeout,
      capture_output=True, text=True,
    )  # fmt: skip
    said = done.stderr.strip().splitlines() or ['']
    reason = '' if done.returncode == 0 else f'exit {done.returncode}: {said[-1]}'
  except subprocess.TimeoutExpired:
    reason = f'no end after {timeout} s'
  part = pathlib.Path(f'{file}.part')
  plans = json.loads(part.read_text()) if part.exists() and not reason else []
  part.unlink(missing_ok=True)
  file.write_text(json.dumps({'plans': plans, 'reason': reason, 'seconds': time.time() - started}))


def rows(folder, names, topologies):
  for name in names:
    for topology in topologies:
      file = folder / f'{name}@{topology}.json'.replace('*', 'x')
      if file.exists():
        found = json.loads(file.read_text())
        for plan in found['plans']:
          yield f'| {name} {report.row(Plan(**plan))}'
        if found['reason']:
          yield f'| {name} | {topology} | {found["reason"]} |' + ' |' * (len(report.COLUMNS) - 2)


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', type=pathlib.Path, required=True, help='a file for each preset and topology')
  parser.add_argument('--presets', default='', help='clip:imagenet,mae:imagenet; all that begin with imagenet')
  parser.add_argument('--topologies', default=TOPOLOGIES)
  parser.add_argument('--timeout', type=float, default=3600, help='seconds for one')
  parser.add_argument('--table', action='store_true', help='print what there is, compile nothing')
  arguments, options = parser.parse_known_args()
  names, topologies = arguments.presets.split(',') if arguments.presets else presets(), arguments.topologies.split(',')
  arguments.out.mkdir(parents=True, exist_ok=True)
  todo = [(name, topology) for name in names for topology in topologies] if not arguments.table else []
  for name, topology in (bar := tqdm(todo)):
    bar.set_postfix_str(f'{name} {topology}')
    file = arguments.out.absolute() / f'{name}@{topology}.json'.replace('*', 'x')
    if not file.exists():
      measure(name, topology, file, options, arguments.timeout)
  print(f'| preset {report.HEADER.splitlines()[0]}\n|---{report.HEADER.splitlines()[1]}')
  for line in rows(arguments.out, names, topologies):
    print(line)


if __name__ == '__main__':
  main()
