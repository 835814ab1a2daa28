"""One self-contained HTML page about a run, tables for the terminal, and a reader of .jsonl files."""

import base64
import html as html_
import json
import math
import os
import pathlib
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

from sslax.errors import UserError


class Table(NamedTuple):
  """Results. Cells are strings, numbers or None (shown as '-')."""

  title: str
  columns: Sequence[str]
  rows: Sequence[Sequence[Any]]
  caption: str = ''
  best: Sequence[str] | None = None  # 'max', 'min' or '' a column: which value is bold. None: see `best_cells`


class Figure(NamedTuple):
  """A picture: PNG bytes, or SVG text."""

  title: str
  data: bytes | str
  kind: str  # 'png' or 'svg'
  caption: str = ''
  alt: str = ''  # what a reader who cannot see it should know; default: the title


_LOWER = ('loss', 'error', 'perplexity', 'seconds')  # columns with these words are better when lower
_FIRST_NUMBER = re.compile(r'\s*([-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(?:%|$|±|\+-|\+/-)')

_CSS = """
:root{color-scheme:light dark;--ink:#1f2328;--faint:#59636e;--line:#d8dee4;--soft:#f6f8fa;--page:#fff;
--blue:#0757a8;--best:#e6f4ea}
@media(prefers-color-scheme:dark){
:root{--ink:#e6edf3;--faint:#9aa4af;--line:#30363d;--soft:#161b22;--page:#0d1117;--blue:#6cb6ff;--best:#12361f}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);-webkit-text-size-adjust:100%;
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:62rem;margin:0 auto;padding:2.2rem 1.1rem 4rem}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 1.2rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.6rem 0 .8rem;padding-bottom:.3rem;border-bottom:1px solid var(--line)}
dl.summary{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.7rem;margin:0}
dl.summary div{background:var(--soft);border:1px solid var(--line);border-radius:.5rem;padding:.6rem .8rem;min-width:0}
dt{color:var(--faint);font-size:.8rem}
dl.summary dd{margin:.1rem 0 0;font-size:1.1rem;font-weight:600;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto;margin:1.2rem 0}
table{border-collapse:collapse;min-width:min(100%,26rem);font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding-bottom:.4rem}
th,td{padding:.4rem .9rem;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
thead th{color:var(--faint);font-size:.85rem;font-weight:600;border-bottom-width:2px;vertical-align:bottom}
tbody th{font-weight:400}
.n{text-align:right}
tbody .n{white-space:nowrap}
td.best{background:var(--best)}
figure{margin:1.6rem 0 2.2rem}
figure h3{font-size:1rem;margin:0 0 .6rem}
.paper{background:#fff;border:1px solid var(--line);border-radius:.5rem;padding:.6rem;overflow-x:auto}
.paper img,.paper svg{display:block;max-width:100%;height:auto;margin:0 auto}
.paper svg{width:46rem;min-width:25rem}
figcaption,p.caption{color:var(--faint);font-size:.9rem;margin:.5rem 0 0;max-width:48rem}
p.caption{margin-top:-.7rem}
ul.notes{padding:.7rem 1rem .7rem 2rem;margin:0;border-left:4px solid var(--blue);background:var(--soft);
border-radius:0 .5rem .5rem 0}
details{border:1px solid var(--line);border-radius:.5rem;margin:.7rem 0}
summary{cursor:pointer;padding:.55rem .8rem;font-weight:600}
pre{margin:0;padding:.8rem;overflow-x:auto;background:var(--soft);border-top:1px solid var(--line);
font:.8rem/1.5 ui-monospace,monospace}
dl.versions{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.2rem;margin:0;padding:.2rem .8rem .8rem}
dl.versions dd{margin:0;font-size:.9rem;overflow-wrap:anywhere}
@media print{.paper,tr{break-inside:avoid}main{max-width:none;padding:0}}
"""


