"""tar: shards in the WebDataset layout (KEY.jpg, KEY.cls, KEY.txt, KEY.json), at random through an index of the headers."""

import concurrent.futures
import itertools
import json
from typing import Any

import numpy as np

from sslax.data import files, record, tar_index
from sslax.errors import UserError, suggest

FORM = 'tar:PATTERN[?label=FIELD&fields=SUFFIX,SUFFIX]  (the WebDataset layout)'
SUFFIX = '.tar'


def open_container(rest: str, split: str, *, label: str = '', fields: str = '') -> 'Tar':
  return Tar(files.expand(rest, SUFFIX, split), label, record.fields(fields.lower()) if fields else ())


class Tar:
  """Records of tar shards, in their order: the members that share a key, which is the path up to the first dot of the file name.

  A record has at least one image, video or audio, as the suffixes say; of several images (KEY.jpg, KEY.png) the first, and so on.
  The label is the number in the member `cls`, or the number `label` or `cls` in `json`; words there are not guessed to be
  classes, but `?label=FIELD` takes the field of `json` with that name, its different values in sorted order being the classes
  (whole numbers count as labels themselves). The text is `captions` in `json`, else `txt`, else `caption` or `text` in `json`. No
  other member is ever read, except those that `?fields=npy,ply` asks for: they come as bytes, under their suffix.

  The first use of a shard reads its headers (30 us a member) and keeps what it found: see `tar_index.load`.
  """

  def __init__(self, paths: list[str], field: str = '', fields: tuple[str, ...] = ()):
    self._paths, self._fields = paths, fields
    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # a remote shard is slow to answer, even if its index is kept here
      shards = list(pool.map(tar_index.load, paths, itertools.repeat(field)))
    self._stops = np.cumsum([len(shard['key']) for shard in shards], dtype=np.int64)
    what = f'{paths[0]!r}{f" and {len(paths) - 1} more" if len(paths) > 1 else ""}'
    if not len(self):
      needs = ' or '.join(f'KEY.{{{",".join(suffixes)}}}' for suffixes in record.SUFFIXES.values())
      begins = tar_index.held(paths[0])
      raise UserError(f'no images, videos or sounds in {what}: a record needs a member {needs}; the shard begins with {begins}')
    suffixes = sorted({suffix.decode(errors='replace') for shard in shards for suffix in shard['suffixes']})
    for name in fields:
      if name not in suffixes:
        raise UserError(f'no record of {what} has a member .{name}, which ?fields= asks for.{suggest(name, suffixes)}')
    self._key = np.concatenate([shard['key'] for shard in shards])
    found = [_parts(shard, fields) for shard in shards]
    self._suffix = np.concatenate([suffix for _, suffix in found])
    spans = {part: np.concatenate([spans[part] for spans, _ in found]) for part in found[0][0]}
    spans = {part: span for part, span in spans.items() if (span[:, 1] >= 0).any()}
    self._parts, self._spans = tuple(spans), np.stack(list(spans.values()), 1)  # [N, part, (offset, size)]
    label = np.concatenate([shard['label'] for shard in shards])
    self.classes: tuple[str, ...] = ()
    if field:
      label, self.classes = _classes(label)
    self._label = label.astype(np.int64)
    self.num_classes = len(self.classes) or int(self._label.max()) + 1

  def __len__(self) -> int:
    return int(self._stops[-1])

  def labels(self) -> np.ndarray:
    return self._label

  def read(self, i: int) -> dict[str, Any]:
    spans = {part: (int(span[0]), int(span[1])) for part, span in zip(self._parts, self._spans[i], strict=True) if span[1] >= 0}
    parts = dict(zip(spans, files.read(self._paths[self._shard(i)], list(spans.values())), strict=True))
    found: dict[str, Any] = {k: data for k, data in parts.items() if k in record.SUFFIXES or k in self._fields}
    if self._label[i] >= 0:
      found['label'] = int(self._label[i])
    text = _text(parts.get('txt'), parts.get('json'))
    return found if text is None else found | {'text': text}

  def where(self, i: int) -> str:
    return f'{self._paths[self._shard(i)]}::{self._key[i].decode(errors="replace")}.{self._suffix[i].decode(errors="replace")}'

  def _shard(self, i):
    return int(np.searchsorted(self._stops, i, side='right'))


def _parts(shard, fields):
  """{part: [N, 2] (offset, size)} (size -1: none) of what may be read, and the suffix `[N]` that stands for each record."""
  n, names = len(shard['key']), [suffix.decode(errors='surrogateescape') for suffix in shard['suffixes']]
  # ORDER MATTERS: a record goes by the name of its image, else of its video, else of its audio.
  wanted = {medium: [s for s, name in enumerate(names) if record.medium_of_suffix(name) == medium] for medium in record.SUFFIXES}
  wanted |= {part: [s for s, name in enumerate(names) if name == part] for part in ('txt', 'json', *fields)}
  spans = {part: np.tile(np.array([0, -1], np.int64), (n, 1)) for part in wanted}
  stands = np.full(n, -1)
  for part, suffixes in wanted.items():
    members = np.flatnonzero(np.isin(shard['suffix'], suffixes))
    records, first = np.unique(shard['record'][members], return_index=True)  # of several images the first in the shard
    spans[part][records] = shard['span'][members[first]]
    if part in record.SUFFIXES:
      stands[records] = np.where(stands[records] < 0, shard['suffix'][members[first]], stands[records])
  return spans, shard['suffixes'][stands]


def _text(txt, data):
  fields = tar_index.parse(data)
  captions = fields.get('captions')
  captions = [caption for caption in captions if isinstance(caption, str)] if isinstance(captions, list) else []
  if captions:
    return captions
  if txt is not None:
    return txt.decode('utf-8-sig', errors='replace')
  return next((fields[key] for key in ('caption', 'text') if isinstance(fields.get(key), str)), None)


def _classes(values):
  """[N] of JSON texts -> labels `[N]` and class names."""
  values = [json.loads(value) for value in values]
  if all(type(value) is int and 0 <= value <= tar_index.MAX_LABEL for value in values):
    return np.array(values), ()
  names, label = np.unique([str(value) for value in values], return_inverse=True)
  return label, tuple(str(name) for name in names)
