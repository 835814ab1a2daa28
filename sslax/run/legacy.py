"""Configs of earlier versions: what their keys are called now. Flags of that time work, and runs go on.

Until 2026-11 (commit 1ba14ae) what is made of an image or a caption stood under `data`, the settings of probes under `eval`, each
method had a field `microbatches`, and there was one optimizer class with a `name`.
"""

from collections.abc import Iterator
from typing import Any

from sslax.run.optim import legacy as optim

IMAGE, TEXT = 'sslax.inputs.image:Image', 'sslax.inputs.text:Text'  # nodes that the keys below belong to, wherever they are
OF_INPUTS = {
  'data.image_size': (IMAGE, 'size'),
  'data.eval_resize': (IMAGE, 'resize'),
  'data.crop_on': (IMAGE, 'crop_on'),
  'data.max_pixels': (IMAGE, 'max_pixels'),
  'data.text': (TEXT, 'tokenizer'),
  'data.text_length': (TEXT, 'length'),
  'data.vocab': (TEXT, 'vocab'),
}
KNN, ZEROSHOT = 'sslax.evals.knn:KNN', 'sslax.evals.zeroshot:ZeroShot'
OF_PROBES = {
  'eval.knn_k': ('knn', KNN, 'k'),
  'eval.knn_temperature': ('knn', KNN, 'temperature'),
  'eval.templates': ('zeroshot', ZEROSHOT, 'templates'),
  'eval.class_names': ('zeroshot', ZEROSHOT, 'class_names'),
}
FIELDS = {  # of methods that had image and caption under `data`: name of the input's node, and the fields that tell such a method
  IMAGE: ('image', ('augment',)),
  TEXT: ('caption', ('augment', 'text')),
}


def where_it_went(key: str) -> str:
  """'config.method.image.size' for 'data.image_size'; '' for a key that was not renamed."""
  if key in OF_INPUTS:
    make, field = OF_INPUTS[key]
    return f'config.method.{FIELDS[make][0]}.{field}'
  if key in OF_PROBES:
    probe, _, field = OF_PROBES[key]
    return f'config.eval.probes.{probe}.{field}'
  if key in optim.RENAMED:
    return f'config.{optim.RENAMED[key]}'
  return ''


def gone(key: str) -> str:
  """What to write instead of a key that has no successor; '' for all others."""
  return optim.GONE.get(key, '')


def new_keys(key: str, config: Any) -> list[str]:
  """What an override of `key` sets in this config: the same key, or for an old one what took its place."""
  if key in OF_INPUTS:
    make, field = OF_INPUTS[key]
    return [f'{path}.{field}' for path in _nodes(config, make)]
  return [where_it_went(key).removeprefix('config.')] if where_it_went(key) else [key]


def upgrade(saved: dict[str, Any]) -> dict[str, Any]:
  """A config of any version as this one writes it; dicts and tuples, as from JSON. One of this version comes back as it is."""
  data, evaluation = dict(saved.get('data', {})), dict(saved.get('eval', {}))
  inputs: dict[str, dict[str, Any]] = {IMAGE: {}, TEXT: {}}
  for key, (make, field) in OF_INPUTS.items():
    if (name := key.removeprefix('data.')) in data:
      inputs[make][field] = data.pop(name)
  probes = dict(evaluation.get('probes', {}))
  for key, (probe, make, field) in OF_PROBES.items():
    if (name := key.removeprefix('eval.')) in evaluation:
      probes[probe] = {'make': make, **probes.get(probe, {}), field: evaluation.pop(name)}
  new = dict(saved)
  if 'data' in saved:
    new['data'] = data
  if 'eval' in saved:
    new['eval'] = {**evaluation, 'probes': probes}
  if 'method' in saved:
    new['method'] = _method(saved['method'], inputs)
  if 'optim' in saved:
    new['optim'] = optim.upgrade(saved['optim']) if saved['optim'].get('make') == optim.MAKE else saved['optim']
  return new


def _method(node: Any, inputs: dict[str, dict[str, Any]]) -> Any:
  """A method's node and those of methods inside it: without microbatches, with what its inputs had under `data`."""
  if not isinstance(node, dict):
    return node
  new = {key: _method(value, inputs) if key == 'inner' else value for key, value in node.items() if key != 'microbatches'}
  for make, (field, tell) in FIELDS.items():
    values = inputs[make]
    if values and field not in new and all(name in new for name in tell) and values.get('tokenizer', True):
      new[field] = {'make': make, **values}
      if values.get('size', 0) == _size_of_views(new['augment']):
        new[field]['size'] = 0  # what it says today where it is that of the views
  return new


def _size_of_views(augment: Any) -> int:
  """Of the first, in pixels."""
  while hasattr(augment, 'keys') and 'size' not in augment:
    augment = augment.get('large', augment.get('first'))
  return augment['size'] if hasattr(augment, 'keys') else -1


def _nodes(config: Any, make: str, prefix: str = '') -> Iterator[str]:
  """Paths of the nodes that make this."""
  for key, value in config.items():
    if hasattr(value, 'items'):
      if value.get('make') == make:
        yield f'{prefix}{key}'
      yield from _nodes(value, make, f'{prefix}{key}.')
