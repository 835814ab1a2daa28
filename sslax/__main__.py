"""sslax COMMAND ...: the commands, each also `python -m sslax.COMMAND`; `sslax COMMAND --help` says more."""

import ast
import difflib
import os
import pathlib
import runpy
import sys

from sslax import __version__

FOLDER = pathlib.Path(__file__).parent


def commands() -> dict[str, str]:
  """{name: the first sentence of its documentation}: every module of the package that defines `main`, read and not imported."""
  found = {}
  for path in sorted(FOLDER.glob('*.py')):
    tree = ast.parse(path.read_text(encoding='utf-8'))
    if path.stem != '__main__' and any(isinstance(node, ast.FunctionDef) and node.name == 'main' for node in tree.body):
      found[path.stem] = (ast.get_docstring(tree) or '').split(': python -m')[0].splitlines()[0]
  return found


def main() -> None:
  """Runs a command, or says which there are."""
  words = sys.argv[1:]
  known = commands()
  if not words or words[0] in ('-h', '--help', 'help'):
    width = max(map(len, known))
    print(f'sslax {__version__}: self-supervised learning in JAX.\n')
    print('usage: sslax COMMAND [--flags], or python -m sslax.COMMAND\n')
    print('\n'.join(f'  {name:<{width}}  {text}' for name, text in known.items()))
    print('\nsslax COMMAND --help shows its flags. A first run: sslax train --config=simclr:digits --workdir=runs/digits')
    return
  if words[0] == '--version':
    print(f'sslax {__version__}')
    return
  if words[0] not in known:
    near = difflib.get_close_matches(words[0], known, n=1)
    hint = f' Did you mean {near[0]}?' if near else f' Known: {", ".join(known)}.'
    print(f'error: no command {words[0]!r}.{hint}', file=sys.stderr)
    sys.exit(2)
  sys.argv = [os.path.join(os.path.dirname(sys.argv[0]), f'sslax {words[0]}'), *words[1:]]
  runpy.run_module(f'sslax.{words[0]}', run_name='__main__')


if __name__ == '__main__':
  main()