def html(
  *,
  title: str,
  summary: Mapping[str, str],
  tables: Sequence[Table] = (),
  figures: Sequence[Figure] = (),
  config_json: str = '',
  versions: Mapping[str, str] | None = None,
  notes: Sequence[str] = (),
) -> str:
  """The page as text. It loads nothing (a content security policy forbids it) and runs no script; all text is escaped.

  Args:
    title: heading.
    summary: the few facts to know first, in cards.
    tables: results; see `best_cells` for what is bold.
    figures: pictures with captions.
    config_json: the resolved config, folded away.
    versions: package -> version, folded away.
    notes: what a reader must know to read the numbers rightly.

  Raises:
    UserError: a figure that is not what its kind says.
  """
  parts = [f'<h1>{_escape(title)}</h1>']
  if summary:
    cards = ''.join(f'<div><dt>{_escape(k)}</dt><dd>{_escape(_text(v))}</dd></div>' for k, v in summary.items())
    parts.append(f'<dl class="summary">{cards}</dl>')
  if notes:
    parts.append('<h2>Notes</h2><ul class="notes">' + ''.join(f'<li>{_escape(note)}</li>' for note in notes) + '</ul>')
  if tables:
    parts += ['<h2>Results</h2>', *map(_table, tables)]
  if figures:
    parts += ['<h2>Figures</h2>', *(_figure(figure, f'f{i}-') for i, figure in enumerate(figures))]
  if config_json or versions:
    parts.append('<h2>How to do it again</h2>')
  if config_json:
    parts.append(f'<details><summary>Config</summary><pre><code>{_escape(config_json)}</code></pre></details>')
  if versions:
    items = ''.join(f'<dt>{_escape(k)}</dt><dd>{_escape(str(v))}</dd>' for k, v in versions.items())
    parts.append(f'<details><summary>Versions</summary><dl class="versions">{items}</dl></details>')
  policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f'<title>{_escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n'
    + '\n'.join(parts)
    + '\n</main>\n</body>\n</html>\n'
  )


def write(
  path: str | os.PathLike,
  *,
  title: str,
  summary: Mapping[str, str],
  tables: Sequence[Table] = (),
  figures: Sequence[Figure] = (),
  config_json: str = '',
  versions: Mapping[str, str] | None = None,
  notes: Sequence[str] = (),
) -> None:
  """Writes the page of `html` to a local path. A reader sees the old page or the new one, never half of one.

  Raises:
    UserError: the path cannot be written, or a figure is not what its kind says.
  """
  page = html(
    title=title, summary=summary, tables=tables, figures=figures, config_json=config_json, versions=versions, notes=notes
  )
  path = pathlib.Path(path)
  part = path.with_name(f'.{path.name}.{os.getpid()}.part')  # beside the target: os.replace is atomic within a file system only
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      with open(part, 'wb') as file:
        file.write(page.encode('utf-8', 'backslashreplace'))  # names of files may hold bytes that are no text
        file.flush()
        os.fsync(file.fileno())
      os.replace(part, path)
    finally:
      part.unlink(missing_ok=True)
  except OSError as e:
    raise UserError(f'Cannot write the report {path}: {e.strerror or e}. Give a path that you may write.') from e


def text_table(table: Table) -> str:
  """A table for the terminal, which is also Markdown. Only ASCII, so that no locale refuses it; numbers are right-aligned.

  Other characters, and those that would move the cursor, appear as escapes (`\\xe9`); plus-minus appears as `+-`.
  """
  columns, rows, right = _cells(table)
  lines = [[_ascii(cell).replace('|', '\\|') for cell in row] for row in [columns, *rows]]
  widths = [max(3, *(len(line[j]) for line in lines)) for j in range(len(columns))]
  aligned = [
    '| ' + ' | '.join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)) + ' |'
    for line in lines
  ]
  aligned.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
  return '\n'.join([*filter(None, [_ascii(table.title)]), *aligned, *filter(None, [_ascii(table.caption)])])


