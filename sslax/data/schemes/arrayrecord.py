"""arrayrecord: what `write_arrayrecord` writes, and ArrayRecord files of bare images."""

from sslax.data import files
from sslax.data.sources import Container
from sslax.io import extras

FORM = 'arrayrecord:PATTERN  (written by sslax.data.arrayrecord.write_arrayrecord)'
SUFFIX = '.array_record'


def open_container(rest: str, split: str) -> Container:
  extras.need('array_record', 'tfds')
  from sslax.data.arrayrecord import ArrayRecord

  return ArrayRecord(files.expand(rest, SUFFIX, split))
