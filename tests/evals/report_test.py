"""The report page is whole, self-contained, escaped and written at once; tables line up; torn lines are left out."""

import base64
import html.parser
import json
import os
import re

import numpy as np
import pytest

from sslax.errors import UserError
from sslax.evals import pictures, report
from sslax.evals.report import Figure, Table

CANARY = '<script>alert("canary")</script>'
PNG = pictures.png(pictures.sheet([[np.zeros((4, 4, 3), np.uint8)]]))


class Page(html.parser.HTMLParser):
  """Tags with attributes, and the text; notes tags that do not close in order."""

  VOID = {'meta', 'img', 'br', 'link', 'input'}

  def __init__(self, text):
    super().__init__()
    self.tags, self.open, self.text, self.crossed = [], [], {}, []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    if not self.open or self.open.pop() != tag:
      self.crossed.append(tag)

  def handle_data(self, data):
    if self.open:
      self.text.setdefault(self.open[-1], []).append(data)

  def all(self, tag):
    return [a for t, a in self.tags if t == tag]


def full(canary=CANARY):
  curve = pictures.curves({canary: ([0, 1, 2], [3, 2, 1]), 'b': ([0, 2], [1, 2])}, title=canary)
  return {
    'title': f'title {canary}',
    'summary': {f'key {canary}': f'value {canary}', 'steps': '100'},
    'tables': [Table(f'table {canary}', ('who', f'acc {canary}'), [(f'a {canary}', 0.5), ('b', 0.75)], f'caption {canary}')],
    'figures': [
      Figure(f'curve {canary}', curve, 'svg', f'caption {canary}', f'alt "{canary}'),
      Figure('again', curve, 'svg'),
      Figure(f'sheet {canary}', PNG, 'png', alt=f'alt "{canary}'),
    ],
    'config_json': json.dumps({'name': canary, 'end': '</code></pre></details>'}, indent=2),
    'versions': {f'jax {canary}': f'0.1 {canary}'},
    'notes': [f'note {canary}'],
  }


def test_all_text_is_escaped():
  page = Page(report.html(**full()))
  assert not page.all('script') and not page.crossed and not page.open
  for tag, attributes in page.tags:
    assert not any(name.startswith('on') for name in attributes), tag
  for tag in ('h1', 'title', 'dt', 'dd', 'caption', 'th', 'p', 'li', 'h3', 'figcaption', 'text', 'code'):
    assert any('canary' in text for text in page.text[tag]), tag
  assert json.loads(page.text['code'][0]) == json.loads(full()['config_json'])
  assert page.all('img')[0]['alt'] == f'alt "{CANARY}' == page.all('svg')[0]['aria-label']
  assert page.all('svg')[1]['aria-label'] == 'again'  # the title stands in


def test_page_is_self_contained():
  text = report.html(**full(''))
  assert 'http://' not in text and 'https://' not in text
  assert not re.search(r'url\((?!#)|@import|<link|<iframe', text)
  page = Page(text)
  for tag, attributes in page.tags:
    for name in ('src', 'href', 'xlink:href', 'data'):
      assert attributes.get(name, '#').startswith(('#', 'data:image/png;base64,')), (tag, name)
  assert base64.b64decode(page.all('img')[0]['src'].split(',')[1]) == PNG
  assert (page.all('img')[0]['width'], page.all('img')[0]['height']) == ('124', '124')
  policy = next(m['content'] for m in page.all('meta') if m.get('http-equiv') == 'Content-Security-Policy')
  assert "default-src 'none'" in policy and 'script' not in policy
  assert any('width=device-width' in m.get('content', '') for m in page.all('meta')) and 'prefers-color-scheme:dark' in text


def test_figures_do_not_share_ids():
  page = Page(report.html(**full('')))
  ids = [a['id'] for _, a in page.tags if 'id' in a]
  assert len(ids) > 20 and len(ids) == len(set(ids))
  used = [m for _, a in page.tags for v in a.values() for m in re.findall(r'url\(#([^)]*)\)', v or '')]
  used += [a[name][1:] for _, a in page.tags for name in ('href', 'xlink:href') if name in a]
  assert len(used) > 10 and set(used) <= set(ids)


