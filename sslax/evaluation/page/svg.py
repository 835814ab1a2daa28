"""SVG of others made harmless: what may stand inside of a page."""

import html
import re
from xml.etree import ElementTree

from sslax.errors import UserError
from sslax.evals.visualisations import printable


def inline(svg: str | bytes, *, title: str, alt: str, prefix: str) -> str:
  """SVG that may stand in a page with others: no prologue, no scripts, no links to the outside, and ids of its own.

  Args:
    svg: a whole file; characters that are no text become replacement characters.
    title: whose picture it is, for the error.
    alt: what a reader who cannot see it is told.
    prefix: goes before each id.

  Raises:
    UserError: it is not SVG.
  """
  try:
    root = ElementTree.fromstring(printable(svg) if isinstance(svg, str) else svg)
    if root.tag.rpartition('}')[2] != 'svg':
      raise TypeError(f'it begins with <{root.tag}>')
  except (ElementTree.ParseError, TypeError) as e:
    raise UserError(f"Figure '{title}' is not SVG ({e}): give SVG text, or kind='png' with PNG bytes.") from e
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
  return text.replace('<svg', f'<svg role="img" aria-label="{html.escape(printable(alt))}"', 1)
