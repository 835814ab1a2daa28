"""The page is whole, self-contained, escaped and written at once."""

import base64
import html.parser
import json
import os
import re

import numpy as np
import pytest

from sslax.errors import UserError
from sslax.evals import visualisations
from sslax.evals.probe import Figure
from sslax.evaluation import page
from sslax.evaluation.page import Table

CANARY = '<script>alert("canary")</script>'
PNG = visualisations.png(visualisations.sheet([[np.zeros((4, 4, 3), np.uint8)]]))


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
  curve = visualisations.curves({canary: ([0, 1, 2], [3, 2, 1]), 'b': ([0, 2], [1, 2])}, title=canary)
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
  seen = Page(page.html(**full()))
  assert not seen.all('script') and not seen.crossed and not seen.open
  for tag, attributes in seen.tags:
    assert not any(name.startswith('on') for name in attributes), tag
  for tag in ('h1', 'title', 'dt', 'dd', 'caption', 'th', 'p', 'li', 'h3', 'figcaption', 'text', 'code'):
    assert any('canary' in text for text in seen.text[tag]), tag
  assert json.loads(seen.text['code'][0]) == json.loads(full()['config_json'])
  assert seen.all('img')[0]['alt'] == f'alt "{CANARY}' == seen.all('svg')[0]['aria-label']
  assert seen.all('svg')[1]['aria-label'] == 'again'  # the title stands in


def test_page_is_self_contained():
  text = page.html(**full(''))
  assert 'http://' not in text and 'https://' not in text
  assert not re.search(r'url\((?!#)|@import|<link|<iframe', text)
  seen = Page(text)
  for tag, attributes in seen.tags:
    for name in ('src', 'href', 'xlink:href', 'data'):
      assert attributes.get(name, '#').startswith(('#', 'data:image/png;base64,')), (tag, name)
  assert base64.b64decode(seen.all('img')[0]['src'].split(',')[1]) == PNG
  assert (seen.all('img')[0]['width'], seen.all('img')[0]['height']) == ('124', '124')
  policy = next(m['content'] for m in seen.all('meta') if m.get('http-equiv') == 'Content-Security-Policy')
  assert "default-src 'none'" in policy and 'script' not in policy
  assert any('width=device-width' in m.get('content', '') for m in seen.all('meta')) and 'prefers-color-scheme:dark' in text


def test_figures_do_not_share_ids():
  seen = Page(page.html(**full('')))
  ids = [a['id'] for _, a in seen.tags if 'id' in a]
  assert len(ids) > 20 and len(ids) == len(set(ids))
  used = [m for _, a in seen.tags for v in a.values() for m in re.findall(r'url\(#([^)]*)\)', v or '')]
  used += [a[name][1:] for _, a in seen.tags for name in ('href', 'xlink:href') if name in a]
  assert len(used) > 10 and set(used) <= set(ids)


def test_hostile_svg_is_disarmed():
  svg = """<?xml version="1.0"?>
    <svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 9 9" onload="x()">
    <script>alert(1)</script><metadata>http://evil</metadata><foreignObject><p>http://evil</p></foreignObject>
    <style>@import "http://evil/a.css"; rect{fill:url(http://evil/b)}</style>
    <image xlink:href="http://evil/c.png"/><rect style="fill: url( 'http://evil/d')" onclick="x()"/><use href="#r"/>
    <a href="javascript:x()"><rect id="r" fill="red"/></a></svg>"""
  text = page.html(title='', summary={}, figures=[Figure('t', svg, 'svg')])
  assert not re.search(r'evil|alert|javascript|onload|onclick|http:', text)
  seen = Page(text)
  assert {'id': 'f0-r', 'fill': 'red'} in seen.all('rect') and seen.all('use') == [{'href': '#f0-r'}]


