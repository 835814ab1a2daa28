"""parquet: the Hugging Face layout."""

from sslax.data import files, record
from sslax.data.sources import Container

FORM = 'parquet:PATTERN[?text=COLUMN&fields=COLUMN,COLUMN]  (the Hugging Face layout)'
SUFFIX = '.parquet'


def open_container(rest: str, split: str, *, text: str = '', fields: str = '') -> Container:
  from sslax.data.parquet import Parquet

  return Parquet(files.expand(rest, SUFFIX, split), text, record.fields(fields) if fields else ())
