"""The commands that documents and the docstrings of presets show."""

import ast
import pathlib
import re
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted(ROOT.glob('docs/*.md'))]
PRESETS = sorted(ROOT.glob('configs/*.py'))
BEGINNING = r'(\.venv/bin/)?(python|papermill|sslax) |launch/|bash |sbatch |sky '  # of a command among prose


class Command(NamedTuple):
  line: int
  text: str
  prose: bool  # between backquotes in a sentence, where a name may stand alone


def commands(path):
  """All commands of a document, or of the docstrings of a file of presets."""
  text = path.read_text(encoding='utf-8')
  if path.suffix == '.py':
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Module | ast.FunctionDef)]
    shown = [(node.body[0].lineno, (ast.get_docstring(node, clean=False) or '').splitlines()) for node in nodes]
    found = [
      Command(first + n - 1, line, False) for first, lines in shown for n, line in joined(lines) if re.match(BEGINNING, line)
    ]
    return sorted(found)
  language, fenced, found = None, [], []
  for n, line in enumerate(text.splitlines(), 1):
    if line.startswith('```'):
      language, line = (None if language is not None else line[3:]), ''
    fenced.append(line if language == 'bash' else '')
    codes = re.findall(r'`([^`]+)`', line) if language is None else []
    found += [Command(n, code, True) for code in codes if re.match(rf'{BEGINNING}|--config\.', code)]
  return sorted([*found, *(Command(n, line, False) for n, line in joined(fenced))])


def joined(lines):
  """(number of its first line, text) of each command; a backslash continues a line."""
  text, first = '', 0
  for n, line in enumerate(lines, 1):
    first = first if text else n
    text += line.strip()
    if text.endswith('\\'):
      text = text[:-1]
    else:
      if text and not text.startswith('#'):
        yield first, text
      text = ''