def best_cells(table: Table) -> set[tuple[int, int]]:
  """(row, column) of each best value: those that are bold.

  `table.best` says for each column whether the highest ('max'), the lowest ('min') or no ('') value is best. Without it, columns
  whose numbers have decimals count as scores, the highest being best, or the lowest where the name of the column has 'loss',
  'error', 'perplexity' or 'seconds' in it; whole numbers (steps, k, sizes) are no scores. Values that look the same as printed
  are equally good, and a column of one number or of equal ones has no best.

  Raises:
    UserError: `best` has another word, or not one for each column.
  """
  columns, cells, _ = _cells(table)
  if table.best is not None and (len(table.best) != len(columns) or not {*table.best} <= {'max', 'min', ''}):
    raise UserError(f"Table '{table.title}': best={table.best} must give 'max', 'min' or '' for each of {len(columns)} columns.")
  best = set()
  for j, name in enumerate(columns):
    values = {i: v for i, row in enumerate(cells) if (v := _value(row[j])) is not None and math.isfinite(v)}
    if table.best is not None:
      order = table.best[j]
    elif j and any('.' in str(_plain(table.rows[i][j])) or isinstance(_plain(table.rows[i][j]), float) for i in values):
      order = 'min' if any(word in name.lower() for word in _LOWER) else 'max'
    else:
      order = ''
    if order and len(set(values.values())) > 1:
      top = (max if order == 'max' else min)(values.values())
      best |= {(i, j) for i, v in values.items() if v == top}
  return best


def read_jsonl(path: str | os.PathLike) -> list[dict]:
  """The records of a .jsonl file. A last line that is torn (its writer was killed, or is writing) is left out.

  Raises:
    UserError: no such file, or a line before the last one that is not a JSON object.
  """
  try:
    lines = pathlib.Path(path).read_bytes().split(b'\n')  # bytes: a torn line may end within a character
  except OSError as e:
    raise UserError(f'Cannot read {path}: {e.strerror}. Has the run written it yet?') from e
  lines = [(n, line) for n, line in enumerate(lines, 1) if line.strip()]
  records = []
  for n, line in lines:
    try:
      record = json.loads(line)
      if not isinstance(record, dict):
        raise ValueError('not an object')
    except ValueError as e:
      if n == lines[-1][0]:
        break
      raise UserError(f'{path}, line {n}: not a JSON object ({e}). Repair or delete that line.') from e
    records.append(record)
  return records


# Pieces


def _escape(text):
  return html_.escape(str(text), quote=True)


def _plain(value):
  """The Python number in a NumPy or JAX scalar; other values as they are."""
  return value.item() if hasattr(value, 'item') and getattr(value, 'ndim', None) == 0 else value


def _text(value, decimals=None):
  value = _plain(value)
  if value is None:
    return '-'
  if isinstance(value, bool):
    return 'yes' if value else 'no'
  if isinstance(value, float) and (decimals is None or not math.isfinite(value)):
    return f'{value:.4g}'
  if isinstance(value, (int, float)) and decimals is not None:
    return f'{value:.{decimals}f}'
  return str(value)


def _decimals(values):
  """Decimals for one column with floats: three or four figures in its largest value. None where magnitudes differ too much."""
  values = [v for v in map(_plain, values) if isinstance(v, (int, float)) and not isinstance(v, bool)]
  sizes = [abs(v) for v in values if math.isfinite(v) and v]
  if (
    not sizes
    or all(isinstance(v, int) for v in values)
    or max(sizes) >= 1e6
    or min(sizes) < max(sizes) * 1e-3
    or max(sizes) < 1e-4
  ):
    return None
  power = math.floor(math.log10(max(sizes)))
  return max(0, 3 - power) if power >= 0 else 2 - power


def _cells(table):
  """(columns, rows of text, whether each column is of numbers)."""
  columns = [str(c) for c in table.columns]
  for i, row in enumerate(table.rows):
    if len(row) != len(columns):
      raise UserError(f"Table '{table.title}': row {i} has {len(row)} cells for {len(columns)} columns.")
  decimals = [_decimals([row[j] for row in table.rows]) for j in range(len(columns))]
  rows = [[_text(cell, d) for cell, d in zip(row, decimals, strict=True)] for row in table.rows]
  filled = [[row[j] for row in rows if row[j] not in ('', '-')] for j in range(len(columns))]
  return columns, rows, [bool(cells) and all(_value(cell) is not None for cell in cells) for cells in filled]


def _value(cell):
  """The number that a cell holds, such as '93.1', '93.1 %' or '93.1 ± 0.2'; None if it holds none."""
  if cell in ('nan', 'inf', '-inf'):
    return float(cell)
  match = _FIRST_NUMBER.match(cell)
  return float(match[1].replace(',', '')) if match else None


