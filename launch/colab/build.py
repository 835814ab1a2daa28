"""Makes launch/colab/sslax.ipynb from notebook.py, which people read and edit: python launch/colab/build.py

Cells begin with '# %%' (code) or '# %% [markdown]' (comment lines are the text); tags stand behind, tags=["parameters"]. Outputs
there are none.
"""

import json
import pathlib
import re

HERE = pathlib.Path(__file__).parent
MARK = re.compile(r'^# %%(?P<markdown> \[markdown\])?(?: tags=(?P<tags>\[.*\]))?$', re.MULTILINE)


def notebook(source: str) -> dict:
  """The notebook (nbformat 4.5) of a source in the percent format; what stands before its first cell is left out."""
  marks = list(MARK.finditer(source))
  ends = [mark.start() for mark in marks[1:]] + [len(source)]
  cells = []
  for number, (mark, end) in enumerate(zip(marks, ends, strict=True)):
    text = source[mark.end() : end].strip('\n')
    cell = {'id': f'cell-{number:02}', 'metadata': {'tags': json.loads(mark['tags'])} if mark['tags'] else {}}
    if mark['markdown']:
      text = re.sub(r'^# ?', '', text, flags=re.MULTILINE)
      cell |= {'cell_type': 'markdown'}
    else:
      cell |= {'cell_type': 'code', 'execution_count': None, 'outputs': []}
    cells.append(cell | {'source': text.splitlines(keepends=True)})
  metadata = {
    'accelerator': 'TPU',
    'colab': {'name': 'sslax.ipynb', 'provenance': []},
    'kernelspec': {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'},
    'language_info': {'name': 'python'},
  }
  return {'cells': cells, 'metadata': metadata, 'nbformat': 4, 'nbformat_minor': 5}


def text() -> str:
  """What sslax.ipynb must hold."""
  source = (HERE / 'notebook.py').read_text(encoding='utf-8')
  return json.dumps(notebook(source), indent=1, sort_keys=True, ensure_ascii=False) + '\n'


if __name__ == '__main__':
  (HERE / 'sslax.ipynb').write_text(text(), encoding='utf-8')
