"""Where records come from, named by a URI: `SCHEME:REST[?OPTION=VALUE][@SPLIT]`. A source is random access, picklable and safe in
threads.

A scheme is a module of `sslax.data.schemes`. A class of yours needs none: `my_sources.py:Circles:REST@SPLIT` or
`package.module:Circles:REST@SPLIT` calls it with (REST, SPLIT), and it is a `Container`.
"""

import importlib
import inspect
import operator
import os
import pkgutil
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from sslax import spec
from sslax.data import files, schemes
from sslax.errors import UserError, suggest

_OUTSIDE = re.compile(r'(?P<target>([^:]+\.py|[A-Za-z_]\w*(\.[A-Za-z_]\w*)+):[A-Za-z_]\w*)(:|(?=[@?]|\Z))')
_SPLIT = re.compile(r'@(?P<name>[A-Za-z]\w*)?(\[(?P<start>[^\[\]:]*):(?P<stop>[^\[\]:]*)\])?$')
_OPTIONS = re.compile(r'\?([A-Za-z]\w*=[^@?]+)')
_NEXT_OPTION = re.compile(r'&(?=[A-Za-z]\w*=)')
_BOUND = re.compile(r'(-?\d{1,15}(?:\.\d{1,15})?)%|(-?\d{1,15})')  # 15: no float is infinite, no int refuses


class Source(Protocol):
  """Records by number. What a record may hold: see `sslax.data.record`; one that cannot be read raises OSError or ValueError."""

  name: str  # the URI that it was opened from
  classes: tuple[str, ...]  # () where there are no labels or their names are unknown
  num_classes: int  # 0 where there are no labels

  def __len__(self) -> int: ...

  def __getitem__(self, i: int) -> dict[str, Any]: ...

  def where(self, i: int) -> str:
    """The place of record i for a human: a path, 'shard.tar::key.jpg', 'x.parquet row 17'."""


class Container(Protocol):
  """What a scheme opens: all records of REST and SPLIT, of which a source shows a range. Used from several threads at once.

  The same URI gives the same records in the same order, in each run and on each machine. A class of yours may take options, too:
  a keyword-only argument `size` is `?size=...` in the URI, and comes as text. In a worker process it is opened anew.
  """

  @property
  def classes(self) -> Sequence[str]:
    """Names of the classes, () where there are none."""

  @property
  def num_classes(self) -> int:
    """Labels are below it; 0 where there are none."""

  def __len__(self) -> int: ...

  def read(self, i: int) -> dict[str, Any]:
    """Record i, 0 <= i < len; see `Source`. `label` may be left out where this record has none."""

  def where(self, i: int) -> str:
    """The place of record i for a human; reads nothing."""

  # def labels(self) -> np.ndarray: [N] ints, -1: none. Optional: without it, a balanced part reads every record.


def open_source(uri: str) -> Source:
  """Opens what a URI names; nothing is read but lists, headers and labels.

  SPLIT is `name`, `name[a:b]` or `[a:b]`; a and b count records, or are percents of them (rounded to the nearest record, as in
  TFDS), and may be negative: `digits:@train[:10%]`, `tar:/data/{00..31}.tar@[-500:]`. A range is contiguous in the order of the
  source, which is the same on each machine and in each run.

  `name[n:balanced]` takes as many records of one class as of another, together about n (a count or a percent; at least one of
  each class): `tfds:cifar10@train[1%:balanced]`. They are drawn once for all; a smaller n draws a part of what a larger one does.

  Options stand before or after the split: `tar:/data/*.tar?label=color&fields=npy@[:90%]`.

  Args:
    uri: see `forms`; `gs://` paths work for folder, frames, parquet, tar and text.

  Raises:
    UserError: no such scheme, option, file, split, or nothing usable in it.
  """
  if '\0' in uri:
    raise UserError(f'{uri!r} holds a zero byte, which no path can')
  scheme, colon, rest = uri.partition(':')
  outside = None if colon and scheme in names() else _OUTSIDE.match(uri)
  if outside:
    scheme, rest = outside['target'], uri[outside.end() :]
  elif not colon or scheme not in names():
    raise UserError(_bad_scheme(uri, scheme))
  try:
    open_container = _outside(scheme, uri) if outside else _module(scheme).open_container
    rest, options = _take_options(rest, _options(open_container), scheme, uri)
    split = _find_split(rest)
    name, start, stop = (split['name'] or '', split['start'], split['stop']) if split else ('', None, None)
    rest = rest[: split.start()] if split else rest
    container = open_container(rest, name, **options)
  except UserError:
    raise
  except Exception as error:  # no permission, a disk that fails; and each remote file system has exceptions of its own
    if not isinstance(error, (OSError, ImportError)) and not files.is_remote(rest):
      raise
    raise UserError(f'cannot open {uri!r}: {type(error).__name__}: {" ".join(str(error).split())[:300]}') from error
  view, n = _OutsideView if outside else _View, len(container)
  if (stop or '').strip() == 'balanced':
    return view(container, uri, _balanced(container, start, uri))
  first, last = _bound(start, n, 0, uri), _bound(stop, n, n, uri)
  if first >= last:
    raise UserError(f'{uri!r} selects no record: the range is {first} to {last} of {n}')
  return view(container, uri, range(first, last))