def test_hostile_svg_is_disarmed():
  svg = """<?xml version="1.0"?>
    <svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 9 9" onload="x()">
    <script>alert(1)</script><metadata>http://evil</metadata><foreignObject><p>http://evil</p></foreignObject>
    <style>@import "http://evil/a.css"; rect{fill:url(http://evil/b)}</style>
    <image xlink:href="http://evil/c.png"/><rect style="fill: url( 'http://evil/d')" onclick="x()"/><use href="#r"/>
    <a href="javascript:x()"><rect id="r" fill="red"/></a></svg>"""
  text = report.html(title='', summary={}, figures=[Figure('t', svg, 'svg')])
  assert not re.search(r'evil|alert|javascript|onload|onclick|http:', text)
  page = Page(text)
  assert {'id': 'f0-r', 'fill': 'red'} in page.all('rect') and page.all('use') == [{'href': '#f0-r'}]


@pytest.mark.parametrize(
  'figure',
  [
    Figure('bad', b'GIF', 'png'),
    Figure('bad', 'text', 'png'),
    Figure('bad', '<svg', 'svg'),
    Figure('bad', PNG, 'svg'),
    Figure('bad', PNG, 'pdf'),
  ],
)
def test_figures_that_are_not_their_kind_are_refused(figure):
  with pytest.raises(UserError, match="Figure 'bad'"):
    report.html(title='', summary={}, figures=[figure])


def test_empty_sections_are_left_out():
  text = report.html(title='t', summary={})
  assert not re.search(r'<(h2|dl|ul|table|figure|details)', text) and '<h1>t</h1>' in text


def test_best_is_bold():
  table = Table(
    't',
    ('who', 'acc', 'val loss', 'k', 'text', 'same', 'near', 'one'),
    [
      ('a', float('nan'), 1.5, 5, '93.1 ± 0.2', 1.0, 0.98701, 0.5),
      ('b', np.float32(0.75), 0.5, 20, '94 ± 1.5', 1.0, 0.98699, None),
      ('c', 0.5, 2.5, 7, 'n/a', 1.0, 0.5, None),
    ],
  )
  assert report.best_cells(table) == {(1, 1), (1, 2), (1, 4), (0, 6), (1, 6)}
  page = Page(report.html(title='t', summary={}, tables=[table]))
  assert page.text['strong'] == ['0.987', '0.750', '0.500', '94 ± 1.5', '0.987']  # row by row
  named = table._replace(best=('', 'min', 'max', 'min', '', '', '', 'max'))
  assert report.best_cells(named) == {(2, 1), (2, 2), (0, 3)}
  for best in (('max',), ('high',) * 8):
    with pytest.raises(UserError, match="Table 't': best"):
      report.best_cells(table._replace(best=best))


def test_write_is_atomic(tmp_path, monkeypatch):
  path = tmp_path / 'deep' / 'report.html'
  report.write(path, title='first', summary={})
  assert path.read_text() == report.html(title='first', summary={})
  assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()  # readable by those who may read other files
  moved = []
  replace = os.replace

  def spy(source, target):
    assert 'second' in open(source).read() and 'first' in path.read_text()  # whole beside the old one
    assert os.path.dirname(source) == os.path.dirname(target)
    moved.append(target)
    replace(source, target)

  monkeypatch.setattr(os, 'replace', spy)
  report.write(path, title='second', summary={})
  assert moved and 'second' in path.read_text()

  def full_disk(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full_disk)
  with pytest.raises(UserError, match='report.html: No space left'):
    report.write(path, title='third', summary={})
  assert 'second' in path.read_text() and os.listdir(path.parent) == ['report.html']


def _umask():
  mask = os.umask(0)
  os.umask(mask)
  return mask


