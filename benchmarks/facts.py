"""Facts about the source, counted: python -m benchmarks.facts

The largest files, who may import whom, every getattr and hasattr, and where files that are for any modality say "image".
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
ANY_MODALITY = ('sslax/run/', 'sslax/evaluation/', 'sslax/data/pipeline.py')


def tracked(*patterns: str) -> list[str]:
  """Paths of the files that git tracks and that match."""
  done = subprocess.run(['git', 'ls-files', *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
  return done.stdout.split('\n')[:-1]


def lines(path: str) -> list[str]:
  return (ROOT / path).read_text(encoding='utf-8').splitlines()


def largest(n: int = 20) -> list[tuple[int, str]]:
  """The n longest files of code."""
  sizes = [(len(lines(path)), path) for path in tracked('*.py', '*.sh', 'launch/tpu', 'tests/*', '.ci/run') if text(path)]
  return sorted(sizes, reverse=True)[:n]


def text(path: str) -> bool:
  return pathlib.Path(path).suffix in ('.py', '.sh', '') and (ROOT / path).is_file()


def found(pattern: str, *places: str) -> list[str]:
  """'path:line: text' of every line of these places that matches."""
  return [
    f'{path}:{number}: {line.strip()}'
    for path in tracked('*.py')
    if path.startswith(places)
    for number, line in enumerate(lines(path), 1)
    if re.search(pattern, line, re.IGNORECASE)
  ]


def main() -> None:
  sys.path.insert(0, str(ROOT / 'tests'))
  import imports_test

  print('| lines | file |\n|---|---|')
  print('\n'.join(f'| {n} | {path} |' for n, path in largest()))
  print('\n| room | files | lines | may import |\n|---|---|---|---|')
  for room, below in imports_test.FLOORS.items():
    files = [path for path in tracked('sslax/*.py') if imports_test.room(ROOT / path) == room]
    print(f'| {room} | {len(files)} | {sum(len(lines(path)) for path in files)} | {", ".join(sorted(below))} |')
  for title, rows in (
    ('getattr and hasattr in sslax', found(r'\b(getattr|hasattr)\(', 'sslax/')),
    (f'"image" in {", ".join(ANY_MODALITY)}', found('image', *ANY_MODALITY)),
  ):
    print(f'\n{title}: {len(rows)}\n' + '\n'.join(f'  {row}' for row in rows))


if __name__ == '__main__':
  main()