@pytest.mark.parametrize(
  'figure',
  [
    Figure('bad', b'GIF', 'png'),
    Figure('bad', 'text', 'png'),
    Figure('bad', PNG[:12], 'png'),
    Figure('bad', '<svg', 'svg'),
    Figure('bad', '<script>alert(1)</script>', 'svg'),
    Figure('bad', PNG, 'svg'),
    Figure('bad', PNG, 'pdf'),
  ],
)
def test_figures_that_are_not_their_kind_are_refused(figure):
  with pytest.raises(UserError, match="Figure 'bad'"):
    page.html(title='', summary={}, figures=[figure])


def test_empty_sections_are_left_out():
  text = page.html(title='t', summary={})
  assert not re.search(r'<(h2|dl|ul|table|figure|details)', text) and '<h1>t</h1>' in text


def test_write_is_atomic(tmp_path, monkeypatch):
  path = tmp_path / 'deep' / 'report.html'
  page.write(path, title='first', summary={})
  assert path.read_text() == page.html(title='first', summary={})
  assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()  # readable by those who may read other files
  moved = []
  replace = os.replace

  def spy(source, target):
    assert 'second' in open(source).read() and 'first' in path.read_text()  # whole beside the old one
    assert os.path.dirname(source) == os.path.dirname(target)
    moved.append(target)
    replace(source, target)

  monkeypatch.setattr(os, 'replace', spy)
  page.write(path, title='second', summary={})
  assert moved and 'second' in path.read_text()

  def full_disk(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full_disk)
  with pytest.raises(UserError, match='report.html: No space left'):
    page.write(path, title='third', summary={})
  assert 'second' in path.read_text() and os.listdir(path.parent) == ['report.html']


def _umask():
  mask = os.umask(0)
  os.umask(mask)
  return mask


def test_write_takes_any_text(tmp_path):
  page.write(tmp_path / 'r.html', title='caf\udce9 \u4e2d', summary={})  # a file name with a byte that is no UTF-8
  assert '<h1>caf\ufffd \u4e2d</h1>' in (tmp_path / 'r.html').read_text('utf-8')
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='Cannot write'):
    page.write(tmp_path / 'file' / 'r.html', title='t', summary={})


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
  assert page.best_cells(table) == {(1, 1), (1, 2), (1, 4), (0, 6), (1, 6)}
  seen = Page(page.html(title='t', summary={}, tables=[table]))
  assert seen.text['strong'] == ['0.987', '0.750', '0.500', '94 ± 1.5', '0.987']  # row by row
  named = table._replace(best=('', 'min', 'max', 'min', '', '', '', 'max'))
  assert page.best_cells(named) == {(2, 1), (2, 2), (0, 3)}
  for best in (('max',), ('high',) * 8):
    with pytest.raises(UserError, match="Table 't': best"):
      page.best_cells(table._replace(best=best))


def test_what_is_no_text_is_replaced_everywhere():
  bad, shown = 'x\udce9\x00\x1b', 'x\ufffd\ufffd\ufffd'
  curve = '<svg xmlns="http://www.w3.org/2000/svg"><text id="x\udce9">x\udce9\x00\x1b</text></svg>'
  text = page.html(
    title=bad,
    summary={f'k{bad}': f'v{bad}'},
    tables=[Table(f'table {bad}', ('who', f'acc {bad}'), [(f'row {bad}', 0.5)], f'caption {bad}')],
    figures=[
      Figure(f'curve {bad}', curve, 'svg', f'says {bad}', f'alt {bad}'),
      Figure(f'sheet {bad}', PNG, 'png', alt=f'a {bad}'),
    ],
    config_json=f'config {bad}',
    versions={f'jax {bad}': f'1 {bad}'},
    notes=[f'note {bad}'],
  )
  text.encode()
  assert not set(bad[1:]) & set(text) and text.count(shown) == 18
  seen = Page(text)
  assert seen.text['text'] == [shown] and seen.all('text')[0]['id'] == 'f0-x\ufffd'
  assert seen.all('svg')[0]['aria-label'] == f'alt {shown}' and seen.all('img')[0]['alt'] == f'a {shown}'
