"""A third party's input in one file, outside the package: lists of circles, [y, x, radius] each.

config.method.input = spec(CircleList): a batch has 'circles' [rows, 3] float32 of the field `circles` of a record.
"""

import dataclasses

import jax
import numpy as np

from sslax.errors import BadRecord
from sslax.method import Input


@dataclasses.dataclass(frozen=True)
class CircleList(Input):
  """At most `rows` circles of a picture, zeros where it has fewer; in training in a random order."""

  rows: int = 3
  baseline_name = 'sorted circles'

  def shapes(self):
    return {'circles': jax.ShapeDtypeStruct((self.rows, 3), np.float32)}

  def decode(self, record):
    if 'circles' not in record:
      raise BadRecord(f'no circles: the record has {", ".join(record)}')
    return np.float32(record['circles'])

  def draw(self, decoded, rng):
    order = np.arange(len(decoded)) if rng is None else rng.permutation(len(decoded))
    found = decoded[order][: self.rows]
    return {'circles': np.pad(found, ((0, self.rows - len(found)), (0, 0)))}

  def kept_bytes(self):
    return 12 * self.rows

  def describe(self, records):
    return f'pictures of {min(len(r["circles"]) for r in records)} to {max(len(r["circles"]) for r in records)} circles'

  def baseline(self, arrays):
    return np.sort(arrays['circles'], axis=1).reshape(len(arrays['circles']), -1)

  def show(self, arrays):
    return ['; '.join(f'r {radius:.2f} at {y:.2f}, {x:.2f}' for y, x, radius in row if radius) for row in arrays['circles']]
