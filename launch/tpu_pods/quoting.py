"""Words as a shell must be given them to get them back: what bash's `printf %q` prints, byte for byte.

Not shlex.quote: its quotes hide quotes (''"'"'' for one), while lines here are nested (a command for a host within a command for
gcloud) and are read by people. The tests compare with bash itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_SPECIAL = re.compile(r'[ !"$&\'()*,;<>?\[\\\]^`{|}]|^#|(?:^|(?<=[:=]))~')
# Control characters, and bytes that are no UTF-8 (Python has them as lone surrogates): only $'...' can say them.
_UNPRINTABLE = re.compile('[\0-\x1f\x7f-\x9f\udc80-\udcff]')
_NAMED = {'\a': 'a', '\b': 'b', '\x1b': 'E', '\f': 'f', '\n': 'n', '\r': 'r', '\t': 't', '\v': 'v', '\\': '\\', "'": "'"}


def quote(word: str) -> str:
  if not word:
    return "''"
  if _UNPRINTABLE.search(word):
    return f"$'{''.join(_escaped(letter) for letter in word)}'"
  return _SPECIAL.sub(lambda match: '\\' + match[0], word)


def _escaped(letter: str) -> str:
  if letter in _NAMED:
    return '\\' + _NAMED[letter]
  if _UNPRINTABLE.match(letter):
    return ''.join(f'\\{byte:03o}' for byte in letter.encode('utf-8', 'surrogateescape'))
  return letter


def line(words: Iterable[str]) -> str:
  """The line that a shell would need to run these words."""
  return ' '.join(quote(word) for word in words)