def names() -> list[str]:
  """Of all schemes."""
  return sorted(module.name for module in pkgutil.iter_modules(schemes.__path__))


def forms() -> list[str]:
  """How the URIs of each scheme look, a line each."""
  return [_module(scheme).FORM for scheme in names()]


class _View:
  """Some records of a container, by their numbers there: the one place that checks an index."""

  def __init__(self, container, name, numbers):
    self.name, self.classes, self.num_classes = name, tuple(container.classes), container.num_classes
    self._container, self._numbers = container, numbers

  def __len__(self):
    return len(self._numbers)

  def __getitem__(self, i):
    record = self._container.read(self._index(i))
    return record | {'label': record.get('label', -1)} if self.num_classes else record

  def where(self, i):
    return self._container.where(self._index(i))

  def __repr__(self):
    return f'{self.name} ({len(self)} records, {self.num_classes} classes)'

  def _index(self, i):
    i = operator.index(i)
    if not 0 <= i < len(self):
      raise IndexError(f'record {i} of {len(self)} in {self.name}')
    return int(self._numbers[i])


class _OutsideView(_View):
  """Of a class that stands in a file, which no other process can import by name; nor need it know how to be pickled."""

  def __reduce__(self):
    return open_source, (self.name,)


def _module(scheme):
  return importlib.import_module(f'{schemes.__name__}.{scheme}')


def _outside(target: str, uri: str) -> Callable[..., Container]:
  """A class from outside the package; refuses what is no container."""
  name = os.path.expanduser(target)
  try:
    make = spec.find(name)
  except UserError as error:
    raise UserError(f'{uri!r}: {str(error).removeprefix(f"config.make={name!r}: ")}') from error
  if not callable(make):
    raise UserError(f'{uri!r}: {target} is no class')

  def open_container(rest, split, **options):
    try:
      container = make(rest, split, **options)
    except (TypeError, ValueError) as error:
      raise UserError(f'{uri!r}: {target} refused ({rest!r}, {split!r}): {" ".join(str(error).split())[:300]}') from error
    lacks = [name for name in ('__len__', 'read', 'where', 'classes', 'num_classes') if not hasattr(container, name)]
    if lacks:
      raise UserError(f'{uri!r}: {target} is no container: it lacks {", ".join(lacks)}; see sslax.data.sources.Container')
    return container

  opens: Any = open_container
  opens.__signature__ = _signature(make)
  return opens


def _signature(make):
  try:
    return inspect.signature(make)
  except (TypeError, ValueError):  # some of those that are written in C
    return inspect.Signature()


def _options(open_container):
  return [p.name for p in inspect.signature(open_container).parameters.values() if p.kind is p.KEYWORD_ONLY]


