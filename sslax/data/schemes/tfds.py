"""tfds: TensorFlow Datasets that are prepared as ArrayRecord, read without TensorFlow."""

from sslax.data.sources import Container

FORM = 'tfds:NAME[/CONFIG][:VERSION]  or  tfds:/FOLDER/OF/A/VERSION'
SUFFIX = ''


def open_container(rest: str, split: str) -> Container:
  from sslax.data.tfds import Tfds

  return Tfds(rest, split or 'train')
