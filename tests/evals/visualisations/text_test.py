"""What becomes of characters that cannot be drawn."""

import os
from xml.etree import ElementTree

import pytest

from sslax.evals.visualisations.text import class_name, font, one_line, printable, shorten


def test_printable():
  assert printable(os.fsdecode(b'caf\xe9')) == 'caf\ufffd'
  assert printable('tab\t, lines\r\n, é, 中, 😀, $x_1$ <b>&') == 'tab\t, lines\r\n, é, 中, 😀, $x_1$ <b>&'
  assert printable(3) == '3' and printable('\ud83d') == printable('\x07') == printable('\uffff') == '\ufffd'


def test_all_that_is_printable_is_xml_and_utf8():
  every = printable(''.join(map(chr, [*range(0x3000), *range(0xD000, 0xE100), *range(0xFF00, 0x10100), 0x10FFFF])))
  element = ElementTree.Element('a')
  element.text = every
  again = ElementTree.fromstring(ElementTree.tostring(element, encoding='utf-8')).text
  assert again == every.replace('\r', '\n')  # XML ends lines so


def test_names_are_one_line():
  assert one_line(' a\n\tb\x00 ') == 'a b\ufffd'
  assert class_name(('a\nb', 'caf\udce9'), 1) == 'caf\ufffd' and class_name(('a\nb',), 0) == 'a b'
  assert class_name(('a',), 1) == '1' and class_name(('a',), -1) == '-1' and class_name(None, 0) == '0'


@pytest.mark.parametrize('text', ['a long name ' * 9, 'caf\udce9 ' * 30, 'two\nlines ' * 20])
def test_shorten(text):
  face = font(13)
  short = shorten(text, face, 100)
  assert face.getlength(short) <= 100 and short.endswith('…') and one_line(text).startswith(short[:-1])
  assert shorten('a name', face, 100) == 'a name'