def test_write_takes_any_text(tmp_path):
  report.write(tmp_path / 'r.html', title='caf\udce9 \u4e2d', summary={})  # a file name with a byte that is no UTF-8
  assert '\u4e2d' in (tmp_path / 'r.html').read_text('utf-8')
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='Cannot write'):
    report.write(tmp_path / 'file' / 'r.html', title='t', summary={})


def test_text_table():
  table = Table(
    'Probes',
    ('probe', 'top-1', 'k'),
    [('5-NN', 0.5, 5), ('linear', np.float32(0.97349), None), ('raw', 1, 200)],
    'Higher is better.',
  )
  assert report.text_table(table) == (
    'Probes\n'
    '| probe  | top-1 |   k |\n'
    '|--------|-------|-----|\n'
    '| 5-NN   | 0.500 |   5 |\n'
    '| linear | 0.973 |   - |\n'
    '| raw    | 1.000 | 200 |\n'
    'Higher is better.'
  )


def test_text_table_is_ascii_and_aligned_whatever_the_cells():
  table = Table('été', ('a', 'b|c'), [('中文 \x1b[31m\n', '93.1 ± 0.2'), ('x|y', '5 ± 1'), ('', 'yes')])
  text = report.text_table(table)
  assert text.isascii() and '\x1b' not in text and '93.1 +- 0.2' in text and r'x\|y' in text
  title, *lines = text.splitlines()
  assert title == r'\xe9t\xe9' and len(lines) == 5 and len({len(line) for line in lines}) == 1
  assert report.text_table(Table('', ('a',), [])) == '| a   |\n|-----|'


@pytest.mark.parametrize(
  ('values', 'want'),
  [
    ([0.5, 0.12345], ['0.500', '0.123']),
    ([93.123, 5], ['93.12', '5.00']),
    ([1.0, 0.9312], ['1.000', '0.931']),
    ([12345.6, 99.0], ['12346', '99']),
    ([1e-5, 0.1], ['1e-05', '0.1']),
    ([0.05, 0.0123], ['0.0500', '0.0123']),
    ([3, 12_000], ['3', '12000']),
    ([float('nan'), 0.25], ['nan', '0.250']),
    ([0.0, None, True], ['0', '-', 'yes']),
  ],
)
def test_numbers_of_a_column_agree(values, want):
  assert [row[0] for row in report._cells(Table('', ('x',), [(v,) for v in values]))[1]] == want


def test_rows_of_other_lengths_are_refused():
  with pytest.raises(UserError, match="Table 't': row 1 has 1 cells for 2 columns"):
    report.text_table(Table('t', ('a', 'b'), [(1, 2), (1,)]))


def test_read_jsonl(tmp_path):
  path = tmp_path / 'm.jsonl'
  whole = '{"step": 1, "loss": NaN}\n\n{"step": 2, "name": "é"}\n'.encode()
  path.write_bytes(whole)
  assert [r['step'] for r in report.read_jsonl(path)] == [1, 2]
  third = '{"step": 3, "name": "é"}'.encode()
  for cut in range(len(third)):
    path.write_bytes(whole + third[:cut])
    assert len(report.read_jsonl(path)) == 2, third[:cut]
  path.write_bytes(whole + third)  # whole, without its newline
  assert report.read_jsonl(path)[-1] == {'step': 3, 'name': 'é'}
  path.write_bytes(whole + b'\0' * 64)  # what some file systems leave after a power cut
  assert len(report.read_jsonl(path)) == 2
  path.write_bytes(b'')
  assert report.read_jsonl(path) == []
  path.write_bytes(b'{"step": 1}\n{"st\n{"step": 3}\n')
  with pytest.raises(UserError, match='line 2'):
    report.read_jsonl(path)
  path.write_bytes(b'{"step": 1}\n7\n{"step": 3}\n')
  with pytest.raises(UserError, match='line 2'):
    report.read_jsonl(path)
  with pytest.raises(UserError, match='Cannot read'):
    report.read_jsonl(tmp_path / 'none.jsonl')
