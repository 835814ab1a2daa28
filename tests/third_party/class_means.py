"""A third party's probe in one file, outside the package.

python -m sslax.evaluate --workdir=W --probes=class_means.py:ClassMeans
"""

import dataclasses

import numpy as np

from sslax.evals.probe import Figure, Probe, Score


@dataclasses.dataclass(frozen=True)
class ClassMeans(Probe):
  """Accuracy of the nearest mean of a class, by Lp distance."""

  p: float = 2.0

  def run(self, store, data):
    train, test = store.labelled(data.train), store.labelled(data.test)
    means = np.stack([train.values[train.label == c].mean(0) for c in range(data.num_classes)])
    distance = np.linalg.norm(test.values[:, None] - means[None], ord=self.p, axis=-1)
    found = (distance.argmin(1) == test.label).mean()
    yield Score('top1', float(found), 'class means', chance=1 / data.num_classes, details={'p': self.p})

  def figures(self, store, data, found):
    lines = [f'{name}: {scores[0].value:.3f}' for name, scores in found.items()]
    texts = ''.join(f'<text y="{12 * i + 12}">{line}</text>' for i, line in enumerate(lines))
    return [Figure('Class means', f'<svg xmlns="http://www.w3.org/2000/svg" width="300" height="50">{texts}</svg>', 'svg')]
