"""A comparison that takes seconds: two temperatures of the tiny run. --config=tests/comparison/tiny_compare.py"""

import pathlib

import ml_collections

from sslax.evals.knn import KNN
from sslax.models.resnet import ResNet
from sslax.spec import spec

TINY = pathlib.Path(__file__).resolve().parents[1] / 'run' / 'tiny_config.py'


def get_config(preset=''):
  return ml_collections.ConfigDict(
    dict(
      methods=(f'cold={TINY}', f'warm={TINY} method.temperature=0.5'),
      seeds=(0,),
      probes=('knn',),
      shared=dict(
        data=dict(train='digits:@train[:320]', test='digits:@test[:100]'),
        batch_size=32,
        num_epochs=0.0,
        num_steps=40,
        encoder=spec(ResNet, depth=18, stem='cifar', stages=(1, 1), base=4),
        eval=dict(probes=dict(knn=spec(KNN, k=20))),
        online=dict(every_steps=20),
        checkpoint=dict(every_steps=100),
      ),
    )
  )