def _ascii(text):
  text = str(text).replace('±', '+-')
  return ''.join(c if ' ' <= c <= '~' else c.encode('unicode_escape').decode() for c in text)


def _table(table):
  columns, rows, right = _cells(table)
  best = best_cells(table)
  n = [' class="n"' if r else '' for r in right]
  head = ''.join(f'<th scope="col"{n[j]}>{_escape(c)}</th>' for j, c in enumerate(columns))
  body = []
  for i, row in enumerate(rows):
    cells = []
    for j, cell in enumerate(row):
      if (i, j) in best:
        cells.append(f'<td class="{"n " if right[j] else ""}best"><strong>{_escape(cell)}</strong></td>')
      else:
        cells.append(f'<td{n[j]}>{_escape(cell)}</td>' if j else f'<th scope="row"{n[j]}>{_escape(cell)}</th>')
    body.append(f'<tr>{"".join(cells)}</tr>')
  return (
    f'<div class="scroll" tabindex="0"><table>\n<caption>{_escape(table.title)}</caption>\n'
    f'<thead><tr>{head}</tr></thead>\n<tbody>\n'
    + '\n'.join(body)
    + '\n</tbody></table></div>'
    + (f'\n<p class="caption">{_escape(table.caption)}</p>' if table.caption else '')
  )


def _figure(figure, prefix):
  alt = _escape(figure.alt or figure.title)
  if figure.kind == 'png':
    data = figure.data
    if not isinstance(data, bytes) or data[:8] != b'\x89PNG\r\n\x1a\n':
      raise UserError(f"Figure '{figure.title}' is not a PNG: give PNG bytes, or kind='svg' with SVG text.")
    width, height = struct.unpack('>II', data[16:24])  # given, the page does not jump while it loads
    text = base64.b64encode(data).decode()
    picture = f'<img alt="{alt}" width="{width}" height="{height}" src="data:image/png;base64,{text}">'
  elif figure.kind == 'svg':
    picture = _inline_svg(figure, alt, prefix)
  else:
    raise UserError(f"Figure '{figure.title}': kind is '{figure.kind}': it must be 'png' or 'svg'.")
  caption = f'<figcaption>{_escape(figure.caption)}</figcaption>' if figure.caption else ''
  return f'<figure><h3>{_escape(figure.title)}</h3><div class="paper">{picture}</div>{caption}</figure>'


def _inline_svg(figure, alt, prefix):
  """SVG that may stand in a page with others: no prologue, no scripts, no links to the outside, and ids of its own."""
  try:
    root = ElementTree.fromstring(figure.data)
  except (ElementTree.ParseError, TypeError) as e:
    raise UserError(f"Figure '{figure.title}' is not SVG ({e}): give SVG text, or kind='png' with PNG bytes.") from e
  for element in root.iter():
    element.tag = element.tag.rpartition('}')[2]  # a namespace is declared in XML; HTML knows <svg> by name
    for child in list(element):
      if child.tag.rpartition('}')[2].lower() in ('script', 'metadata', 'foreignobject'):
        element.remove(child)
    for key, value in list(element.attrib.items()):
      del element.attrib[key]
      name = key.rpartition('}')[2]
      outside = name == 'href' and not value.startswith(('#', 'data:image/png;'))
      if name.lower().startswith('on') or outside or re.search(r'url\(\s*["\']?[^#"\'\s]', value):
        continue
      if name == 'id':
        value = prefix + value
      elif name == 'href' and value[0] == '#':
        value = '#' + prefix + value[1:]
      element.attrib[name] = re.sub(r'url\(\s*["\']?#', f'url(#{prefix}', value)
  for style in root.iter('style'):
    style.text = re.sub(r'@import[^;]*;?|url\([^)]*\)', '', style.text or '')
  for name in ('width', 'height'):  # in points; the page says how wide, and the viewBox how high
    root.attrib.pop(name, None)
  text = ElementTree.tostring(root, encoding='unicode')
  return text.replace('<svg', f'<svg role="img" aria-label="{alt}"', 1)