def _take_options(rest, known, scheme, uri):
  """What is left of `rest` without its `?name=value&name=value`, and these."""
  options = {}
  for found in _OPTIONS.finditer(rest):
    items = [item.partition('=')[::2] for item in _NEXT_OPTION.split(found[1])]
    unknown = next((name for name, _ in items if name not in known), None)
    if unknown is not None:
      if files.matches(os.path.expanduser(_SPLIT.sub('', rest))):  # a path may hold a ? and a =
        continue
      takes = suggest(unknown, known) if known else ' It takes none.'
      raise UserError(f'{uri!r}: {scheme}: takes no option {unknown!r}.{takes}')
    for name, value in items:
      if not value or name in options:
        raise UserError(f'{uri!r}: the option {name!r} {"is given twice" if value else "has no value"}')
      options[name] = value
    rest = rest.replace(found[0], '', 1)
  return rest, options


def _find_split(rest):
  found = _SPLIT.search(rest)
  if not found or found[0] == '@' or (found.start() and files.exists(os.path.expanduser(rest))):  # a path may hold an @
    return None
  return found


def _balanced(container, text, uri):
  """[M] record numbers, ascending: the same number of each class that occurs; `text` says how many in all."""
  labels = _labels(container) if container.num_classes else np.array([], np.int64)
  of_class = {int(c): np.flatnonzero(labels == c) for c in np.unique(labels[labels >= 0])}
  if not of_class:
    raise UserError(f'{uri!r}: a balanced part needs labels, and there are none')
  wanted = _bound(text, sum(map(len, of_class.values())), 0, uri)
  if not text.strip() or float(text.strip().rstrip('%')) <= 0:
    raise UserError(f'{text!r} in {uri!r}: write how many records in all, as in [100:balanced], or a percent, [1%:balanced]')
  each = max(1, round(wanted / len(of_class)))
  c, smallest = min(((c, len(numbers)) for c, numbers in of_class.items()), key=lambda pair: pair[1])
  if each > smallest:
    name = container.classes[c] if container.classes else c
    raise UserError(
      f'{uri!r} asks for {each} of each class, and class {name!r} has {smallest}: at most {smallest * len(of_class)} in all'
    )
  # A permutation of each class, of which the first are taken: shares of 1 % and 10 % are nested.
  drawn = [np.random.default_rng([0, c]).permutation(numbers)[:each] for c, numbers in of_class.items()]
  return np.sort(np.concatenate(drawn))


def _labels(container):
  """[N] int64, -1 where a record has none. A container without `labels()` is read through, but no image is decoded."""
  if hasattr(container, 'labels'):
    return np.asarray(container.labels(), np.int64)

  def label(i):
    try:
      return container.read(i).get('label', -1)
    except (OSError, ValueError):  # a bad record belongs to no class
      return -1

  return np.array([label(i) for i in range(len(container))], np.int64)


def _bound(text, n, default, uri):
  """'10%', '-5%', '100', '' -> a record number in [0, n]."""
  text = (text or '').strip()
  if not text:
    return default
  found = _BOUND.fullmatch(text)
  if not found:
    raise UserError(
      f'{text!r} in {uri!r} is no bound: write a count (100, -100) or a percent (10%, -5%); [1%:balanced] for a balanced part'
    )
  percent, count = found.groups()
  at = round(float(percent) * n / 100) if percent else int(count)
  if abs(at) > n:
    raise UserError(f'{text!r} in {uri!r} is beyond the {n} records that there are')
  return at + n if text.startswith('-') else at


def _bad_scheme(uri, scheme):
  path = os.path.expanduser(uri)
  if '://' in uri:
    hint = f' Put the container before it: folder:{uri}, parquet:{uri}, tar:{uri}.'
  elif os.path.isdir(path):
    hint = f' It is a folder; if it holds images: folder:{uri}'
  elif near := [name for name in names() if _module(name).SUFFIX and uri.endswith(_module(name).SUFFIX)]:
    hint = f' Did you mean {near[0]}:{uri}?'
  elif scheme.endswith('.py'):
    hint = f' Name a class in that file: {scheme}:NAME:REST'
  else:
    hint = suggest(scheme, names())
  lines = '\n  '.join([*forms(), 'FILE.py:NAME:REST  or  PACKAGE.MODULE:NAME:REST  (a class of yours)'])
  return (
    f'{uri!r} does not begin with a known scheme.{hint}\nA source is one of\n  {lines}\neach followed by @SPLIT where wanted.'
  )
