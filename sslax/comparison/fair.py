"""What must be the same in all runs, or the table would compare something else than methods."""

import json
from collections.abc import Mapping
from typing import Any

import ml_collections

from sslax.comparison.shared import is_node, of_method
from sslax.errors import UserError
from sslax.evals.probe import Probe
from sslax.method import Method
from sslax.run import config as configs

# A comparison is fair when these do not differ, whether `shared` sets them or all presets agree.
FAIR = ('data.train', 'data.test', 'batch_size', 'num_epochs', 'num_steps')


def unfair(
  resolved: Mapping[str, ml_collections.ConfigDict],
  seen: Mapping[str, Mapping[str, str]],
  probes: Mapping[str, Mapping[str, Probe]],
) -> list[str]:
  """What is not the same in all runs, a line each.

  Args:
    resolved: {name: config of its run}.
    seen: {name: `seen_by_probes` of its method}.
    probes: {name: the probes with the settings of its run, by their names}.
  """
  values = {key: {name: repr(configs.get(config, key)) for name, config in resolved.items()} for key in FAIR}
  for probe in dict.fromkeys(probe for each in probes.values() for probe in each):
    values[f'eval.probes.{probe}'] = {name: repr(each[probe]) for name, each in probes.items()}
  values['encoder'] = {name: ', '.join(sorted({*_encoders(config.method)})) for name, config in resolved.items()}
  wrong = [f'{key} differs, so the methods cannot be compared: set config.shared.{key}. {_told(found)}'
           for key, found in values.items() if len({*found.values()}) > 1]  # fmt: skip
  inputs = {name: ', '.join(f'{key}: {what}' for key, what in value.items()) for name, value in seen.items()}
  if len({*inputs.values()}) > 1:
    wrong.append(
      'what probes see differs, so the methods cannot be compared: name one node for all, as config.shared.image=spec(Image, '
      f'size=32) does. {_told(inputs)}'
    )
  return wrong


def seen_by_probes(method: Method) -> dict[str, str]:
  """{name: what it is in evaluation} of the inputs that the method's pooled features are made from.

  Raises:
    UserError: the method does not say.
  """
  try:
    inputs = method.inputs()
    return {name: repr(inputs[name].evaluation()) for name in method.feature_inputs('pooled')}
  except UserError:
    raise
  except Exception as error:  # a method of the user's
    raise UserError(f'{type(method).__name__}.inputs: {type(error).__name__}: {error}') from error


def _told(found):
  return '; '.join(f'{name}: {value[:200]}' for name, value in found.items())


def _encoders(node: Any) -> list[str]:
  """The encoders of a method as JSON, without what belongs to the method."""
  if isinstance(node, (tuple, list)):
    return [e for item in node for e in _encoders(item)]
  if not isinstance(node, ml_collections.ConfigDict):
    return []
  here = []
  if is_node(node.get('encoder')):
    own = of_method(node.encoder)
    here = [json.dumps({k: v for k, v in node.encoder.to_dict().items() if k not in own}, sort_keys=True)]
  return here + [e for key, value in node.items() if key != 'encoder' for e in _encoders(value)]
