"""One self-contained HTML page about a run: cards, notes, tables, figures, how to do it again."""

import base64
import html as html_
import os
import struct
from collections.abc import Mapping, Sequence

from sslax.errors import UserError
from sslax.evals.probe import Figure
from sslax.evals.visualisations import printable
from sslax.evaluation.page import svg
from sslax.evaluation.page.table import Table, best_cells, cells_of, text_of
from sslax.io import atomic

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
    cards = ''.join(f'<div><dt>{_escape(k)}</dt><dd>{_escape(text_of(v))}</dd></div>' for k, v in summary.items())
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
  try:
    with atomic.replacing(path, mode=0o666) as file:  # whoever may read other files here may read this one
      file.write(page.encode())
      file.flush()
      os.fsync(file.fileno())
  except OSError as e:
    raise UserError(f'Cannot write the report {path}: {e.strerror or e}. Give a path that you may write.') from e


# Pieces


def _escape(text):
  return html_.escape(printable(text), quote=True)


def _table(table):
  columns, rows, right = cells_of(table)
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
  alt = figure.alt or figure.title
  if figure.kind == 'png':
    data = figure.data
    if not isinstance(data, bytes) or data[:8] != b'\x89PNG\r\n\x1a\n' or len(data) < 24:
      raise UserError(f"Figure '{figure.title}' is not a PNG: give PNG bytes, or kind='svg' with SVG text.")
    width, height = struct.unpack('>II', data[16:24])  # given, the page does not jump while it loads
    text = base64.b64encode(data).decode()
    picture = f'<img alt="{_escape(alt)}" width="{width}" height="{height}" src="data:image/png;base64,{text}">'
  elif figure.kind == 'svg':
    picture = svg.inline(figure.data, title=figure.title, alt=alt, prefix=prefix)
  else:
    raise UserError(f"Figure '{figure.title}': kind is '{figure.kind}': it must be 'png' or 'svg'.")
  caption = f'<figcaption>{_escape(figure.caption)}</figcaption>' if figure.caption else ''
  return f'<figure><h3>{_escape(figure.title)}</h3><div class="paper">{picture}</div>{caption}</figure>'
